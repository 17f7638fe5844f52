// calibrate/aser: the optimum of the whitened problem, strictly better than its base at every rank,
// smoothing, the whole weight at run time, bad input.
#include "rrs/calibrate/aser.hpp"

#include <gtest/gtest.h>

#include <Eigen/SVD>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "rrs/pipeline/weight.hpp"
#include "rrs/reference/pack.hpp"
#include "support/layer.hpp"
#include "support/random.hpp"

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  const std::vector<float> values = rrs_test::normal_vector(rows * cols, seed);
  return Eigen::Map<const Eigen::Matrix<float, -1, -1, Eigen::RowMajor>>(values.data(), rows, cols)
      .cast<double>();
}

// X^T X of tokens with a few large channels and correlations.
std::vector<double> make_hessian(std::int64_t k, std::uint64_t seed) {
  Matrix x = random_matrix(3 * k, k, seed);
  for (std::int64_t j = 1; j < k; ++j) x.col(j) += 0.5 * x.col(j - 1);
  x.col(k / 2) *= 30.0;
  const Matrix g = x.transpose() * x;
  return std::vector<double>(g.data(), g.data() + k * k);
}

Matrix damped(const std::vector<double>& hessian, std::int64_t k, double damping) {
  Matrix g = Eigen::Map<const Matrix>(hessian.data(), k, k);
  g.diagonal().array() +=
      damping * Eigen::Map<const Matrix>(hessian.data(), k, k).diagonal().mean();
  return g;
}

rrs::MatrixView<const double> view(const Matrix& m) { return {m.data(), m.rows(), m.cols()}; }

// The optimum by another road: the symmetric square root of G, and a Jacobi SVD of E G^(1/2).
double brute_optimum(const Matrix& e, const Matrix& g, std::int64_t rank) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> root(g);
  const Eigen::JacobiSVD<Eigen::MatrixXd> svd(e * root.operatorSqrt());
  const auto left = svd.singularValues().tail(svd.singularValues().size() - rank);
  return left.squaredNorm();
}

TEST(Aser, EqualsTheOptimumOfTheWhitenedProblem) {
  struct Shape {
    std::int64_t n, k;
  };
  int cases = 0;
  for (const Shape s : {Shape{12, 20}, Shape{20, 12}, Shape{16, 16}, Shape{1, 9}, Shape{9, 1}}) {
    const Matrix e = 0.01 * random_matrix(s.n, s.k, 5);
    const std::vector<double> h = make_hessian(s.k, 6);
    const Matrix g = damped(h, s.k, 0.01);
    double before = (e * g * e.transpose()).trace();
    for (std::int64_t rank = 1; rank <= (std::min)(s.n, s.k); ++rank) {
      rrs::AserOptions o;
      o.rank = rank;
      const auto f = rrs::aser_factors(view(e), h, o);
      ASSERT_TRUE(f.ok()) << f.status().message();
      const double optimum = brute_optimum(e, g, rank);
      const Eigen::Map<const Eigen::Matrix<float, -1, -1, Eigen::RowMajor>> a(f->a.data(), s.n,
                                                                              rank);
      const Eigen::Map<const Eigen::Matrix<float, -1, -1, Eigen::RowMajor>> b(f->b.data(), rank,
                                                                              s.k);
      const Matrix left = e - a.cast<double>() * b.cast<double>();
      const double reached = (left * g * left.transpose()).trace();
      EXPECT_NEAR(f->base_objective, (e * g * e.transpose()).trace(), 1e-9 * f->base_objective);
      EXPECT_NEAR(f->objective, reached, 1e-7 * f->base_objective);
      // Rounding to f16 costs at most (2^-11)^2-like shares of what the factors hold.
      EXPECT_GE(reached, optimum * (1 - 1e-9) - 1e-12 * f->base_objective);
      EXPECT_LE(reached, optimum + 2e-6 * f->base_objective) << s.n << " x " << s.k << " " << rank;
      EXPECT_LT(reached, before) << "rank " << rank;  // strictly below every smaller rank
      double sum = 0.0;
      for (std::size_t i = static_cast<std::size_t>(rank); i < f->singular_values.size(); ++i) {
        sum += f->singular_values[i] * f->singular_values[i];
      }
      EXPECT_NEAR(sum, optimum, 1e-8 * f->base_objective);
      before = optimum > 1e-9 * f->base_objective ? reached : std::numeric_limits<double>::max();
      ++cases;
    }
  }
  EXPECT_EQ(cases, 12 + 12 + 16 + 1 + 1);
}

