// ASER: the error of a quantized weight, rebuilt by a low-rank branch where the inputs are large.
//
//   y = Q(W) x~ + L_A (L_B x~),   E = W~ - Q(W),   L_A L_B = argmin over rank r of ||(E - L) X||^2
//   G = X^T X + d I,  d = damping mean(diag);  G = S S^T;  E S = U Sigma V^T (Sigma falling)
//   L_A = U_r Sigma_r [N,r],  L_B = V_r^T S^-1 [r,K],  so  tr((E-L) G (E-L)^T) = sum of the
//   sigma_i^2 left out
// Everything in the basis in which the weight is quantized (transform_weight, change_basis).
// How it is solved: sigma^2 are the eigenvalues of the smaller of
//   N <= K:  E G E^T = U Sigma^2 U^T  and  L_A L_B = U_r (U_r^T E): S is not needed
//   N >  K:  (E S)^T (E S) = V Sigma^2 V^T  and  L_A L_B = (E S V_r)(V_r^T S^-1)
// in double: singular values below 1e-8 of the largest are noise, and no base error has such.
// Rank: fixed, or by `share` the smallest r with sigma_1 + ... + sigma_r >= share * (sum of all).
// L_A and L_B are rounded to f16, or to the 8-bit codes of attach_low_rank; row j of L_B and column
// j of L_A are first multiplied by 2^c and 2^-c so that their largest elements agree, which keeps
// both clear of f16's ends.
// Activation smoothing: the f inputs with the largest mean|X_j| mean|W_:j| are divided by
// m_j = mean|X_j| / (smallest mean|X_i| in the set); the caller zeroes their columns of W before
// quantization, so that E holds them in full. r must exceed f.
//
// from: quantized weights of any solver, statistics of the inputs.  to: attach_low_rank.
// Shapes: W~ [N,K] f32, G [K][K] double. Cost: K^3 / 3 + 2 N K max(N, K) + 9 min(N, K)^3 flops;
// about 1 s for 576 x 1536 on one core without -m flags. Offline: allocates. A randomized subspace
// iteration was 2 to 3 times slower than the full decomposition at the same error (1e-5): errors
// of quantization have flat spectra. Paper: ASER (2024).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <Eigen/Eigenvalues>

#include "rrs/calibrate/square.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/core/view.hpp"
#include "rrs/pack/layout.hpp"
#include "rrs/pipeline/weight_file.hpp"
#include "rrs/pipeline/weight_low_rank.hpp"
#include "rrs/pipeline/weight_view.hpp"

RRS_TYPES_BEGIN

struct AserOptions {
  std::int64_t rank = 64;     // fixed rank, when share is 0
  double share = 0.0;         // > 0: the effective-rank rule instead, at most max_rank
  std::int64_t max_rank = 0;  // of the rule, above outliers; 0: min(N, K)
  double damping = 0.01;      // times the mean of G's diagonal; > 0
  std::int64_t outliers = 0;  // f of the smoothing; only checked against the rank
  int bits = 16;              // of an element of L_A and L_B: 16 or 8
};

struct AserFactors {
  std::int64_t rank = 0;
  std::vector<float> a;                 // L_A [N][rank], rounded
  std::vector<float> b;                 // L_B [rank][K]
  std::vector<double> singular_values;  // all min(N, K), falling
  double base_objective = 0.0;          // tr(E G E^T), damped
  double objective = 0.0;               // with the rounded factors
  double damping = 0.0;                 // used: raised tenfold while G was not positive definite
};

struct AserWeight {
  PreparedWeight weight;
  AserFactors factors;
};

