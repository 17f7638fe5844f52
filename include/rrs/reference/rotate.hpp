// Oracle of the rotate stage: double, plain loops, by definition. No dispatch, no intrinsics.
//
//   x~ = x D H      H = (C_r x ... x C_1 x S_k) / sqrt(n)
//
// Shares only the factors' definition with rotate/ (which tests check on their own: symmetric, H
// H^T = n I); a Hartley factor is evaluated here in double from cos and sin. Allocates; tests and
// offline use only.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/rotate/hadamard.hpp"
#include "rrs/rotate/hadamard_factors.hpp"

RRS_FUNCTIONS_BEGIN
namespace reference {

// One unnormalised factor as a dense row-major matrix.
inline std::vector<double> factor_matrix(const HadamardFactor& factor) {
  const auto n = static_cast<std::size_t>(factor.order);
  std::vector<double> h(n * n);
  if (factor.kind == FactorKind::kSylvester) {
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        int parity = 0;
        for (std::size_t both = i & j; both != 0; both &= both - 1) parity ^= 1;
        h[i * n + j] = parity != 0 ? -1.0 : 1.0;
      }
    }
  } else if (factor.kind == FactorKind::kHartley) {
    const double step = 2.0 * std::acos(-1.0) / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        const double angle = step * static_cast<double>(i * j % n);
        h[i * n + j] = std::cos(angle) + std::sin(angle);
      }
    }
  } else {
    std::vector<float> table(n * n);
    if (factor.kind == FactorKind::kPaley1) {
      rrs::detail::fill_paley1(factor.order, table.data());
    } else {
      rrs::detail::fill_paley2(factor.order, table.data());
    }
    for (std::size_t i = 0; i < n * n; ++i) h[i] = static_cast<double>(table[i]);
  }
  return h;
}

// The unnormalised matrix of a plan, by the definition of the Kronecker product; for small orders.
inline std::vector<double> hadamard_matrix(const HadamardPlan& plan) {
  std::vector<double> h{1.0};
  std::size_t n = 1;
  for (int f = 0; f < plan.factor_count; ++f) {
    const std::vector<double> c = factor_matrix(plan.factors[f]);
    const auto m = static_cast<std::size_t>(plan.factors[f].order);
    std::vector<double> product(n * m * n * m);
    for (std::size_t i = 0; i < n * m; ++i) {
      for (std::size_t j = 0; j < n * m; ++j) {
        product[i * n * m + j] = c[i / n * m + j / n] * h[i % n * n + j % n];
      }
    }
    h.swap(product);
    n *= m;
  }
  return h;
}

// The same transform of one row, factor by factor, for any order.
inline void hadamard_transform(const HadamardPlan& plan, double* x) {
  const std::int64_t n = plan.order;
  std::int64_t columns = 1;
  for (; columns < std::int64_t{1} << plan.log2_segment; columns *= 2) {
    for (std::int64_t i = 0; i < n; ++i) {
      if ((i / columns) % 2 != 0) continue;
      const double a = x[i];
      const double b = x[i + columns];
      x[i] = a + b;
      x[i + columns] = a - b;
    }
  }
  for (int f = plan.log2_segment > 0 ? 1 : 0; f < plan.factor_count; ++f) {
    const std::int64_t m = plan.factors[f].order;
    const bool large = m > 1024;  // no m x m matrix then: entries from the table of cas
    std::vector<double> c;
    if (!large) c = factor_matrix(plan.factors[f]);
    std::vector<double> cas;
    const double step = 2.0 * std::acos(-1.0) / static_cast<double>(m);
    for (std::int64_t r = 0; large && r < m; ++r) {
      cas.push_back(std::cos(step * static_cast<double>(r)) +
                    std::sin(step * static_cast<double>(r)));
    }
    std::vector<double> in(static_cast<std::size_t>(m));
    for (std::int64_t start = 0; start < n; ++start) {
      if ((start / columns) % m != 0) continue;
      for (std::int64_t j = 0; j < m; ++j) {
        in[static_cast<std::size_t>(j)] = x[start + j * columns];
      }
      for (std::int64_t i = 0; i < m; ++i) {
        double sum = 0.0;
        for (std::int64_t j = 0; j < m; ++j) {
          const double entry = large ? cas[static_cast<std::size_t>(i * j % m)]
                                     : c[static_cast<std::size_t>(i * m + j)];
          sum += entry * in[static_cast<std::size_t>(j)];
        }
        x[start + i * columns] = sum;
      }
    }
    columns *= m;
  }
  for (std::int64_t i = 0; i < n; ++i) x[i] /= std::sqrt(static_cast<double>(n));
}

// One row of k values, as rotate_row defines it. signs: [k] of +-1, or null.
inline void rotate_row(const Rotation& rotation, const float* signs, std::int64_t k, double* x) {
  if (rotation.kind == RotationKind::kNone) return;
  for (std::int64_t i = 0; signs != nullptr && i < k; ++i) x[i] *= static_cast<double>(signs[i]);
  if (rotation.kind == RotationKind::kFull) return hadamard_transform(plan_hadamard(k), x);
  std::int64_t size = rotation.block;
  for (std::int64_t done = 0; done < k; done += size) {
    while (size > k - done) size /= 2;
    hadamard_transform(plan_hadamard(size), x + done);
  }
}

}  // namespace reference
RRS_FUNCTIONS_END
