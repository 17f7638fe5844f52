// A whole layer against the double oracle, for every scheme: almost all rows agree to f32 rounding,
// and those that do not differ by the few codes that lie within rounding of a tie.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "rrs/reference/linear.hpp"
#include "support/each_isa.hpp"
#include "support/layer.hpp"
#include "support/shapes.hpp"

namespace {

using rrs_test::LayerData;

struct RowErrors {
  int exact = 0;  // rows within f32 rounding
  int rows = 0;
  double worst = 0.0;
};

RowErrors compare_rows(const std::vector<float>& y, const std::vector<double>& expected,
                       std::int64_t m, std::int64_t n) {
  RowErrors e;
  for (std::int64_t t = 0; t < m; ++t) {
    double difference = 0.0, norm = 0.0;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(t * n + i);
      const double d = static_cast<double>(y[at]) - expected[at];
      difference += d * d;
      norm += expected[at] * expected[at];
    }
    // A row whose codes are all 0 is exactly 0 on both sides.
    const double error = difference == 0.0 ? 0.0 : std::sqrt(difference / norm);
    e.exact += error < 2e-6 ? 1 : 0;
    e.rows += 1;
    if (!(error <= e.worst)) e.worst = error;  // NaN sticks
  }
  return e;
}

// Both permutations, the divisor and frozen scales, at every level, against the oracle.
TEST(Reference, ChannelsAgreeAtEveryLevel) {
  const LayerData d = rrs_test::make_layer(20, 18, 160, 5);
  std::vector<std::int32_t> first(160), second(160);
  std::vector<float> divisor(160), frozen(160);
  for (std::size_t i = 0; i < 160; ++i) {
    first[i] = static_cast<std::int32_t>((i * 57 + 3) % 160);
    second[i] = static_cast<std::int32_t>((i * 91 + 40) % 160);
    divisor[i] = i % 37 == 5 ? 11.0f : 0.7f;
    frozen[i] = 1.5f + static_cast<float>(i % 5);
  }
  int cases = 0;
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    for (const bool freeze : {false, true}) {
      rrs::Scheme scheme = named.scheme;
      if (freeze && scheme.activation.exact_reference) continue;
      if (freeze) scheme.activation.window.kind = rrs::WindowKind::kFrozen;
      rrs::LayerChannels channels;
      channels.input_permutation = first.data();
      channels.divisor = divisor.data();
      const bool wide = !freeze && scheme.activation.window.kind != rrs::WindowKind::kOne &&
                        !scheme.activation.exact_reference;
      if (wide) channels.group_permutation = second.data();
      if (freeze) channels.frozen_scales = frozen.data();
      const rrs::PreparedWeight w = rrs_test::prepare(d, scheme, channels);
      const std::vector<double> expected =
          rrs::reference::linear(d.x.data(), d.m, w.view(), scheme, channels);
      for (const rrs::Isa isa : rrs_test::supported_isas()) {
        rrs_test::RunOptions options;
        options.isa = isa;
        options.activation.channels = channels;
        const RowErrors e =
            compare_rows(rrs_test::run_layer(d.X(), w, options), expected, d.m, d.n);
        EXPECT_GE(e.exact, 15) << named.name << " frozen " << freeze;
        EXPECT_LT(e.worst, scheme.activation.bits <= 2 ? 0.5 : 0.05) << named.name;
        ++cases;
      }
    }
  }
  EXPECT_GE(cases, 50 * static_cast<int>(rrs_test::supported_isas().size()));
}

TEST(Reference, EverySchemeAgrees) {
  int schemes = 0;
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    RowErrors total;
    for (const rrs_test::Shape shape : {rrs_test::Shape{40, 24, 256}, {17, 9, 193}, {8, 33, 576}}) {
      const LayerData d = rrs_test::make_layer(shape.m, shape.n, shape.k, 77);
      const rrs::PreparedWeight w = rrs_test::prepare(d, named.scheme);
      const std::vector<std::int64_t> starts = {0, shape.m / 3};
      rrs_test::RunOptions options;
      options.activation.sequence_starts = starts.data();
      options.activation.sequences = 2;
      const std::vector<float> y = rrs_test::run_layer(d.X(), w, options);
      const std::vector<double> expected =
          rrs::reference::linear(d.x.data(), d.m, w.view(), named.scheme, {}, starts);
      const RowErrors e = compare_rows(y, expected, d.m, d.n);
      total.exact += e.exact;
      total.rows += e.rows;
      total.worst = (std::max)(total.worst, e.worst);
      ASSERT_FALSE(std::isnan(e.worst)) << named.name;
    }
    EXPECT_EQ(total.rows, 65);
    EXPECT_GE(total.exact, total.rows * 8 / 10) << named.name;
    // A flipped code moves a row by one step of one input; at 2 bits a step is the whole scale.
    EXPECT_LT(total.worst, named.scheme.activation.bits <= 2 ? 0.5 : 0.05) << named.name;
    ++schemes;
  }
  EXPECT_GE(schemes, 27);
}

}  // namespace
