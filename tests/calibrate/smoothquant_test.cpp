// calibrate/smoothquant.hpp: the formula, the collected maxima, and what it does to a layer.
#include "rrs/calibrate/smoothquant.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/compare.hpp"
#include "support/random.hpp"

namespace {

using rrs::MatrixView;
using rrs::StatusCode;

TEST(SmoothQuant, FormulaWithFloors) {
  const std::vector<float> x = {4.0f, 0.0f, 1e-7f, 100.0f}, w = {1.0f, 1.0f, 0.0f, 1e-9f};
  int cases = 0;
  for (const float alpha : {0.0f, 0.25f, 0.5f, 0.85f, 1.0f}) {
    const auto s = rrs::smoothquant_scales(x, w, alpha);
    ASSERT_TRUE(s.ok());
    for (std::size_t j = 0; j < x.size(); ++j) {
      const double a = std::fmax(static_cast<double>(x[j]), 1e-5);
      const double b = std::fmax(static_cast<double>(w[j]), 1e-5);
      const double expected =
          std::pow(a, static_cast<double>(alpha)) * std::pow(b, static_cast<double>(alpha) - 1.0);
      EXPECT_LE(std::fabs(static_cast<double>((*s)[j]) - expected), 0x1p-23 * expected);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 20);
  EXPECT_EQ((*rrs::smoothquant_scales(x, w))[0], 2.0f);  // alpha 0.5 by default
}

TEST(SmoothQuant, ScalesAreFiniteAndPositiveForAnyMaxima) {
  int cases = 0;
  const float most = std::numeric_limits<float>::max();
  for (const float x : {0.0f, -0.0f, 1e-30f, 1.0f, most}) {
    for (const float w : {0.0f, 1e-30f, 1.0f, most}) {
      for (const float alpha : {0.0f, 0.5f, 0.99f, 1.0f}) {
        const auto s = rrs::smoothquant_scales({x}, {w}, alpha);
        ASSERT_TRUE(s.ok());
        EXPECT_GT((*s)[0], 0.0f);
        EXPECT_TRUE(rrs::is_finite_bits(rrs::float_bits((*s)[0])));
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 80);
}

TEST(SmoothQuant, MaximaOverBatchesAndWeights) {
  const std::vector<float> a = {1.0f, -5.0f, 0.0f, /* row 2 */ -2.0f, 3.0f, -0.0f};
  const std::vector<rrs::bf16> b = {rrs::to_bf16(-8.0f), rrs::to_bf16(1.0f), rrs::to_bf16(0.5f)};
  std::vector<float> maxima;
  ASSERT_TRUE(rrs::update_channel_maxima(MatrixView<const float>(a.data(), 2, 3), &maxima).ok());
  EXPECT_EQ(maxima, (std::vector<float>{2.0f, 5.0f, 0.0f}));
  ASSERT_TRUE(
      rrs::update_channel_maxima(MatrixView<const rrs::bf16>(b.data(), 1, 3), &maxima).ok());
  EXPECT_EQ(maxima, (std::vector<float>{8.0f, 5.0f, 0.5f}));
  // Strides: the middle column of `a`.
  std::vector<float> middle;
  ASSERT_TRUE(
      rrs::update_channel_maxima(MatrixView<const float>(a.data() + 1, 2, 1, 3), &middle).ok());
  EXPECT_EQ(middle, std::vector<float>{5.0f});
}

// Outlier channels end up as large as the geometric mean of both sides; the product is unchanged.
TEST(SmoothQuant, BalancesOutliers) {
  const std::int64_t m = 16, k = 120, n = 24;
  const std::vector<float> x = rrs_test::llm_activations(m, k, -1, 1);
  const std::vector<float> w = rrs_test::normal_vector(n * k, 2);
  std::vector<float> mx, mw;
  ASSERT_TRUE(rrs::update_channel_maxima(MatrixView<const float>(x.data(), m, k), &mx).ok());
  ASSERT_TRUE(rrs::update_channel_maxima(MatrixView<const float>(w.data(), n, k), &mw).ok());
  const auto s = rrs::smoothquant_scales(mx, mw);
  ASSERT_TRUE(s.ok());
  float before_low = 1e9f, before_high = 0.0f, after_low = 1e9f, after_high = 0.0f;
  for (std::size_t j = 0; j < mx.size(); ++j) {
    const float after = mx[j] / (*s)[j];
    EXPECT_NEAR(after, mw[j] * (*s)[j], 1e-5f * after);  // alpha 0.5 makes both sides equal
    before_low = (std::min)(before_low, mx[j]);
    before_high = (std::max)(before_high, mx[j]);
    after_low = (std::min)(after_low, after);
    after_high = (std::max)(after_high, after);
  }
  EXPECT_LT(after_high / after_low, 0.5f * before_high / before_low);
}

// Each gain is the quotient, rounded once; by powers of two nothing is rounded, and the norm's
// output is then the divided one, bit for bit.
TEST(SmoothQuant, FoldsIntoTheNormBeforeIt) {
  const std::size_t k = 120;
  const std::vector<float> gain = rrs_test::normal_vector(static_cast<std::int64_t>(k), 3);
  const std::vector<float> x = rrs_test::normal_vector(static_cast<std::int64_t>(k), 4);
  std::vector<float> any, powers;
  for (std::size_t j = 0; j < k; ++j) {
    any.push_back(0.01f + std::fabs(x[j]));
    powers.push_back(std::ldexp(1.0f, static_cast<int>(j % 9) - 4));
  }
  const auto folded = rrs::fold_into_norm(gain, any), exact = rrs::fold_into_norm(gain, powers);
  ASSERT_TRUE(folded.ok());
  ASSERT_TRUE(exact.ok());
  const float scale = 0.37f;  // 1 / rms
  for (std::size_t j = 0; j < k; ++j) {
    EXPECT_EQ((*folded)[j], gain[j] / any[j]);
    EXPECT_EQ(x[j] * scale * (*exact)[j], x[j] * scale * gain[j] / powers[j]) << j;
    const float divided = x[j] * scale * gain[j] / any[j];
    EXPECT_LE(std::fabs(x[j] * scale * (*folded)[j] - divided), 0x1p-22f * std::fabs(divided));
  }
}

TEST(SmoothQuant, FoldingRefusesBadArguments) {
  const std::vector<float> ok = {1.0f, 2.0f};
  EXPECT_STREQ(rrs::fold_into_norm(ok, {1.0f}).status().argument, "scales");
  int cases = 0;
  for (const float bad : {0.0f, -0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    const rrs::Status status = rrs::fold_into_norm(ok, {1.0f, bad}).status();
    EXPECT_STREQ(status.argument, "scales");
    EXPECT_EQ(status.value, 1);
    ++cases;
  }
  for (const float bad :
       {-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_STREQ(rrs::fold_into_norm({bad, 1.0f}, ok).status().argument, "gain");
    ++cases;
  }
  EXPECT_STREQ(rrs::fold_into_norm({1e38f}, {1e-5f}).status().argument, "scales");  // overflows
  EXPECT_EQ(cases, 7);
  EXPECT_TRUE(rrs::fold_into_norm({0.0f, -0.0f}, ok).ok());
}

TEST(SmoothQuant, RefusesBadArguments) {
  const std::vector<float> ok = {1.0f, 2.0f};
  int cases = 0;
  for (const float alpha :
       {-0.1f, 1.001f, std::numeric_limits<float>::quiet_NaN(),
        -std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30f}) {
    EXPECT_STREQ(rrs::smoothquant_scales(ok, ok, alpha).status().argument, "alpha");
    ++cases;
  }
  EXPECT_STREQ(rrs::smoothquant_scales(ok, {1.0f}).status().argument, "weight_maxima");
  for (const float bad :
       {-1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_STREQ(rrs::smoothquant_scales({1.0f, bad}, ok).status().argument, "activation_maxima");
    EXPECT_EQ(rrs::smoothquant_scales(ok, {1.0f, bad}).status().value, 1);
    ++cases;
  }
  EXPECT_EQ(cases, 9);
  std::vector<float> maxima = {1.0f};
  EXPECT_STREQ(
      rrs::update_channel_maxima(MatrixView<const float>(ok.data(), 1, 2), &maxima).argument,
      "X.cols");
  EXPECT_STREQ(
      rrs::update_channel_maxima(MatrixView<const float>(ok.data(), 1, 2), nullptr).argument,
      "maxima");
  EXPECT_STREQ(rrs::update_channel_maxima(MatrixView<const float>(nullptr, 1, 1), &maxima).argument,
               "X.data");
  const std::vector<float> nan = {3.0f, std::numeric_limits<float>::quiet_NaN()};
  const rrs::Status status =
      rrs::update_channel_maxima(MatrixView<const float>(nan.data(), 2, 1), &maxima);
  EXPECT_EQ(status.code, StatusCode::kNonFinite);
  EXPECT_EQ(status.value, 1);
  EXPECT_EQ(maxima, std::vector<float>{1.0f});  // untouched
}

}  // namespace
