// calibrate/gptq.hpp against an independent dense form (the inverse Hessian, one column eliminated
// at a time), and its promise: at the same scales the objective is below RTN's.
#include "rrs/calibrate/gptq.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "rrs/calibrate/statistics.hpp"
#include "rrs/pipeline/weight.hpp"
#include "rrs/reference/pack.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/thread_executor.hpp"

namespace {

using rrs::GptqOptions;
using rrs::HessianFactor;
using rrs::HessianOptions;
using rrs::MatrixView;
using rrs::WeightScheme;

struct Problem {
  std::int64_t n = 0, k = 0;
  std::vector<float> w;
  std::vector<double> h;

  MatrixView<const float> view() const { return {w.data(), n, k}; }
  double& at(std::int64_t i, std::int64_t j) { return h[static_cast<std::size_t>(i * k + j)]; }
  double at(std::int64_t i, std::int64_t j) const { return h[static_cast<std::size_t>(i * k + j)]; }
};

// Correlated inputs; every dead_step-th input is always 0.
Problem make_problem(std::int64_t n, std::int64_t k, std::int64_t dead_step, std::uint64_t seed) {
  Problem p;
  p.n = n;
  p.k = k;
  p.w = rrs_test::normal_vector(n * k, seed);
  const std::int64_t tokens = 2 * k;
  std::vector<float> x = rrs_test::llm_activations(tokens, k, 3, seed + 1);
  for (std::int64_t t = 0; t < tokens; ++t) {
    float* row = x.data() + t * k;
    for (std::int64_t i = 1; i < k; ++i) row[i] = 0.6f * row[i] + 0.5f * row[i - 1];
    for (std::int64_t i = 0; dead_step > 0 && i < k; i += dead_step) row[i] = 0.0f;
  }
  rrs::InputStatistics s;
  EXPECT_TRUE(rrs::update_statistics(MatrixView<const float>(x.data(), tokens, k), true, &s).ok());
  p.h = s.hessian;
  return p;
}

using Dense = std::vector<std::vector<double>>;

// (H + d I)^-1 by Gauss and Jordan, dead inputs mended, in the given order.
Dense inverse_of(const Problem& p, double damping, const std::vector<std::int32_t>& order) {
  const auto k = static_cast<std::size_t>(p.k);
  double trace = 0.0, live = 0.0;
  for (std::int64_t i = 0; i < p.k; ++i) trace += p.at(i, i), live += p.at(i, i) > 0.0 ? 1 : 0;
  Dense a(k, std::vector<double>(2 * k, 0.0));
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j < k; ++j) a[i][j] = p.at(order[i], order[j]);
    if (a[i][i] == 0.0) a[i][i] = 1.0;
    a[i][i] += damping * trace / live;
    a[i][k + i] = 1.0;
  }
  for (std::size_t c = 0; c < k; ++c) {
    const double by = a[c][c];
    for (double& v : a[c]) v /= by;
    for (std::size_t r = 0; r < k; ++r) {
      if (r == c) continue;
      const double f = a[r][c];
      for (std::size_t j = 0; j < 2 * k; ++j) a[r][j] -= f * a[c][j];
    }
  }
  Dense inverse(k, std::vector<double>(k));
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j < k; ++j) inverse[i][j] = a[i][k + j];
  }
  return inverse;
}

struct Plain {
  std::vector<std::int8_t> codes;
  std::vector<rrs::f16> scales;
};

