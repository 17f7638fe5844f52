// The factor of a damped Hessian that GPTQ walks along: U upper, (H + d I)^-1 = U^T U.
//
//   dead inputs (H_jj = 0): H_jj = 1;  d = damping mean(H_jj of the others)
//   J (H + d I) J = L L^T,  J the exchange matrix  =>  U = J L^-1 J
// One Cholesky factorization and one triangular inversion; the inverse itself is never formed.
// When the factorization fails, damping is multiplied by 10 and it is tried again, up to
// kMaxDamping.
//
// from: change_basis (hessian_basis.hpp), or any X^T X.  to: gptq.hpp. One factor serves all
// linears that share an input. Shapes: H, U [K][K] row-major doubles, symmetric H.
// Cost: 2/3 K^3 flops, about 0.5 s for K = 1536 on one core without -m flags. Offline: allocates.
// Paper: Frantar et al., GPTQ, 2023.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "rrs/calibrate/square.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"

RRS_TYPES_BEGIN

struct HessianOptions {
  double damping = 0.01;   // times the mean of the diagonal; > 0
  bool act_order = false;  // columns by falling diagonal (stable), instead of as they come
};

struct HessianFactor {
  std::int64_t k = 0;
  double damping = 0.0;             // what was used in the end, times the mean of the diagonal
  double diagonal = 0.0;            // what was added to the diagonal
  std::vector<double> upper;        // U [K][K] in processing order
  std::vector<std::int32_t> order;  // order[i]: the column processed i-th; empty: as they come
  std::vector<char> dead;           // by column: its input was always 0
};

inline constexpr double kMaxDamping = 10.0;

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

using ColMajorF64 = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;

inline bool is_finite_f64(double x) noexcept {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

// The inverse of a lower triangular matrix in place, by halves:
// [A 0; B C]^-1 = [A^-1 0; -C^-1 B A^-1, C^-1].
inline void invert_lower(Eigen::Ref<ColMajorF64> l) {
  const Eigen::Index n = l.rows();
  if (n <= 48) {
    for (Eigen::Index j = 0; j < n; ++j) {
      l(j, j) = 1.0 / l(j, j);
      for (Eigen::Index i = j + 1; i < n; ++i) {
        double sum = 0.0;
        for (Eigen::Index p = j; p < i; ++p) sum += l(i, p) * l(p, j);
        l(i, j) = -sum / l(i, i);
      }
    }
    return;
  }
  const Eigen::Index a = n / 2, c = n - n / 2;
  invert_lower(l.topLeftCorner(a, a));
  invert_lower(l.bottomRightCorner(c, c));
  const ColMajorF64 right =
      l.bottomLeftCorner(c, a) * l.topLeftCorner(a, a).template triangularView<Eigen::Lower>();
  l.bottomLeftCorner(c, a).noalias() =
      -(l.bottomRightCorner(c, c).template triangularView<Eigen::Lower>() * right);
}

inline Status validate_hessian(const std::vector<double>& h, std::int64_t k, double damping) {
  if (Status s = validate_square(h.size(), k, "hessian"); !s) return s;
  if (!(damping > 0.0 && damping <= kMaxDamping)) {
    return invalid_argument(
        "damping", "times 1000 must be in (0, 10000]",
        damping > 0.0 && damping < 1e9 ? static_cast<std::int64_t>(damping * 1e3) : -1, 10000);
  }
  for (std::int64_t i = 0; i < k * k; ++i) {
    const double value = h[static_cast<std::size_t>(i)];
    if (!is_finite_f64(value) || (i % (k + 1) == 0 && value < 0.0)) {
      return invalid_argument("hessian", "must be finite, its diagonal >= 0 (found: row)", i / k,
                              k);
    }
  }
  return Status{};
}

// Sizes that belong together: a factor that was moved from keeps its K and nothing else.
inline Status validate_factor(const HessianFactor& f) {
  if (Status s = validate_square(f.upper.size(), f.k, "factor.upper"); !s) return s;
  const auto dead = static_cast<std::int64_t>(f.dead.size());
  if (dead != f.k) return invalid_argument("factor.dead", "must have K elements", dead, f.k);
  const auto ordered = static_cast<std::int64_t>(f.order.size());
  if (ordered != 0 && ordered != f.k) {
    return invalid_argument("factor.order", "must have 0 or K elements", ordered, f.k);
  }
  for (const std::int32_t column : f.order) {
    if (column < 0 || column >= f.k) {
      return invalid_argument("factor.order", "must hold columns in [0, K)", column, f.k);
    }
  }
  return Status{};
}

// order[i] for falling diagonal; dead columns, whose diagonal is 0, come last.
inline std::vector<std::int32_t> falling_order(const std::vector<double>& h, std::int64_t k) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  const auto diagonal = [&](std::int32_t i) { return h[static_cast<std::size_t>(i * (k + 1))]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return diagonal(a) > diagonal(b); });
  return order;
}

