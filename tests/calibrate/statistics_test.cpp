// calibrate/statistics.hpp, zigzag.hpp, hessian_basis.hpp: sums against plain loops in double, the
// permutation's balance, and a Hessian carried into every basis in which weights are quantized.
#include "rrs/calibrate/statistics.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "rrs/calibrate/hessian_basis.hpp"
#include "rrs/calibrate/zigzag.hpp"
#include "rrs/reference/rotate.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/thread_executor.hpp"

namespace {

using rrs::InputStatistics;
using rrs::MatrixView;

std::vector<double> gram(const std::vector<float>& x, std::int64_t m, std::int64_t k) {
  std::vector<double> h(static_cast<std::size_t>(k * k), 0.0);
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t i = 0; i < k; ++i) {
      for (std::int64_t j = 0; j < k; ++j) {
        h[static_cast<std::size_t>(i * k + j)] +=
            static_cast<double>(x[static_cast<std::size_t>(t * k + i)]) *
            static_cast<double>(x[static_cast<std::size_t>(t * k + j)]);
      }
    }
  }
  return h;
}

TEST(Statistics, AreTheSumsOfTheirDefinition) {
  for (const auto& [m, k] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {7, 5}, {300, 67}, {129, 200}, {5, 193}}) {
    std::vector<float> x = rrs_test::llm_activations(m, k, m / 2, 3);
    for (std::int64_t i = 0; i < k && m > 2; ++i) x[static_cast<std::size_t>(2 * k + i)] = 0.0f;
    InputStatistics s;
    const std::int64_t cut = m / 3;  // two sequences
    ASSERT_TRUE(rrs::update_statistics(MatrixView<const float>(x.data(), cut, k), true, &s).ok());
    ASSERT_TRUE(
        rrs::update_statistics(MatrixView<const float>(x.data() + cut * k, m - cut, k), true, &s)
            .ok());
    EXPECT_EQ(s.tokens, m);
    EXPECT_EQ(s.sequence_starts, (std::vector<std::int64_t>{0, cut}));
    const std::vector<double> expected = gram(x, m, k);
    std::vector<double> magnitudes(expected.size());
    std::vector<float> absolute = x;
    for (float& v : absolute) v = std::fabs(v);
    magnitudes = gram(absolute, m, k);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_LE(std::fabs(s.hessian[i] - expected[i]), 128 * 0x1.01p-24 * magnitudes[i]) << i;
    }
    for (std::int64_t i = 0; i < k; ++i) {
      float most = 0.0f;
      double sum = 0.0, relative = 0.0;
      for (std::int64_t t = 0; t < m; ++t) {
        const float v = absolute[static_cast<std::size_t>(t * k + i)];
        double squares = 0.0;
        for (std::int64_t j = 0; j < k; ++j) {
          const auto y = static_cast<double>(x[static_cast<std::size_t>(t * k + j)]);
          squares += y * y;
        }
        most = std::max(most, v);
        sum += static_cast<double>(v);
        if (squares > 0.0) {
          relative += static_cast<double>(v) / std::sqrt(squares / static_cast<double>(k));
        }
      }
      const auto at = static_cast<std::size_t>(i);
      EXPECT_EQ(s.maxima[at], most);
      EXPECT_NEAR(s.sums[at], sum, 1e-12 * sum);
      EXPECT_NEAR(s.relative[at], relative, 1e-12 * relative);
    }
    for (std::int64_t t = 0; t < m; ++t) {
      const auto row = absolute.begin() + t * k;
      EXPECT_EQ(s.token_maxima[static_cast<std::size_t>(t)], *std::max_element(row, row + k));
    }
  }
}

TEST(Statistics, DoNotDependOnTheExecutor) {
  const std::int64_t m = 260, k = 400;
  const std::vector<float> x = rrs_test::llm_activations(m, k, 3, 5);
  InputStatistics one, many;
  const MatrixView<const float> view(x.data(), m, k);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(rrs::update_statistics(view, true, &one).ok());
    ASSERT_TRUE(rrs::update_statistics(view, true, &many, rrs_test::ThreadExecutor{3}).ok());
  }
  EXPECT_TRUE(rrs_test::bits_equal(one.hessian, many.hessian));
  EXPECT_TRUE(rrs_test::bits_equal(one.relative, many.relative));
  EXPECT_TRUE(rrs_test::bits_equal(one.sums, many.sums));
}