// One row, OBQ's way: quantize a column, move the rest by its error, eliminate it from the inverse.
// GPTAQ also moves the rest by what the column was, times its row of the correction [K][K].
void plain_row(const Problem& p, std::int64_t row, const WeightScheme& scheme, bool static_groups,
               const std::vector<std::int32_t>& order, Dense inverse, Plain* out,
               const std::vector<double>* correction) {
  const std::int64_t k = p.k;
  const std::int64_t step = scheme.group == rrs::kRowGroup ? k : scheme.group;
  const std::int64_t groups = rrs::group_count(k, scheme.group);
  std::vector<double> w(static_cast<std::size_t>(k));
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t c = order[static_cast<std::size_t>(i)];
    w[static_cast<std::size_t>(i)] =
        p.at(c, c) > 0.0 ? static_cast<double>(p.w[static_cast<std::size_t>(row * k + c)]) : 0.0;
  }
  const auto scale_of = [&](std::int64_t g) -> rrs::f16& {
    return out->scales[static_cast<std::size_t>(row * groups + g)];
  };
  const auto find_scale = [&](std::int64_t g, const std::vector<double>& from) {
    std::vector<float> values;
    for (std::int64_t c = g * step; c < std::min(k, (g + 1) * step); ++c) {
      const auto at = std::find(order.begin(), order.end(), static_cast<std::int32_t>(c));
      values.push_back(static_cast<float>(from[static_cast<std::size_t>(at - order.begin())]));
    }
    scale_of(g) = rrs::rtn_scale(values.data(), static_cast<std::int64_t>(values.size()), scheme);
  };
  for (std::int64_t g = 0; static_groups && g < groups; ++g) find_scale(g, w);
  for (std::size_t i = 0; i < static_cast<std::size_t>(k); ++i) {
    const std::int64_t c = order[i];
    if (!static_groups && c % step == 0) find_scale(c / step, w);
    const rrs::f16 scale = scale_of(c / step);
    const std::int32_t code = rrs::rtn_code(static_cast<float>(w[i]), rrs::rtn_inverse(scale),
                                            rrs::max_code(scheme.bits));
    out->codes[static_cast<std::size_t>(row * k + c)] = static_cast<std::int8_t>(code);
    const double was = w[i];
    const double error = (was - static_cast<double>(rrs::to_f32(scale)) * code) / inverse[i][i];
    for (std::size_t j = i; j < w.size(); ++j) w[j] -= error * inverse[i][j];
    for (std::size_t j = i + 1; correction != nullptr && j < w.size(); ++j) {
      w[j] += was * (*correction)[i * w.size() + j];
    }
    const std::vector<double> pivot = inverse[i];
    for (std::size_t a = i; a < w.size(); ++a) {
      const double f = pivot[a] / pivot[i];
      for (std::size_t b = i; b < w.size(); ++b) inverse[a][b] -= f * pivot[b];
    }
  }
}

Plain plain_gptq(const Problem& p, const WeightScheme& scheme, bool static_groups, double damping,
                 const std::vector<std::int32_t>& order,
                 const std::vector<double>* correction = nullptr) {
  Plain out;
  out.codes.resize(p.w.size());
  out.scales.resize(static_cast<std::size_t>(p.n * rrs::group_count(p.k, scheme.group)));
  const Dense inverse = inverse_of(p, damping, order);
  for (std::int64_t row = 0; row < p.n; ++row) {
    plain_row(p, row, scheme, static_groups, order, inverse, &out, correction);
  }
  return out;
}

std::vector<std::int32_t> natural_order(std::int64_t k) {
  std::vector<std::int32_t> order;
  for (std::int32_t i = 0; i < k; ++i) order.push_back(i);
  return order;
}

TEST(Gptq, IsTheDenseFormForAllRangesGroupsAndOrders) {
  int cases = 0;
  for (const auto& [n, k, dead] :
       {std::tuple<std::int64_t, std::int64_t, std::int64_t>{3, 40, 0}, {33, 45, 9}, {1, 160, 7}}) {
    const Problem p = make_problem(n, k, dead, 11);
    for (const int group : {rrs::kRowGroup, 16, 32, 128}) {
      for (const rrs::Range range : {rrs::Range::kSymmetric, rrs::Range::kFull}) {
        for (const int bits : {4, 8}) {
          WeightScheme scheme{bits, group, range, rrs::WeightScale::kSearch};
          if (bits == 8) scheme.scale = rrs::WeightScale::kAbsmax;
          for (const int mode : {0, 1, 2}) {  // natural, natural with static groups, act-order
            HessianOptions options;
            options.act_order = mode == 2;
            const auto factor = rrs::factor_hessian(p.h, k, options);
            ASSERT_TRUE(factor.ok());
            GptqOptions gptq;
            gptq.static_groups = mode == 1;
            const auto found = rrs::gptq(p.view(), *factor, scheme, gptq);
            ASSERT_TRUE(found.ok());
            const auto order = mode == 2 ? factor->order : natural_order(k);
            const Plain expected = plain_gptq(p, scheme, mode != 0, 0.01, order);
            EXPECT_TRUE(rrs_test::bits_equal(found->codes, expected.codes))
                << n << "x" << k << " group " << group << " bits " << bits << " mode " << mode;
            EXPECT_TRUE(rrs_test::bits_equal(found->scales, expected.scales));
            ++cases;
          }
        }
      }
    }
  }
  EXPECT_EQ(cases, 3 * 4 * 2 * 2 * 3);
}

