// calibrate/smoothquant_search.hpp: errors are those of the layer in double, the least one wins.
#include "rrs/calibrate/smoothquant_search.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "rrs/core/presets.hpp"
#include "rrs/reference/linear.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"
#include "support/thread_executor.hpp"

namespace {

using rrs::MatrixView;
using rrs::StatusCode;

constexpr std::int64_t kRows = 12, kK = 96;

// Two weights of one input that has outlier channels.
struct Input {
  std::vector<float> x = rrs_test::llm_activations(kRows, kK, -1, 1);
  std::vector<float> a = rrs_test::normal_vector(40 * kK, 2);
  std::vector<float> b = rrs_test::normal_vector(24 * kK, 3);
  std::vector<float> maxima;

  Input() { EXPECT_TRUE(rrs::update_channel_maxima(view(), &maxima).ok()); }
  MatrixView<const float> view() const { return {x.data(), kRows, kK}; }
  std::vector<MatrixView<const float>> weights() const {
    return {{a.data(), 40, kK}, {b.data(), 24, kK}};
  }
  rrs::Result<rrs::AlphaSearch> search(const rrs::Scheme& scheme,
                                       const rrs::AlphaSearchOptions& options = {}) const {
    return rrs::search_smoothquant_alpha(view(), weights(), maxima, scheme, options);
  }
};

// ||X W^T - Q(X / s) Q(W s)^T||^2 of one weight through reference/, in double.
double reference_error(const Input& in, const MatrixView<const float>& w, const rrs::Scheme& scheme,
                       const rrs::LayerChannels& channels) {
  rrs::WeightOptions options;
  options.channels = channels;
  const auto weight = rrs::prepare_weight(w, scheme, options);
  EXPECT_TRUE(weight.ok()) << weight.status().message();
  const std::vector<double> y =
      rrs::reference::linear(in.x.data(), kRows, *weight, scheme, channels);
  double error = 0.0;
  for (std::int64_t t = 0; t < kRows; ++t) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      double exact = 0.0;
      for (std::int64_t k = 0; k < kK; ++k) {
        exact += static_cast<double>(in.view().row(t)[k]) * static_cast<double>(w.row(n)[k]);
      }
      const double d = y[static_cast<std::size_t>(t * w.rows + n)] - exact;
      error += d * d;
    }
  }
  return error;
}

TEST(AlphaSearch, ErrorsAreThoseOfTheReferenceAndTheLeastWins) {
  const Input in;
  std::vector<float> weight_maxima;
  for (const auto& w : in.weights()) {
    ASSERT_TRUE(rrs::update_channel_maxima(w, &weight_maxima).ok());
  }
  int alphas = 0;
  for (const rrs::Scheme& scheme :
       {rrs::presets::smoothquant_w8a8(), rrs::presets::smoothquant_w4a4()}) {
    const auto found = in.search(scheme);
    ASSERT_TRUE(found.ok()) << found.status().message();
    ASSERT_EQ(found->errors.size(), 21u);
    EXPECT_EQ(found->alphas, rrs::smoothquant_alpha_grid());
    std::size_t least = 0;
    for (std::size_t i = 0; i < found->errors.size(); ++i) {
      const auto s = rrs::smoothquant_scales(in.maxima, weight_maxima, found->alphas[i]);
      ASSERT_TRUE(s.ok());
      rrs::LayerChannels channels;
      channels.divisor = s->data();
      double expected = 0.0;
      for (const auto& w : in.weights()) expected += reference_error(in, w, scheme, channels);
      // A value on the tie of two codes may go either way: one step of one input.
      EXPECT_NEAR(found->errors[i], expected, 0.02 * expected) << found->alphas[i];
      if (found->errors[i] < found->errors[least]) least = i;
      ++alphas;
    }
    EXPECT_EQ(found->alpha, found->alphas[least]);
    EXPECT_EQ(found->divisor,
              *rrs::smoothquant_scales(in.maxima, weight_maxima, found->alphas[least]));
    EXPECT_LT(found->errors[least], found->errors.front());
    EXPECT_LT(found->errors[least], found->norm);
  }
  EXPECT_EQ(alphas, 42);
}

TEST(AlphaSearch, LevelsAndExecutorsGiveTheSameBits) {
  const Input in;
  const auto expected = in.search(rrs::presets::smoothquant_w8a8());
  ASSERT_TRUE(expected.ok());
  const auto check = [&](const auto& executor) {
    const auto found = rrs::search_smoothquant_alpha(
        in.view(), in.weights(), in.maxima, rrs::presets::smoothquant_w8a8(), {}, executor);
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(found->alpha, expected->alpha);
    EXPECT_EQ(found->errors, expected->errors);
    EXPECT_EQ(found->norm, expected->norm);
  };
  rrs_test::each_isa([&](const rrs::KernelTable&) { check(rrs::SerialExecutor{}); });
  check(rrs_test::ThreadExecutor(3));
  check(rrs_test::ReverseExecutor{});
}