// Activation smoothing: what LayerChannels::divisor and the solver's weight need.
struct AserSmoothing {
  std::vector<float> divisor;          // [K], 1 outside the set
  std::vector<std::int32_t> outliers;  // f inputs, ascending
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

using AserMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;
using AserRowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline bool aser_finite(double x) noexcept {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

inline Status validate_aser(std::int64_t n, std::int64_t k, const std::vector<double>& hessian,
                            const AserOptions& o) {
  const std::int64_t most = n < k ? n : k;
  if (Status s = validate_square(hessian.size(), k, "hessian"); !s) return s;
  if (!(o.share >= 0.0 && o.share <= 1.0)) {
    return invalid_argument("share", "times 1000 must be in [0, 1000]", -1, 1000);
  }
  if (o.share == 0.0 && (o.rank < 1 || o.rank > most)) {
    return invalid_argument("rank", "must be in [1, min(N, K)]", o.rank, most);
  }
  if (o.max_rank < 0 || o.max_rank > most) {
    return invalid_argument("max_rank", "must be in [0, min(N, K)]", o.max_rank, most);
  }
  if (o.share == 0.0 && o.outliers >= o.rank) {
    return invalid_argument("rank", "must exceed the number of outliers", o.rank, o.outliers);
  }
  if (o.share > 0.0 && o.max_rank > 0 && o.outliers >= o.max_rank) {
    return invalid_argument("max_rank", "must exceed the number of outliers", o.max_rank,
                            o.outliers);
  }
  if (o.share > 0.0 && o.outliers >= most) {
    return invalid_argument("outliers", "must be below min(N, K)", o.outliers, most);
  }
  if (Status s = validate_low_rank_bits(o.bits); !s) return s;
  if (!(o.damping > 0.0 && o.damping <= 10.0)) {
    return invalid_argument("damping", "times 1000 must be in (0, 10000]", -1, 10000);
  }
  for (std::int64_t i = 0; i < k * k; ++i) {
    const double value = hessian[static_cast<std::size_t>(i)];
    if (!aser_finite(value) || (i % (k + 1) == 0 && value < 0.0)) {
      return invalid_argument("hessian", "must be finite, its diagonal >= 0 (found: row)", i / k,
                              k);
    }
  }
  return Status{};
}

inline constexpr ViewNames kNamesError{"error.data", "error.rows", "error.cols",
                                       "error.row_stride"};

// W~ - Q(W), in double.
inline Result<AserRowMajor> aser_error(const WeightView& w, const MatrixView<const float>& full) {
  WeightView base = w;  // attach_low_rank replaces a branch, so none is looked at
  base.low_rank = LowRankView{};
  if (const Result<WeightLayout> l = checked_view_layout(base); !l) return l.status();
  if (Status s = validate_view(full, kNamesW); !s) return s;
  if (full.rows != w.n) return invalid_argument("W.rows", "must equal N", full.rows, w.n);
  if (full.cols != w.k) return invalid_argument("W.cols", "must equal K", full.cols, w.k);
  const std::int64_t group = w.scheme.weight.group == kRowGroup ? w.k : w.scheme.weight.group;
  const bool w8 = w.scheme.weight.bits == 8;
  const int bias = w.offsets != nullptr ? 0 : (w8 ? 128 : 8);
  AserRowMajor e(w.n, w.k);
  for (std::int64_t n = 0; n < w.n; ++n) {
    const std::uint8_t* panel = w.panels + n / kPanelOutputs * w.panel_bytes;
    const int lane = static_cast<int>(n % kPanelOutputs);
    for (std::int64_t k = 0; k < w.k; ++k) {
      const float value = full.row(n)[k];
      if (!is_finite_bits(float_bits(value))) {
        return invalid_argument("W", "must be finite in every row (found: row)", n, w.n);
      }
      const int byte = panel[w8 ? w8_byte(lane, k) : w4_byte(lane, k)];
      const int code = w8 ? byte : (w4_high_nibble(k) ? byte >> 4 : byte & 15);
      const std::int64_t at = (n / kPanelOutputs * w.groups + k / group) * kPanelOutputs + lane;
      const double offset = w.offsets == nullptr ? 0.0 : static_cast<double>(w.offsets[at]);
      e(n, k) = static_cast<double>(value) -
                static_cast<double>(to_f32(w.scales[at])) * static_cast<double>(code - bias) -
                offset;
    }
  }
  return e;
}

// G + d I; damping is raised until the Cholesky factor exists, which goes to *lower.
inline Status damp_and_factor(const std::vector<double>& hessian, std::int64_t k, double damping,
                              AserMatrix* g, AserMatrix* lower, double* used) {
  const Eigen::Map<const AserRowMajor> h(hessian.data(), k, k);
  const double mean = h.diagonal().mean();
  if (!(mean > 0.0)) {
    return invalid_argument("hessian", "must not be all zero: calibration saw no input", 0, 1);
  }
  for (*used = damping; *used <= 10.0; *used *= 10.0) {
    *g = h;
    g->diagonal().array() += *used * mean;
    const Eigen::LLT<AserMatrix> llt(*g);
    if (llt.info() != Eigen::Success) continue;
    *lower = llt.matrixL();
    return Status{};
  }
  return invalid_argument(
      "hessian", "must be positive definite with damping up to 10 times its mean diagonal", k, 10);
}

// Eigenvalues of a positive semidefinite matrix as falling singular values, and their vectors.
inline AserMatrix falling_vectors(const AserMatrix& c, std::vector<double>* sigma) {
  const Eigen::SelfAdjointEigenSolver<AserMatrix> solver(c);
  const Eigen::Index n = c.rows();
  AserMatrix vectors(n, n);
  sigma->clear();
  for (Eigen::Index i = 0; i < n; ++i) {
    sigma->push_back(std::sqrt((std::max)(0.0, solver.eigenvalues()[n - 1 - i])));
    vectors.col(i) = solver.eigenvectors().col(n - 1 - i);
  }
  return vectors;
}

inline std::int64_t aser_rank(const std::vector<double>& sigma, const AserOptions& o) {
  if (o.share == 0.0) return o.rank;
  const auto all = static_cast<std::int64_t>(sigma.size());
  const std::int64_t most = o.max_rank > 0 ? o.max_rank : all;
  const double total = std::accumulate(sigma.begin(), sigma.end(), 0.0);
  std::int64_t rank = 0;
  for (double held = 0.0; rank < all && held < o.share * total; ++rank) {
    held += sigma[static_cast<std::size_t>(rank)];
  }
  rank = (std::max)(rank, o.outliers + 1);
  return (std::min)(rank, most);
}

// A column of L_A or a row of L_B as what attach_low_rank makes of it in 8 bits.
template <class Rank>
void round_to_codes(Rank rank) {
  const double most = static_cast<double>(static_cast<float>(rank.cwiseAbs().maxCoeff()));
  for (Eigen::Index i = 0; i < rank.size(); ++i) {
    const double value = static_cast<double>(static_cast<float>(rank(i)));
    rank(i) = static_cast<double>(low_rank_code(value, most)) * most / 127.0;
  }
}

// Powers of two move magnitude between column j of a and row j of b; then both are rounded.
inline void balance_and_round(int bits, AserMatrix* a, AserMatrix* b, AserFactors* out) {
  for (Eigen::Index j = 0; j < a->cols(); ++j) {
    const double in_a = a->col(j).cwiseAbs().maxCoeff(), in_b = b->row(j).cwiseAbs().maxCoeff();
    if (!(in_a > 0.0 && in_b > 0.0)) continue;
    const double c = std::exp2(std::round(0.5 * std::log2(in_a / in_b)));
    a->col(j) /= c;
    b->row(j) *= c;
  }
  for (Eigen::Index j = 0; bits == 8 && j < a->cols(); ++j) {
    round_to_codes(a->col(j));
    round_to_codes(b->row(j));
  }
  const auto round = [bits](AserMatrix* m, std::vector<float>* values) {
    for (Eigen::Index r = 0; r < m->rows(); ++r) {
      for (Eigen::Index c = 0; c < m->cols(); ++c) {
        const auto value = static_cast<float>((*m)(r, c));
        values->push_back(bits == 8 ? value : to_f32(to_f16(value)));
        (*m)(r, c) = static_cast<double>(values->back());
      }
    }
  };
  round(a, &out->a);
  round(b, &out->b);
}

// M M^T, one half computed.
inline AserMatrix gram(const AserMatrix& m) {
  AserMatrix c = AserMatrix::Zero(m.rows(), m.rows());
  c.selfadjointView<Eigen::Lower>().rankUpdate(m);
  return c.selfadjointView<Eigen::Lower>();
}

}  // namespace detail

// The factors for an error matrix. Errors: kInvalidArgument naming hessian (size, a value that is
// not finite, all zero, not positive definite), error, rank, share, outliers, damping or
// low_rank.bits.
inline Result<AserFactors> aser_factors(const MatrixView<const double>& error,
                                        const std::vector<double>& hessian,
                                        const AserOptions& options = AserOptions{}) {
  if (Status s = validate_view(error, detail::kNamesError); !s) return s;
  const std::int64_t n = error.rows, k = error.cols;
  if (n < 1 || k < 1) return invalid_argument("error", "must not be empty", n < 1 ? n : k, 1);
  if (Status s = detail::validate_aser(n, k, hessian, options); !s) return s;
  detail::AserRowMajor e(n, k);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < k; ++j) {
      e(i, j) = error.row(i)[j];
      if (!detail::aser_finite(e(i, j))) {
        return invalid_argument("error", "must be finite in every row (found: row)", i, n);
      }
    }
  }
  detail::AserMatrix g, lower, a, b;
  AserFactors f;
  if (Status s = detail::damp_and_factor(hessian, k, options.damping, &g, &lower, &f.damping); !s) {
    return s;
  }
  detail::AserMatrix es = e * lower.triangularView<Eigen::Lower>();
  f.base_objective = es.squaredNorm();
  if (n <= k) {
    const detail::AserMatrix u = detail::falling_vectors(detail::gram(es), &f.singular_values);
    f.rank = detail::aser_rank(f.singular_values, options);
    a = u.leftCols(f.rank);
    b = a.transpose() * e;
  } else {
    const detail::AserMatrix v =
        detail::falling_vectors(detail::gram(es.transpose()), &f.singular_values);
    f.rank = detail::aser_rank(f.singular_values, options);
    a = es * v.leftCols(f.rank);
    // V^T S^-1: solve S^T X = V.
    b = lower.transpose().triangularView<Eigen::Upper>().solve(v.leftCols(f.rank)).transpose();
  }
  detail::balance_and_round(options.bits, &a, &b, &f);
  const detail::AserMatrix bs = b * lower.triangularView<Eigen::Lower>();
  es.noalias() -= a * bs;
  f.objective = es.squaredNorm();
  return f;
}