// tr((W - Q) (H + d I) (W - Q)^T) with dead inputs left out.
double objective_of(const Problem& p, const HessianFactor& f, const std::vector<std::int8_t>& codes,
                    const std::vector<rrs::f16>& scales, const WeightScheme& scheme) {
  const std::int64_t groups = rrs::group_count(p.k, scheme.group);
  const std::int64_t step = scheme.group == rrs::kRowGroup ? p.k : scheme.group;
  double sum = 0.0;
  for (std::int64_t n = 0; n < p.n; ++n) {
    std::vector<double> e(static_cast<std::size_t>(p.k), 0.0);
    for (std::int64_t i = 0; i < p.k; ++i) {
      const auto at = static_cast<std::size_t>(n * p.k + i);
      const rrs::f16 v = scales[static_cast<std::size_t>(n * groups + i / step)];
      if (p.at(i, i) > 0.0) {
        e[static_cast<std::size_t>(i)] =
            static_cast<double>(p.w[at]) - static_cast<double>(rrs::to_f32(v)) * codes[at];
      }
    }
    for (std::int64_t i = 0; i < p.k; ++i) {
      for (std::int64_t j = 0; j < p.k; ++j) {
        const double h = p.at(i, j) + (i == j ? f.diagonal : 0.0);
        sum += e[static_cast<std::size_t>(i)] * h * e[static_cast<std::size_t>(j)];
      }
    }
  }
  return sum;
}

TEST(Gptq, ObjectiveIsBelowRtnAtTheSameScales) {
  int cases = 0;
  for (const std::int64_t dead : {std::int64_t{0}, std::int64_t{13}}) {
    const Problem p = make_problem(40, 200, dead, 5);
    for (const int group : {rrs::kRowGroup, 16, 32, 64, 128, 256}) {
      for (const rrs::Range range : {rrs::Range::kSymmetric, rrs::Range::kFull}) {
        for (const bool act_order : {false, true}) {
          const WeightScheme scheme{4, group, range, rrs::WeightScale::kSearch};
          HessianOptions options;
          options.act_order = act_order;
          const auto factor = rrs::factor_hessian(p.h, p.k, options);
          ASSERT_TRUE(factor.ok());
          GptqOptions gptq;
          gptq.static_groups = true;
          const auto found = rrs::gptq(p.view(), *factor, scheme, gptq);
          ASSERT_TRUE(found.ok());
          std::vector<std::int8_t> codes(p.w.size());
          for (std::int64_t n = 0; n < p.n; ++n) {
            const std::int64_t groups = rrs::group_count(p.k, group);
            const std::int64_t step = group == rrs::kRowGroup ? p.k : group;
            for (std::int64_t g = 0; g < groups; ++g) {
              const std::int64_t first = g * step;
              rrs::rtn_quantize(p.w.data() + n * p.k + first, std::min(step, p.k - first),
                                found->scales[static_cast<std::size_t>(n * groups + g)], 4,
                                codes.data() + n * p.k + first);
            }
          }
          const double own = objective_of(p, *factor, found->codes, found->scales, scheme);
          const double rtn = objective_of(p, *factor, codes, found->scales, scheme);
          EXPECT_LT(own, rtn) << group << " " << act_order;
          EXPECT_NEAR(found->objective, own, 1e-9 * own);
          ++cases;
        }
      }
    }
  }
  EXPECT_EQ(cases, 48);
}