// J (H + d I) J in processing order, with dead inputs mended.
inline ColMajorF64 reversed_hessian(const std::vector<double>& h, const HessianFactor& f) {
  const std::int64_t k = f.k;
  ColMajorF64 a(k, k);
  for (std::int64_t j = 0; j < k; ++j) {
    const std::int64_t y = f.order.empty() ? j : f.order[static_cast<std::size_t>(j)];
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t x = f.order.empty() ? i : f.order[static_cast<std::size_t>(i)];
      a(k - 1 - i, k - 1 - j) = h[static_cast<std::size_t>(x * k + y)];
    }
    double& diagonal = a(k - 1 - j, k - 1 - j);
    if (f.dead[static_cast<std::size_t>(y)] != 0) diagonal = 1.0;
    diagonal += f.diagonal;
  }
  return a;
}

}  // namespace detail

// Errors: kInvalidArgument for a size, a value that is not finite, damping out of (0, kMaxDamping],
// a Hessian of zeros (no calibration tokens), or one that is not positive definite even with
// kMaxDamping.
inline Result<HessianFactor> factor_hessian(const std::vector<double>& hessian, std::int64_t k,
                                            const HessianOptions& options = HessianOptions{}) {
  if (Status s = detail::validate_hessian(hessian, k, options.damping); !s) return s;
  HessianFactor f;
  f.k = k;
  f.dead.assign(static_cast<std::size_t>(k), 0);
  double trace = 0.0;
  std::int64_t live = 0;
  for (std::int64_t j = 0; j < k; ++j) {
    const double diagonal = hessian[static_cast<std::size_t>(j * (k + 1))];
    trace += diagonal;
    live += diagonal > 0.0 ? 1 : 0;
    f.dead[static_cast<std::size_t>(j)] = diagonal > 0.0 ? 0 : 1;
  }
  if (live == 0) {
    return invalid_argument("hessian", "must not be all zero: calibration saw no input", 0, 1);
  }
  if (options.act_order) f.order = detail::falling_order(hessian, k);
  for (f.damping = options.damping; f.damping <= kMaxDamping; f.damping *= 10.0) {
    f.diagonal = f.damping * trace / static_cast<double>(live);
    detail::ColMajorF64 a = detail::reversed_hessian(hessian, f);
    const Eigen::LLT<Eigen::Ref<detail::ColMajorF64>> llt(a);
    if (llt.info() != Eigen::Success) continue;
    detail::invert_lower(a);
    f.upper.assign(static_cast<std::size_t>(k * k), 0.0);
    bool finite = true;
    for (std::int64_t i = 0; i < k; ++i) {
      for (std::int64_t j = i; j < k; ++j) {
        const double value = a(k - 1 - i, k - 1 - j);
        f.upper[static_cast<std::size_t>(i * k + j)] = value;
        finite = finite && detail::is_finite_f64(value);
      }
    }
    if (finite) return f;
  }
  return invalid_argument("hessian",
                          "must be positive definite with damping up to 10 times its "
                          "mean diagonal (found: K)",
                          k, 10);
}

RRS_FUNCTIONS_END