TEST(Aser, TheShareRuleTakesTheSmallestRank) {
  const Matrix e = random_matrix(24, 40, 7);
  const std::vector<double> h = make_hessian(40, 8);
  for (const double share : {0.1, 0.5, 0.9, 1.0}) {
    rrs::AserOptions o;
    o.share = share;
    const auto f = rrs::aser_factors(view(e), h, o);
    ASSERT_TRUE(f.ok()) << f.status().message();
    double total = 0.0, held = 0.0;
    for (const double s : f->singular_values) total += s;
    for (std::int64_t i = 0; i < f->rank; ++i)
      held += f->singular_values[static_cast<std::size_t>(i)];
    EXPECT_GE(held, share * total * (1 - 1e-12));
    EXPECT_LT(held - f->singular_values[static_cast<std::size_t>(f->rank - 1)], share * total);
    o.max_rank = 2;
    EXPECT_LE(rrs::aser_factors(view(e), h, o)->rank, 2);
    o.outliers = 2;
    const rrs::Status refused = rrs::aser_factors(view(e), h, o).status();
    EXPECT_EQ(refused.code, rrs::StatusCode::kInvalidArgument);
    EXPECT_NE(refused.message().find("max_rank"), std::string::npos) << refused.message();
  }
}

// Codes in 8 bits: the objective is that of what is stored, near the optimum, but not on it.
TEST(Aser, EightBitFactorsAreWhatIsStored) {
  const std::int64_t n = 40, k = 96;
  const rrs_test::LayerData d = rrs_test::make_layer(1, n, k, 19);
  const auto base = rrs::prepare_weight(d.W(), rrs::presets::rrs_w4a16());
  ASSERT_TRUE(base.ok());
  std::vector<float> full(d.w.size());
  const rrs::MatrixView<float> W(full.data(), n, k);
  ASSERT_TRUE(rrs::transform_weight(d.W(), rrs::presets::rrs_w4a16(), W).ok());
  const std::vector<double> h = make_hessian(k, 20);
  for (const std::int64_t rank : {1, 7, 32}) {
    rrs::AserOptions o;
    o.rank = rank;
    const auto wide = rrs::aser_weight(*base, rrs::MatrixView<const float>(W), h, o);
    o.bits = 8;
    const auto narrow = rrs::aser_weight(*base, rrs::MatrixView<const float>(W), h, o);
    ASSERT_TRUE(wide.ok() && narrow.ok());
    const rrs::LowRankView& b = narrow->weight.view().low_rank;
    ASSERT_EQ(b.bits, 8);
    for (std::int64_t j = 0; j < rank; ++j) {
      for (std::int64_t i = 0; i < n; ++i) {
        const auto up = static_cast<const std::int8_t*>(b.up)[rrs::low_rank_up_index(rank, i, j)];
        const auto down =
            static_cast<const std::int8_t*>(b.down)[rrs::low_rank_down_index(rank, k, j, i)];
        const double stored = static_cast<double>(b.scales[j]) * up * down;
        const double given =
            static_cast<double>(narrow->factors.a[static_cast<std::size_t>(i * rank + j)]) *
            static_cast<double>(narrow->factors.b[static_cast<std::size_t>(j * k + i)]);
        ASSERT_NEAR(stored, given, 4e-7 * std::abs(given)) << i << ", " << j;
      }
    }
    const double least = wide->factors.objective, all = wide->factors.base_objective;
    EXPECT_GT(narrow->factors.objective, least) << rank;
    EXPECT_LT(narrow->factors.objective, least + 1e-3 * all) << rank;
    EXPECT_LT(narrow->factors.objective, all);
  }
}