TEST(Gptq, DeadInputsGetWeightZeroAndChangeNothingElse) {
  const Problem p = make_problem(5, 96, 8, 21);
  const WeightScheme scheme{4, 16, rrs::Range::kSymmetric, rrs::WeightScale::kSearch};
  const auto factor = rrs::factor_hessian(p.h, p.k);
  ASSERT_TRUE(factor.ok());
  const auto found = rrs::gptq(p.view(), *factor, scheme);
  Problem other = p;
  for (std::int64_t n = 0; n < p.n; ++n) {
    for (std::int64_t i = 0; i < p.k; i += 8) other.w[static_cast<std::size_t>(n * p.k + i)] = 99.f;
  }
  const auto again = rrs::gptq(other.view(), *factor, scheme);
  ASSERT_TRUE(found.ok() && again.ok());
  EXPECT_TRUE(rrs_test::bits_equal(found->codes, again->codes));
  int dead = 0;
  for (std::int64_t i = 0; i < p.k; i += 8) {
    EXPECT_NE(factor->dead[static_cast<std::size_t>(i)], 0);
    for (std::int64_t n = 0; n < p.n; ++n) {
      EXPECT_EQ(found->codes[static_cast<std::size_t>(n * p.k + i)], 0);
      ++dead;
    }
  }
  EXPECT_EQ(dead, 60);
}

TEST(Gptq, DoesNotDependOnTheExecutorAndPacksIntoAnyScheme) {
  const Problem p = make_problem(100, 160, 0, 31);
  rrs::Scheme scheme;
  scheme.rotation.random_signs = true;
  std::vector<float> rotated(p.w.size());
  ASSERT_TRUE(
      rrs::transform_weight(p.view(), scheme, MatrixView<float>(rotated.data(), p.n, p.k)).ok());
  const MatrixView<const float> w(rotated.data(), p.n, p.k);
  const auto factor = rrs::factor_hessian(p.h, p.k);
  ASSERT_TRUE(factor.ok());
  const auto a = rrs::gptq(w, *factor, scheme.weight);
  const auto b = rrs::gptq(w, *factor, scheme.weight, GptqOptions{}, rrs_test::ThreadExecutor{3});
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(rrs_test::bits_equal(a->codes, b->codes));
  EXPECT_TRUE(rrs_test::bits_equal(a->scales, b->scales));
  EXPECT_EQ(a->objective, b->objective);
  const auto packed = rrs::weight_from_quantized(
      MatrixView<const std::int8_t>(a->codes.data(), p.n, p.k),
      MatrixView<const rrs::f16>(a->scales.data(), p.n, p.k / 32), scheme);
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  const std::vector<double> back = rrs::reference::dequantize(*packed);
  for (std::size_t i = 0; i < back.size(); ++i) {
    const rrs::f16 v = a->scales[i / 160 * 5 + i % 160 / 32];
    ASSERT_EQ(back[i], static_cast<double>(rrs::to_f32(v)) * a->codes[i]);
  }
}