TEST(Statistics, BadInputIsNamedAndChangesNothing) {
  std::vector<float> x = rrs_test::normal_vector(12, 1);
  InputStatistics s;
  ASSERT_TRUE(rrs::update_statistics(MatrixView<const float>(x.data(), 3, 4), true, &s).ok());
  const InputStatistics before = s;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(), 0x1p100f}) {
    x[9] = bad;
    const rrs::Status e = rrs::update_statistics(MatrixView<const float>(x.data(), 3, 4), true, &s);
    EXPECT_FALSE(e.ok());
    EXPECT_EQ(e.value, 2) << e.message();
  }
  x[9] = 0.0f;
  EXPECT_FALSE(rrs::update_statistics(MatrixView<const float>(x.data(), 2, 6), true, &s).ok());
  EXPECT_FALSE(rrs::update_statistics(MatrixView<const float>(x.data(), 3, 4), false, &s).ok());
  EXPECT_FALSE(rrs::update_statistics(MatrixView<const float>(x.data(), 3, 0), true, &s).ok());
  EXPECT_FALSE(rrs::update_statistics(MatrixView<const float>(x.data(), 3, 4), true, nullptr).ok());
  EXPECT_EQ(s.tokens, before.tokens);
  EXPECT_EQ(s.sequence_starts, before.sequence_starts);
  EXPECT_TRUE(rrs_test::bits_equal(s.hessian, before.hessian));
}

// A call without rows has the channels already: a later one with others wrote behind their end.
TEST(Statistics, CallsWithoutRowsBindTheShape) {
  const std::vector<float> x(2 * 4096, 1.0f);
  for (const bool with_hessian : {false, true}) {
    InputStatistics s;
    const MatrixView<const float> none(nullptr, 0, 4), other(x.data(), 2, 4096);
    ASSERT_TRUE(rrs::update_statistics(none, with_hessian, &s).ok());
    const rrs::Status e = rrs::update_statistics(other, with_hessian, &s);
    EXPECT_STREQ(e.argument, "X.cols") << e.message();
    EXPECT_EQ(e.limit, 4);
    const MatrixView<const float> same(x.data(), 2, 4);
    const rrs::Status changed = rrs::update_statistics(same, !with_hessian, &s);
    EXPECT_STREQ(changed.argument, "with_hessian") << changed.message();
    ASSERT_TRUE(rrs::update_statistics(same, with_hessian, &s).ok());
    EXPECT_EQ(s.tokens, 2);
  }
}

TEST(Statistics, MovedFromAndEditedObjectsAreRefused) {
  const std::vector<float> x = rrs_test::normal_vector(12, 1);
  const MatrixView<const float> view(x.data(), 3, 4);
  InputStatistics good;
  ASSERT_TRUE(rrs::update_statistics(view, true, &good).ok());
  const auto refused = [&](const auto& spoil) {
    InputStatistics s = good;
    spoil(s);
    const rrs::Status e = rrs::update_statistics(view, true, &s);
    EXPECT_STREQ(e.argument, "statistics") << e.message();
  };
  refused([](InputStatistics& s) { const InputStatistics taken = std::move(s); });
  refused([](InputStatistics& s) { s.sums.pop_back(); });
  refused([](InputStatistics& s) { s.relative.clear(); });
  refused([](InputStatistics& s) { s.hessian.pop_back(); });
  refused([](InputStatistics& s) { s.token_maxima.pop_back(); });
  refused([](InputStatistics& s) { s.tokens = -1; });
  InputStatistics s;
  const std::int64_t most = INT32_MAX;
  const rrs::Status wide =
      rrs::update_statistics(MatrixView<const float>(nullptr, 0, most + 1), true, &s);
  EXPECT_STREQ(wide.argument, "X.cols");
  EXPECT_EQ(wide.limit, most);
}

TEST(Zigzag, DealsEveryChannelOnceAndBalancesTheBlocks) {
  const std::int64_t k = 96, block = 32;
  std::vector<double> magnitudes;
  for (std::int64_t i = 0; i < k; ++i) magnitudes.push_back(static_cast<double>(i * 37 % 96));
  const auto p = rrs::zigzag_permutation(magnitudes, block);
  ASSERT_TRUE(p.ok());
  std::vector<std::int32_t> sorted = *p;
  std::sort(sorted.begin(), sorted.end());
  for (std::int32_t i = 0; i < k; ++i) EXPECT_EQ(sorted[static_cast<std::size_t>(i)], i);
  // Magnitudes 95, 94, 93 | 92, 91, 90 | ...: block 0 gets 95, 90, 89, 84, ...
  const auto at = [&](std::size_t i) { return magnitudes[static_cast<std::size_t>((*p)[i])]; };
  EXPECT_EQ(at(0), 95.0);
  EXPECT_EQ(at(1), 90.0);
  EXPECT_EQ(at(2), 89.0);
  EXPECT_EQ(at(32), 94.0);
  EXPECT_EQ(at(33), 91.0);
  EXPECT_EQ(at(64), 93.0);
  EXPECT_EQ(at(65), 92.0);
  double sums[3] = {};
  for (std::size_t i = 0; i < 96; ++i) sums[i / 32] += at(i);
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(sums[1], sums[2]);
  EXPECT_EQ(*rrs::zigzag_permutation({1.0, 1.0, 1.0, 1.0}, 2),
            (std::vector<std::int32_t>{0, 3, 1, 2}));  // ties by index
  EXPECT_FALSE(rrs::zigzag_permutation(magnitudes, 64).ok());
  EXPECT_FALSE(rrs::zigzag_permutation(magnitudes, 0).ok());
  magnitudes[7] = std::nan("");
  EXPECT_FALSE(rrs::zigzag_permutation(magnitudes, block).ok());
}

