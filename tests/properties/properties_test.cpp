// Algebra of a layer that holds exactly: powers of two, permuted tokens, zero rows.
#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/layer.hpp"

namespace {

using rrs_test::LayerData;

bool has_floor(const rrs::Scheme& s) { return s.activation.floor > 0.0f; }

// Scaling X by a power of two scales Y exactly (schemes without a floor).
TEST(Properties, PowersOfTwoScaleExactly) {
  int cases = 0;
  const LayerData d = rrs_test::make_layer(11, 20, 160, 3);
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    if (has_floor(named.scheme)) continue;
    const rrs::PreparedWeight w = rrs_test::prepare(d, named.scheme);
    rrs_test::each_isa([&](const rrs::KernelTable&) {
      const std::vector<float> y = rrs_test::run_layer(d.X(), w);
      for (const float factor : {0.25f, 1024.0f}) {
        std::vector<float> x = d.x, expected = y;
        for (float& v : x) v *= factor;
        for (float& v : expected) v *= factor;
        ASSERT_TRUE(rrs_test::bits_equal(rrs_test::run_layer({x.data(), d.m, d.k}, w), expected))
            << named.name << " times " << factor;
        ++cases;
      }
    });
  }
  std::printf("%d layers\n", cases);
  EXPECT_GE(cases, 50 * static_cast<int>(rrs_test::supported_isas().size()));
}

// Reversing the tokens reverses the rows of Y: also in a whole window, whose maxima have no order.
TEST(Properties, ReversedTokensReverseTheRows) {
  int cases = 0;
  const LayerData d = rrs_test::make_layer(23, 20, 160, 4);
  std::vector<float> reversed;
  for (std::int64_t t = d.m - 1; t >= 0; --t) {
    reversed.insert(reversed.end(), d.x.begin() + t * d.k, d.x.begin() + (t + 1) * d.k);
  }
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    if (named.scheme.activation.window.kind == rrs::WindowKind::kRows) continue;
    const rrs::PreparedWeight w = rrs_test::prepare(d, named.scheme);
    const std::vector<float> y = rrs_test::run_layer(d.X(), w);
    const std::vector<float> z = rrs_test::run_layer({reversed.data(), d.m, d.k}, w);
    for (std::int64_t t = 0; t < d.m; ++t) {
      ASSERT_TRUE(rrs_test::bits_equal(y.data() + t * d.n, z.data() + (d.m - 1 - t) * d.n, 20))
          << named.name << " row " << t;
    }
    ++cases;
  }
  std::printf("%d layers\n", cases);
  EXPECT_GE(cases, 25);
}

}  // namespace