TEST(Gptaq, CorrectionIsItsDefinitionAndZeroChangesNothing) {
  const Problem p = make_problem(4, 150, 11, 41);
  const WeightScheme scheme{4, 32, rrs::Range::kSymmetric, rrs::WeightScale::kSearch};
  for (const bool act_order : {false, true}) {
    HessianOptions options;
    options.act_order = act_order;
    const auto factor = rrs::factor_hessian(p.h, p.k, options);
    ASSERT_TRUE(factor.ok());
    const auto k = static_cast<std::size_t>(p.k);
    std::vector<double> d(k * k);
    const std::vector<float> values = rrs_test::normal_vector(p.k * p.k, 43);
    for (std::size_t i = 0; i < d.size(); ++i) d[i] = static_cast<double>(values[i]);
    const auto found = rrs::gptaq_correction(d, *factor, 0.25, rrs_test::ThreadExecutor{2});
    ASSERT_TRUE(found.ok());
    const auto column = [&](std::size_t i) {
      return act_order ? static_cast<std::size_t>(factor->order[i]) : i;
    };
    const auto u = [&](std::size_t i, std::size_t j) { return factor->upper[i * k + j]; };
    Dense middle(k, std::vector<double>(k, 0.0));
    for (std::size_t i = 0; i < k; ++i) {
      for (std::size_t j = i + 1; j < k; ++j) {
        for (std::size_t l = 0; l < k; ++l) {
          if (factor->dead[column(i)] != 0 || factor->dead[column(l)] != 0) continue;
          middle[i][j] += d[column(i) * k + column(l)] * u(j, l);
        }
      }
    }
    for (std::size_t i = 0; i < k; ++i) {
      for (std::size_t j = 0; j < k; ++j) {
        double expected = 0.0;
        for (std::size_t l = 0; l < k; ++l) expected += 0.25 * middle[i][l] * u(l, j);
        ASSERT_NEAR((*found)[i * k + j], expected, 1e-9 * (1.0 + std::fabs(expected)));
      }
    }
    const std::vector<double> zero(k * k, 0.0);
    GptqOptions with;
    with.correction = &zero;
    const auto a = rrs::gptq(p.view(), *factor, scheme),
               b = rrs::gptq(p.view(), *factor, scheme, with);
    EXPECT_TRUE(rrs_test::bits_equal(a->codes, b->codes));
    with.correction = &*found;
    const auto c = rrs::gptq(p.view(), *factor, scheme, with);
    EXPECT_FALSE(rrs_test::bits_equal(a->codes, c->codes));
  }
}

// K = 300: within a block of columns, and from block to block.
TEST(Gptaq, CodesAreThoseOfTheDenseForm) {
  const Problem p = make_problem(5, 300, 13, 47);
  const WeightScheme scheme{4, 32, rrs::Range::kSymmetric, rrs::WeightScale::kSearch};
  double scale = 0.0;
  for (std::int64_t i = 0; i < p.k; ++i) scale += 0.02 * p.at(i, i) / static_cast<double>(p.k);
  std::vector<double> d;
  for (const float v : rrs_test::normal_vector(p.k * p.k, 48)) {
    d.push_back(scale * static_cast<double>(v));
  }
  for (const bool act_order : {false, true}) {
    HessianOptions options;
    options.act_order = act_order;
    const auto factor = rrs::factor_hessian(p.h, p.k, options);
    ASSERT_TRUE(factor.ok());
    const auto correction = rrs::gptaq_correction(d, *factor, 0.25, rrs::SerialExecutor{});
    ASSERT_TRUE(correction.ok());
    GptqOptions with;
    with.correction = &*correction;
    const auto found = rrs::gptq(p.view(), *factor, scheme, with);
    ASSERT_TRUE(found.ok());
    const auto order = act_order ? factor->order : natural_order(p.k);
    const Plain expected = plain_gptq(p, scheme, act_order, 0.01, order, &*correction);
    EXPECT_TRUE(rrs_test::bits_equal(found->codes, expected.codes)) << act_order;
    EXPECT_TRUE(rrs_test::bits_equal(found->scales, expected.scales)) << act_order;
    const auto without = rrs::gptq(p.view(), *factor, scheme);
    EXPECT_FALSE(rrs_test::bits_equal(found->codes, without->codes)) << act_order;
  }
}

TEST(HessianFactor, DampingIsRetriedAndReported) {
  const std::int64_t k = 60;
  Problem p = make_problem(1, k, 0, 51);
  const auto good = rrs::factor_hessian(p.h, k);
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good->damping, 0.01);
  // A direction of negative curvature, which only more damping overcomes.
  double trace = 0.0;
  for (std::int64_t i = 0; i < k; ++i) trace += p.at(i, i);
  const double push = 0.5 * trace / static_cast<double>(k);
  p.at(3, 9) += push + std::sqrt(p.at(3, 3) * p.at(9, 9));
  p.at(9, 3) = p.at(3, 9);
  const auto retried = rrs::factor_hessian(p.h, k);
  ASSERT_TRUE(retried.ok());
  EXPECT_GT(retried->damping, 0.5);
  EXPECT_LE(retried->damping, rrs::kMaxDamping);
  p.at(3, 9) = p.at(9, 3) = 1e6 * trace;
  const auto failed = rrs::factor_hessian(p.h, k);
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.status().message().find("positive definite"), std::string::npos);
}