// Strictly below the base (on the real model: llm/smollm2_gptq_test.cpp) at every rank, for every
// basis and precision; and the run time computes W~ minus what is left, not something else.
TEST(Aser, WeightsOfEverySchemeGainAtEveryRank) {
  const rrs_test::LayerData d = rrs_test::make_layer(64, 40, 96, 9);
  std::vector<float> divisor(96);
  for (std::size_t i = 0; i < 96; ++i) divisor[i] = i % 11 == 3 ? 6.0f : 1.0f;
  rrs::Scheme per_channel;
  per_channel.rotation.kind = rrs::RotationKind::kNone;
  per_channel.weight.group = rrs::kRowGroup;
  per_channel.activation.bits = rrs::kActivationFloat;
  rrs::Scheme rotated = rrs::presets::rrs_w4a16();
  for (const rrs::Scheme& scheme : {per_channel, rotated}) {
    rrs::WeightOptions options;
    options.channels.divisor = divisor.data();
    const auto base = rrs::prepare_weight(d.W(), scheme, options);
    ASSERT_TRUE(base.ok());
    std::vector<float> full(d.w.size()), x(d.x.size());
    const rrs::MatrixView<float> W(full.data(), d.n, d.k), X(x.data(), d.m, d.k);
    ASSERT_TRUE(rrs::transform_weight(d.W(), scheme, W, options).ok());
    // The inputs in the same basis: divided, so transformed by 1 / divisor.
    std::vector<float> inverse(96);
    for (std::size_t i = 0; i < 96; ++i) inverse[i] = 1.0f / divisor[i];
    options.channels.divisor = inverse.data();
    ASSERT_TRUE(rrs::transform_weight(d.X(), scheme, X, options).ok());
    const Matrix xd = Eigen::Map<Eigen::Matrix<float, -1, -1, Eigen::RowMajor>>(x.data(), d.m, d.k)
                          .cast<double>();
    const Matrix g = xd.transpose() * xd;
    const std::vector<double> h(g.data(), g.data() + g.size());
    double before = std::numeric_limits<double>::max(), error_before = before;
    for (const std::int64_t rank : {1, 8, 20, 40}) {
      rrs::AserOptions o;
      o.rank = rank;
      const auto both = rrs::aser_weight(*base, rrs::MatrixView<const float>(W), h, o);
      ASSERT_TRUE(both.ok()) << both.status().message();
      EXPECT_LT(both->factors.objective, both->factors.base_objective);
      EXPECT_LT(both->factors.objective, before);
      before = both->factors.objective;
      std::vector<float> y(static_cast<std::size_t>(d.m * d.n));
      rrs::Workspace ws(rrs::workspace_bytes(d.m, both->weight));
      rrs::ActivationOptions a;
      a.channels.divisor = divisor.data();
      ASSERT_TRUE(rrs::linear(d.X(), both->weight, rrs::MatrixView<float>(y.data(), d.m, d.n), ws,
                              rrs::SerialExecutor{}, a)
                      .ok());
      double error = 0.0;
      for (std::int64_t t = 0; t < d.m; ++t) {
        for (std::int64_t n = 0; n < d.n; ++n) {
          double exact = 0.0;
          for (std::int64_t k = 0; k < d.k; ++k) {
            exact += static_cast<double>(d.x[static_cast<std::size_t>(t * d.k + k)]) *
                     static_cast<double>(d.w[static_cast<std::size_t>(n * d.k + k)]);
          }
          error +=
              std::pow(static_cast<double>(y[static_cast<std::size_t>(t * d.n + n)]) - exact, 2);
        }
      }
      EXPECT_LT(error, error_before);
      EXPECT_LT(error, both->factors.objective * 1.001 + 1e-3);  // the damped one is above it
      error_before = error;
    }
  }
}

TEST(Aser, SmoothingFollowsItsDefinition) {
  const std::vector<double> x = {1.0, 8.0, 0.5, 4.0, 0.0}, w = {1.0, 1.0, 1.0, 3.0, 9.0};
  const auto s = rrs::aser_smoothing(x, w, 3);  // products 1, 8, 0.5, 12, 0: inputs 3, 1, 0
  ASSERT_TRUE(s.ok());
  EXPECT_EQ(s->outliers, (std::vector<std::int32_t>{0, 1, 3}));
  EXPECT_EQ(s->divisor, (std::vector<float>{1.0f, 8.0f, 1.0f, 4.0f, 1.0f}));
  const auto none = rrs::aser_smoothing(x, w, 0);
  EXPECT_EQ(none->divisor, std::vector<float>(5, 1.0f));
}

