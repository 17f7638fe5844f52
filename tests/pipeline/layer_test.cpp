// A whole layer gives the same f32 bits on every level, with any executor, fused or in stages, for
// one row or many, for two sequences in one call or two.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/layer.hpp"
#include "support/shapes.hpp"
#include "support/thread_executor.hpp"

namespace {

using rrs_test::bits_equal;
using rrs_test::LayerData;
using rrs_test::make_layer;
using rrs_test::NamedScheme;
using rrs_test::prepare;
using rrs_test::run_layer;
using rrs_test::RunOptions;

// Shapes whose product is small enough to try with every scheme at every level; a few of them when
// RRS_TEST_QUICK is set (an emulated CPU is some hundred times slower).
std::vector<rrs_test::Shape> layer_shapes() {
  if (std::getenv("RRS_TEST_QUICK") != nullptr) return {{3, 5, 7}, {17, 33, 129}, {9, 20, 256}};
  std::vector<rrs_test::Shape> shapes;
  for (const rrs_test::Shape& s : rrs_test::gemm_shapes()) {
    if (s.m * s.n * s.k <= 300000) shapes.push_back(s);
  }
  shapes.push_back({37, 33, 256});
  shapes.push_back({9, 40, 512});
  return shapes;
}

bool causal(const rrs::Scheme& s) {
  return s.activation.window.kind == rrs::WindowKind::kOne ||
         s.activation.bits == rrs::kActivationFloat;
}

RunOptions at(rrs::Isa isa, bool fused = true) {
  RunOptions options;
  options.isa = isa;
  options.fused = fused;
  return options;
}

TEST(Layer, SameBitsOnEveryLevelFusedOrNot) {
  int cases = 0;
  for (const NamedScheme& named : rrs_test::integer_schemes()) {
    for (const rrs_test::Shape& shape : layer_shapes()) {
      const LayerData d = make_layer(shape.m, shape.n, shape.k, 11);
      const rrs::PreparedWeight w = prepare(d, named.scheme);
      const std::vector<float> expected = run_layer(d.X(), w, at(rrs::Isa::kScalar, false));
      for (const rrs::Isa isa : rrs_test::supported_isas()) {
        for (const bool fused : {false, true}) {
          ASSERT_TRUE(bits_equal(run_layer(d.X(), w, at(isa, fused)), expected))
              << named.name << " " << rrs::kIsaNames[static_cast<int>(isa)] << " fused " << fused
              << " " << shape.m << "x" << shape.n << "x" << shape.k;
          ++cases;
        }
      }
    }
  }
  const std::size_t expected_cases = rrs_test::integer_schemes().size() * layer_shapes().size() *
                                     2 * rrs_test::supported_isas().size();
  EXPECT_EQ(static_cast<std::size_t>(cases), expected_cases);
  EXPECT_GE(rrs_test::integer_schemes().size(), 27u);
  if (std::getenv("RRS_TEST_QUICK") == nullptr) {
    EXPECT_GE(layer_shapes().size(), 25u);
  }
}

TEST(Layer, SameBitsOnAnyNumberOfThreads) {
  int cases = 0;
  for (const NamedScheme& named : rrs_test::integer_schemes()) {
    const LayerData d = make_layer(70, 100, 288, 5);
    const rrs::PreparedWeight w = prepare(d, named.scheme);
    const std::vector<float> expected = run_layer(d.X(), w);
    for (int threads = 1; threads <= 8; ++threads) {
      const rrs_test::ThreadExecutor executor(threads);
      ASSERT_TRUE(bits_equal(run_layer(d.X(), w, {}, executor), expected))
          << named.name << " on " << threads;
      ++cases;
    }
    ASSERT_TRUE(bits_equal(run_layer(d.X(), w, {}, rrs_test::ReverseExecutor{}), expected));
  }
  EXPECT_EQ(static_cast<std::size_t>(cases), rrs_test::integer_schemes().size() * 8);
}

// One call of M rows equals M calls of one row (window one), at every level.
TEST(Layer, BatchInvariantInWindowOne) {
  int rows = 0;
  for (const NamedScheme& named : rrs_test::integer_schemes()) {
    if (!causal(named.scheme)) continue;
    for (const std::int64_t m : {2, 7, 19, 33}) {
      const LayerData d = make_layer(m, 50, 320, 3);
      const rrs::PreparedWeight w = prepare(d, named.scheme);
      for (const rrs::Isa isa : rrs_test::supported_isas()) {
        const std::vector<float> together = run_layer(d.X(), w, at(isa));
        for (std::int64_t t = 0; t < m; ++t) {
          const rrs::MatrixView<const float> row(d.x.data() + t * d.k, 1, d.k);
          const std::vector<float> alone = run_layer(row, w, at(isa));
          ASSERT_TRUE(bits_equal(alone.data(), together.data() + t * d.n, alone.size()))
              << named.name << " row " << t << " of " << m;
          ++rows;
        }
      }
    }
  }
  EXPECT_GE(rows, 61 * 15);
}

TEST(Layer, TwoSequencesInOneCallEqualTwoCalls) {
  int cases = 0;
  for (const NamedScheme& named : rrs_test::integer_schemes()) {
    for (const std::int64_t split : {1, 5, 16, 36}) {
      const LayerData d = make_layer(37, 40, 160, 9);
      const rrs::PreparedWeight w = prepare(d, named.scheme);
      const std::int64_t starts[] = {0, split};
      RunOptions options;
      options.activation.sequence_starts = starts;
      options.activation.sequences = 2;
      const std::vector<float> together = run_layer(d.X(), w, options);
      std::vector<float> apart = run_layer({d.x.data(), split, d.k}, w);
      const std::vector<float> second = run_layer({d.x.data() + split * d.k, 37 - split, d.k}, w);
      apart.insert(apart.end(), second.begin(), second.end());
      ASSERT_TRUE(bits_equal(together, apart)) << named.name << " split at " << split;
      ++cases;
    }
  }
  EXPECT_EQ(static_cast<std::size_t>(cases), rrs_test::integer_schemes().size() * 4);
}

// X as f16 or bf16, at an odd stride, equals the f32 input of the same values.
template <class T>
void expect_same_as_f32(T (*convert)(float)) {
  const LayerData d = make_layer(9, 33, 200, 21);
  const std::int64_t stride = 217;
  std::vector<T> narrow(static_cast<std::size_t>(d.m * stride + 1));
  std::vector<float> exact(static_cast<std::size_t>(d.m * d.k));
  for (std::int64_t t = 0; t < d.m; ++t) {
    for (std::int64_t k = 0; k < d.k; ++k) {
      const auto at = static_cast<std::size_t>(t * d.k + k);
      const T value = convert(d.x[at]);
      narrow[static_cast<std::size_t>(1 + t * stride + k)] = value;
      exact[at] = rrs::to_f32(value);
    }
  }
  for (const NamedScheme& named : rrs_test::integer_schemes()) {
    const rrs::PreparedWeight w = prepare(d, named.scheme);
    const std::vector<float> expected = run_layer({exact.data(), d.m, d.k}, w);
    rrs_test::each_isa([&](const rrs::KernelTable&) {
      std::vector<float> y(expected.size());
      rrs::Workspace ws(rrs::workspace_bytes(d.m, d.k, named.scheme, d.n));
      const rrs::Status status =
          rrs::linear(rrs::MatrixView<const T>(narrow.data() + 1, d.m, d.k, stride), w,
                      rrs::MatrixView<float>(y.data(), d.m, d.n), ws);
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(bits_equal(y, expected)) << named.name;
    });
  }
}

TEST(Layer, F16AndBf16InputsAtAnyStrideEqualF32) {
  expect_same_as_f32<rrs::f16>(&rrs::to_f16);
  expect_same_as_f32<rrs::bf16>(&rrs::to_bf16);
}

// A permutation of the inputs cancels against the weight's: without rotation the codes of each
// group only change places when whole groups move, so the result stays close; with `one` the sum of
// the exact product is permutation invariant, which bounds the difference by the quantization
// error.
TEST(Layer, PermutationsAndDivisorCancel) {
  const LayerData d = make_layer(12, 24, 192, 33);
  std::vector<std::int32_t> permutation(192);
  for (int i = 0; i < 192; ++i) permutation[static_cast<std::size_t>(i)] = (i * 35 + 11) % 192;
  std::vector<float> divisor(192);
  for (int i = 0; i < 192; ++i) divisor[static_cast<std::size_t>(i)] = i % 37 == 5 ? 16.0f : 1.0f;
  rrs::LayerChannels channels;
  channels.input_permutation = permutation.data();
  channels.divisor = divisor.data();
  std::vector<double> exact(static_cast<std::size_t>(d.m * d.n), 0.0);
  for (std::int64_t t = 0; t < d.m; ++t) {
    for (std::int64_t n = 0; n < d.n; ++n) {
      for (std::int64_t k = 0; k < d.k; ++k) {
        exact[static_cast<std::size_t>(t * d.n + n)] +=
            static_cast<double>(d.x[static_cast<std::size_t>(t * d.k + k)]) *
            static_cast<double>(d.w[static_cast<std::size_t>(n * d.k + k)]);
      }
    }
  }
  for (const char* name : {"rrs_w4a8", "rrs_w4a16", "rrs_whole", "rrs", "quarot"}) {
    const rrs::Scheme scheme = *rrs::presets::by_name(name);
    if (scheme.activation.window.kind != rrs::WindowKind::kOne) {
      channels.group_permutation = permutation.data();
    } else {
      channels.group_permutation = nullptr;
    }
    const rrs::PreparedWeight w = prepare(d, scheme, channels);
    RunOptions options;
    options.activation.channels = channels;
    const std::vector<float> y = run_layer(d.X(), w, options);
    const double error = rrs_test::relative_error(y, exact);
    EXPECT_LT(error, 0.35) << name;
    EXPECT_GT(error, 0.005) << name << ": quantization cannot be this good";
  }
}

TEST(Layer, FrozenScalesOfAWholeWindowGiveTheSameOutput) {
  const LayerData d = make_layer(20, 30, 256, 40);
  rrs::Scheme whole = rrs::presets::rrs_whole();
  const rrs::PreparedWeight w = prepare(d, whole);
  const std::vector<float> expected = run_layer(d.X(), w);
  // The scales of the window, read back from a prepared activation.
  rrs::Workspace ws(rrs::workspace_bytes(d.m, d.k, whole));
  rrs::PreparedActivation a;
  ASSERT_TRUE(rrs::smooth_rotate_quantize(d.X(), whole, ws, a).ok());
  std::vector<float> scales;
  for (std::int64_t g = 0; g < a.activation_groups; ++g) scales.push_back(rrs::scale_at(a, 0, g));
  rrs::Scheme frozen = whole;
  frozen.activation.window.kind = rrs::WindowKind::kFrozen;
  const rrs::PreparedWeight wf = prepare(d, frozen);
  RunOptions options;
  options.activation.channels.frozen_scales = scales.data();
  ASSERT_TRUE(bits_equal(run_layer(d.X(), wf, options), expected));
  // and, being causal, the rows one by one give the same again
  for (std::int64_t t = 0; t < d.m; ++t) {
    const std::vector<float> row = run_layer({d.x.data() + t * d.k, 1, d.k}, wf, options);
    ASSERT_TRUE(bits_equal(row.data(), expected.data() + t * d.n, row.size())) << t;
  }
}

}  // namespace