// B^T M B from the definition: B's columns are what the reference does to unit vectors.
std::vector<double> dense_basis(const rrs::Scheme& scheme, const rrs::LayerChannels& c,
                                std::int64_t k) {
  std::vector<float> signs;
  for (std::int64_t i = 0; i < k; ++i) {
    signs.push_back(rrs::detail::random_sign(scheme.rotation.sign_seed, i));
  }
  std::vector<double> b(static_cast<std::size_t>(k * k));
  for (std::int64_t r = 0; r < k; ++r) {  // the row vector e_r B
    std::vector<double> x(static_cast<std::size_t>(k), 0.0);
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t from = c.input_permutation == nullptr ? i : c.input_permutation[i];
      if (from != r) continue;
      const double by = c.divisor == nullptr ? 1.0 : static_cast<double>(c.divisor[r]);
      x[static_cast<std::size_t>(i)] = 1.0 / by;
    }
    rrs::reference::rotate_row(scheme.rotation,
                               scheme.rotation.random_signs ? signs.data() : nullptr, k, x.data());
    std::copy(x.begin(), x.end(), b.begin() + r * k);
  }
  return b;
}

TEST(HessianBasis, IsTheDefinitionInEveryBasis) {
  int cases = 0;
  for (const std::int64_t k :
       {std::int64_t{32}, std::int64_t{36}, std::int64_t{48}, std::int64_t{77}}) {
    const auto n = static_cast<std::size_t>(k);
    const std::vector<float> values = rrs_test::normal_vector(k * k, 7);
    std::vector<double> general(n * n);
    for (std::size_t i = 0; i < n * n; ++i) general[i] = static_cast<double>(values[i]);
    std::vector<double> symmetric = gram(values, k, k);
    std::vector<std::int32_t> permutation;
    std::vector<float> divisor;
    for (std::int64_t i = 0; i < k; ++i) {
      permutation.push_back(static_cast<std::int32_t>((i * 5 + 3) % k));
      divisor.push_back(0.5f + static_cast<float>(i % 7));
    }
    if (k % 5 == 0) continue;
    for (const rrs::RotationKind kind :
         {rrs::RotationKind::kNone, rrs::RotationKind::kBlock, rrs::RotationKind::kFull}) {
      for (int options = 0; options < 8; ++options) {
        rrs::Scheme scheme;
        scheme.rotation.kind = kind;
        scheme.rotation.random_signs = (options & 1) != 0;
        scheme.rotation.sign_seed = 5;
        rrs::LayerChannels channels;
        if ((options & 2) != 0) channels.divisor = divisor.data();
        if ((options & 4) != 0) channels.input_permutation = permutation.data();
        const std::vector<double> b = dense_basis(scheme, channels, k);
        for (const bool is_symmetric : {true, false}) {
          const std::vector<double>& m = is_symmetric ? symmetric : general;
          std::vector<double> found = m;
          ASSERT_TRUE(rrs::change_basis(scheme, channels, k, is_symmetric, &found,
                                        rrs_test::ThreadExecutor{2})
                          .ok());
          using Matrix = rrs::detail::RowMajorF64;
          const Eigen::Map<const Matrix> mm(m.data(), k, k), bb(b.data(), k, k);
          const Matrix expected = bb.transpose() * mm * bb;
          const Eigen::Map<const Matrix> ff(found.data(), k, k);
          // A Hartley factor's run-time coefficients are rounded to f32.
          ASSERT_LE((ff - expected).norm(), (k == 77 ? 1e-6 : 1e-13) * mm.norm())
              << k << " " << options;
          if (is_symmetric) {
            ASSERT_EQ((ff - ff.transpose()).norm(), 0.0);
          }
          ++cases;
        }
      }
    }
  }
  EXPECT_EQ(cases, 4 * 3 * 8 * 2);
  std::vector<double> wrong(10);
  EXPECT_FALSE(rrs::change_basis(rrs::Scheme{}, rrs::LayerChannels{}, 4, true, &wrong).ok());
  EXPECT_FALSE(rrs::change_basis(rrs::Scheme{}, rrs::LayerChannels{}, 4, true, nullptr).ok());
  std::vector<double> empty;  // 2^32 squared is 0 in 64 bits
  for (const std::int64_t k : {std::int64_t{1} << 32, std::int64_t{0}, std::int64_t{-1}}) {
    const rrs::Status e = rrs::change_basis(rrs::Scheme{}, rrs::LayerChannels{}, k, true, &empty);
    EXPECT_STREQ(e.argument, "K") << e.message();
    EXPECT_EQ(e.value, k);
  }
}

}  // namespace