TEST(Aser, BadWeightsAreNamed) {
  const rrs_test::LayerData d = rrs_test::make_layer(1, 20, 64, 3);
  const rrs::PreparedWeight base = rrs_test::prepare(d, rrs::presets::rrs());
  const std::vector<double> h = make_hessian(64, 4);
  rrs::AserOptions o;
  o.rank = 4;
  const auto argument = [&](const rrs::WeightView& w, const rrs::MatrixView<const float>& full) {
    const auto result = rrs::aser_weight(w, full, h, o);
    return result.ok() ? std::string("ok") : std::string(result.status().argument);
  };
  EXPECT_EQ(argument(base, d.W()), "ok");
  EXPECT_EQ(argument(base, {nullptr, 20, 64}), "W.data");
  EXPECT_EQ(argument(base, {d.w.data(), 20, 64, 63}), "W.row_stride");
  EXPECT_EQ(argument(base, {d.w.data() + 19 * 64, 20, 64, -64}), "W.row_stride");
  EXPECT_EQ(argument(base, {d.w.data(), 19, 64}), "W.rows");
  EXPECT_EQ(argument(rrs::WeightView{}, d.W()), "K");
  rrs::WeightView spoilt = base;
  spoilt.panels = nullptr;
  EXPECT_EQ(argument(spoilt, d.W()), "W.panels");
  spoilt = base;
  spoilt.groups = 1;
  EXPECT_EQ(argument(spoilt, d.W()), "W.groups");
}

TEST(Aser, BadInputIsNamed) {
  const Matrix e = random_matrix(6, 8, 1);
  const std::vector<double> h = make_hessian(8, 2);
  const auto argument = [](const auto& result) {
    return result.ok() ? std::string("ok") : std::string(result.status().argument);
  };
  rrs::AserOptions o;
  o.rank = 7;
  EXPECT_EQ(argument(rrs::aser_factors(view(e), h, o)), "rank");
  o.rank = 4, o.outliers = 4;
  EXPECT_EQ(argument(rrs::aser_factors(view(e), h, o)), "rank");
  o.outliers = 0, o.damping = 0.0;
  EXPECT_EQ(argument(rrs::aser_factors(view(e), h, o)), "damping");
  o.damping = 0.01, o.bits = 4;
  EXPECT_EQ(argument(rrs::aser_factors(view(e), h, o)), "low_rank.bits");
  o.bits = 16, o.share = std::nan("");
  EXPECT_EQ(argument(rrs::aser_factors(view(e), h, o)), "share");
  o.share = 0.0;
  EXPECT_EQ(argument(rrs::aser_factors(view(e), std::vector<double>(63, 1.0), o)), "hessian");
  EXPECT_EQ(argument(rrs::aser_factors(view(e), std::vector<double>(64, 0.0), o)), "hessian");
  std::vector<double> bad = h;
  bad[9] = std::nan("");
  EXPECT_EQ(argument(rrs::aser_factors(view(e), bad, o)), "hessian");
  for (double& v : bad) v = 1.0;
  bad[1] = 1e6, bad[8] = 1e6;  // far from positive definite
  EXPECT_EQ(argument(rrs::aser_factors(view(e), bad, o)), "hessian");
  Matrix nan = e;
  nan(2, 3) = std::nan("");
  const auto f = rrs::aser_factors(view(nan), h, o);
  EXPECT_EQ(argument(f), "error");
  EXPECT_EQ(f.status().value, 2);
  const rrs::MatrixView<const double> null(nullptr, 6, 8), narrow(e.data(), 6, 8, -8);
  EXPECT_EQ(argument(rrs::aser_factors(null, h, o)), "error.data");
  EXPECT_EQ(argument(rrs::aser_factors(narrow, h, o)), "error.row_stride");
  const std::int64_t wide = std::int64_t{1} << 32;  // squared, 0 in 64 bits
  EXPECT_EQ(argument(rrs::aser_factors({e.data(), 1, wide}, {}, o)), "K");
  EXPECT_EQ(argument(rrs::aser_smoothing({1.0, 2.0}, {1.0}, 1)), "mean_w");
  EXPECT_EQ(argument(rrs::aser_smoothing({1.0, 2.0}, {1.0, 1.0}, 2)), "outliers");
  EXPECT_EQ(argument(rrs::aser_smoothing({1.0, std::nan("")}, {1.0, 1.0}, 1)), "mean_x");
}

}  // namespace