TEST(HessianFactor, BadInputIsNamed) {
  const Problem p = make_problem(2, 32, 0, 61);
  const auto message = [](const std::vector<double>& h, std::int64_t k, double damping) {
    HessianOptions options;
    options.damping = damping;
    const auto r = rrs::factor_hessian(h, k, options);
    return r.ok() ? std::string("ok") : r.status().message();
  };
  const auto has = [](const std::string& text, const char* what) {
    return text.find(what) != std::string::npos;
  };
  EXPECT_TRUE(has(message(std::vector<double>(32 * 32, 0.0), 32, 0.01), "saw no input"));
  EXPECT_TRUE(has(message({}, 32, 0.01), "K x K"));
  for (const double damping : {0.0, -1.0, 11.0, std::nan("")}) {
    EXPECT_TRUE(has(message(p.h, 32, damping), "damping"));
  }
  std::vector<double> bad = p.h;
  bad[70] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(has(message(bad, 32, 0.01), "finite"));
  bad = p.h;
  bad[33] = -1.0;
  EXPECT_TRUE(has(message(bad, 32, 0.01), ">= 0"));
  const auto factor = rrs::factor_hessian(p.h, 32);
  ASSERT_TRUE(factor.ok());
  std::vector<float> w = p.w;
  w[40] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(has(rrs::gptq(MatrixView<const float>(w.data(), 2, 32), *factor, WeightScheme{})
                      .status()
                      .message(),
                  "W must be finite"));
  w[40] = 1e9f;
  EXPECT_TRUE(has(rrs::gptq(MatrixView<const float>(w.data(), 2, 32), *factor, WeightScheme{})
                      .status()
                      .message(),
                  "65504"));
  EXPECT_TRUE(has(rrs::gptq(MatrixView<const float>(p.w.data(), 4, 16), *factor, WeightScheme{})
                      .status()
                      .message(),
                  "factor"));
  const std::vector<double> small(3);
  GptqOptions with;
  with.correction = &small;
  EXPECT_FALSE(rrs::gptq(p.view(), *factor, WeightScheme{}, with).ok());
  EXPECT_FALSE(rrs::gptaq_correction(small, *factor).ok());
  const std::int64_t wide = std::int64_t{1} << 32;  // squared, 0 in 64 bits
  EXPECT_TRUE(has(message({}, wide, 0.01), "K squared must fit 63 bits"));
}

// What is left of a factor that was moved from is its K.
TEST(HessianFactor, MovedFromAndEditedFactorsAreRefused) {
  const Problem p = make_problem(2, 32, 0, 61);
  HessianOptions ordered;
  ordered.act_order = true;
  const auto good = rrs::factor_hessian(p.h, 32, ordered);
  ASSERT_TRUE(good.ok());
  int cases = 0;
  const auto refused = [&](const char* argument, const auto& spoil) {
    rrs::HessianFactor factor = *good;
    spoil(factor);
    const rrs::Status solved = rrs::gptq(p.view(), factor, WeightScheme{}).status();
    EXPECT_STREQ(solved.argument, argument) << solved.message();
    const rrs::Status corrected = rrs::gptaq_correction(p.h, factor).status();
    EXPECT_STREQ(corrected.argument, argument) << corrected.message();
    ++cases;
  };
  refused("factor.upper", [](auto& f) { const rrs::HessianFactor taken = std::move(f); });
  refused("factor.upper", [](auto& f) { f.upper.pop_back(); });
  refused("factor.dead", [](auto& f) { f.dead.clear(); });
  refused("factor.order", [](auto& f) { f.order.resize(31); });
  refused("factor.order", [](auto& f) { f.order[3] = 32; });
  refused("factor.order", [](auto& f) { f.order[3] = -1; });
  EXPECT_EQ(cases, 6);
  rrs::HessianFactor wide;
  wide.k = std::int64_t{1} << 32;
  EXPECT_STREQ(rrs::gptaq_correction({}, wide).status().argument, "K");
  EXPECT_STREQ(rrs::gptaq_correction({}, rrs::HessianFactor{}).status().argument, "K");
}

}  // namespace