// All maxima are 1, so every alpha divides by 1.
TEST(AlphaSearch, TiesGoToTheLowerAlpha) {
  std::vector<float> x = rrs_test::normal_vector(4 * 16, 5), w = rrs_test::normal_vector(8 * 16, 6);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = i < 16 ? 1.0f : std::fmod(x[i], 1.0f);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = i < 16 ? 1.0f : std::fmod(w[i], 1.0f);
  const auto found =
      rrs::search_smoothquant_alpha(MatrixView<const float>(x.data(), 4, 16), {{w.data(), 8, 16}},
                                    std::vector<float>(16, 1.0f), rrs::presets::smoothquant_w8a8());
  ASSERT_TRUE(found.ok());
  for (const double error : found->errors) EXPECT_EQ(error, found->errors[0]);
  EXPECT_EQ(found->alpha, 0.0f);
  EXPECT_EQ(found->divisor, std::vector<float>(16, 1.0f));
}

// Rotated, permuted, per tensor, float activations: whatever the layer does, it is what is
// compared.
TEST(AlphaSearch, TakesTheSchemeAndThePermutation) {
  const Input in;
  std::vector<std::int32_t> order(kK);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(kK - 1 - i);
  rrs::AlphaSearchOptions options;
  options.alphas = {0.25f, 0.75f};
  options.channels.input_permutation = order.data();
  EXPECT_NE(in.search(rrs::presets::rrs(), options)->errors,
            in.search(rrs::presets::rrs(), rrs::AlphaSearchOptions{options.alphas, {}})->errors);
  rrs::Scheme tensor = rrs::presets::smoothquant_w8a8();
  tensor.activation.window.kind = rrs::WindowKind::kWhole;
  tensor.activation.token_scale = false;
  const auto whole = in.search(tensor), token = in.search(rrs::presets::smoothquant_w8a8());
  ASSERT_TRUE(whole.ok());
  EXPECT_GT(whole->errors[10], token->errors[10]);
  rrs::Scheme weights_only = rrs::presets::smoothquant_w8a8();
  weights_only.activation.bits = rrs::kActivationFloat;
  const auto a16 = in.search(weights_only);
  ASSERT_TRUE(a16.ok());
  EXPECT_LT(a16->errors[10], token->errors[10]);
}

TEST(AlphaSearch, AlphasThatCannotBePreparedArePassedOver) {
  Input in;
  in.maxima.assign(kK, 3e9f);  // alpha 1: W s has scales beyond f16
  const auto found = in.search(rrs::presets::smoothquant_w8a8());
  ASSERT_TRUE(found.ok()) << found.status().message();
  EXPECT_EQ(found->errors.back(), (std::numeric_limits<double>::max)());
  EXPECT_LT(found->alpha, 0.9f);
  rrs::AlphaSearchOptions only;
  only.alphas = {1.0f};
  EXPECT_EQ(in.search(rrs::presets::smoothquant_w8a8(), only).status().code,
            StatusCode::kInvalidArgument);
}

TEST(AlphaSearch, RefusesBadArguments) {
  Input in;
  const rrs::Scheme scheme = rrs::presets::smoothquant_w8a8();
  const auto argument = [&](const auto& x, const auto& weights, const auto& maxima) {
    const rrs::Status s = rrs::search_smoothquant_alpha(x, weights, maxima, scheme).status();
    EXPECT_FALSE(s.ok());
    return std::string(s.argument);
  };
  using Weights = std::vector<MatrixView<const float>>;
  EXPECT_EQ(argument(in.view(), Weights{}, in.maxima), "weights");
  EXPECT_EQ(argument(in.view(), Weights{{in.a.data(), 40, kK - 1}}, in.maxima), "W.cols");
  EXPECT_EQ(argument(MatrixView<const float>(in.x.data(), 0, kK), in.weights(), in.maxima),
            "X.rows");
  EXPECT_EQ(argument(in.view(), in.weights(), std::vector<float>(3, 1.0f)), "weight_maxima");
  const std::int64_t many = std::int64_t{1} << 32;  // squared, 0 in 64 bits
  const std::vector<float> none;
  const MatrixView<const float> tall(nullptr, many, 0);
  EXPECT_EQ(argument(tall, Weights{tall}, none), "X.cols");
  EXPECT_EQ(argument(MatrixView<const float>(in.x.data(), many, 1), Weights{{in.x.data(), many, 1}},
                     none),
            "W.rows");
  rrs::AlphaSearchOptions options;
  options.alphas = {0.5f, 1.5f};
  EXPECT_STREQ(in.search(scheme, options).status().argument, "alpha");
  in.x[kK + 1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(in.search(scheme).status().code, StatusCode::kNonFinite);
  in.b[0] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(in.search(scheme).status().code, StatusCode::kNonFinite);
}

}  // namespace