// `base` (quantized from W, or from W with the outliers' columns zeroed) with the branch that
// rebuilds `full` = W~ = transform_weight(W), all inputs in it. hessian: X^T X in the same basis.
// Errors: those of aser_factors and attach_low_rank, kInvalidArgument naming W.
inline Result<AserWeight> aser_weight(const WeightView& base, const MatrixView<const float>& full,
                                      const std::vector<double>& hessian,
                                      const AserOptions& options = AserOptions{}) {
  const Result<detail::AserRowMajor> e = detail::aser_error(base, full);
  if (!e) return e.status();
  Result<AserFactors> f =
      aser_factors(MatrixView<const double>(e->data(), base.n, base.k), hessian, options);
  if (!f) return f.status();
  Result<PreparedWeight> both =
      attach_low_rank(base, MatrixView<const float>(f->a.data(), base.n, f->rank),
                      MatrixView<const float>(f->b.data(), f->rank, base.k), options.bits);
  if (!both) return both.status();
  return AserWeight{std::move(*both), std::move(*f)};
}

// The f outliers of an input, and the divisor; both means [K], of the input and of the columns of
// all weights that share it. Magnitudes are floored at 1e-5; ties go to the lower index.
inline Result<AserSmoothing> aser_smoothing(const std::vector<double>& mean_x,
                                            const std::vector<double>& mean_w,
                                            std::int64_t outliers) {
  const auto k = static_cast<std::int64_t>(mean_x.size());
  if (static_cast<std::int64_t>(mean_w.size()) != k) {
    return invalid_argument("mean_w", "must have one element per input",
                            static_cast<std::int64_t>(mean_w.size()), k);
  }
  if (outliers < 0 || outliers >= k) {
    return invalid_argument("outliers", "must be in [0, K)", outliers, k);
  }
  for (std::int64_t j = 0; j < k; ++j) {
    const double x = mean_x[static_cast<std::size_t>(j)], w = mean_w[static_cast<std::size_t>(j)];
    if (!detail::aser_finite(x) || !detail::aser_finite(w) || x < 0.0 || w < 0.0) {
      return invalid_argument("mean_x", "and mean_w must be finite and >= 0 (found: index)", j, k);
    }
  }
  AserSmoothing s;
  s.divisor.assign(static_cast<std::size_t>(k), 1.0f);
  std::vector<std::int32_t> order(static_cast<std::size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  const auto floored = [&mean_x](std::int32_t j) {
    return (std::max)(1e-5, mean_x[static_cast<std::size_t>(j)]);
  };
  const auto weight = [&](std::int32_t j) {
    return mean_x[static_cast<std::size_t>(j)] * mean_w[static_cast<std::size_t>(j)];
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t i, std::int32_t j) { return weight(i) > weight(j); });
  order.resize(static_cast<std::size_t>(outliers));
  if (outliers == 0) return s;
  double least = floored(order[0]);
  for (const std::int32_t j : order) least = (std::min)(least, floored(j));
  for (const std::int32_t j : order) {
    s.divisor[static_cast<std::size_t>(j)] = static_cast<float>(floored(j) / least);
  }
  std::sort(order.begin(), order.end());
  s.outliers = std::move(order);
  return s;
}

RRS_FUNCTIONS_END
