// A Hessian in the basis in which a weight is quantized.
//
//   x~ = (x / divisor) P D R (group permutation)  =>  H~ = B^T H B,   H = X^T X
//   divisor: H[i][j] / (d_i d_j);  P: H[p_i][p_j];  rotation: rows, then columns, of a symmetric
//   matrix
//
// from: InputStatistics::hessian (statistics.hpp).  to: gptq.hpp, aser.hpp; the weight's side is
// transform_weight (pipeline/weight.hpp), which takes the same scheme and channels.
// Shapes: H [K][K], symmetric. Everything in double, with the coefficients that the run-time
// rotation uses; the result is made exactly symmetric.
// Cost: 4 K^2 additions_per_element; nothing next to a factorization. Offline: allocates.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "rrs/calibrate/allocating_tasks.hpp"
#include "rrs/calibrate/square.hpp"
#include "rrs/core/aligned_buffer.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/pipeline/weight.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

// S_(2^k) on n contiguous values, unnormalised.
inline void butterflies_f64(double* x, std::int64_t n) noexcept {
  for (std::int64_t half = 1; half < n; half *= 2) {
    for (std::int64_t start = 0; start < n; start += 2 * half) {
      double* RRS_RESTRICT a = x + start;
      double* RRS_RESTRICT b = x + start + half;
      for (std::int64_t i = 0; i < half; ++i) {
        const double sum = a[i] + b[i];
        b[i] = a[i] - b[i];
        a[i] = sum;
      }
    }
  }
}

// Entry (i, j) of a dense factor, unnormalised up to `table`'s own scale.
inline double factor_entry(const HadamardFactor& factor, const float* table, std::int64_t i,
                           std::int64_t j) noexcept {
  const std::int64_t m = factor.order;
  return static_cast<double>(is_large_hartley(factor) ? table[i * j % m] : table[i * m + j]);
}

// The factor along its axis of the row seen as [outer][order][columns].
inline void factor_f64(const HadamardFactor& factor, const float* table, std::int64_t columns,
                       std::int64_t n, std::vector<double>* spare, double* x) {
  const std::int64_t m = factor.order;
  spare->resize(static_cast<std::size_t>(m * columns));
  for (std::int64_t start = 0; start < n; start += m * columns) {
    double* segment = x + start;
    for (std::int64_t i = 0; i < m; ++i) {
      double* out = spare->data() + i * columns;
      for (std::int64_t c = 0; c < columns; ++c) out[c] = 0.0;
      for (std::int64_t j = 0; j < m; ++j) {
        const double entry = factor_entry(factor, table, i, j);
        const double* in = segment + j * columns;
        for (std::int64_t c = 0; c < columns; ++c) out[c] += entry * in[c];
      }
    }
    for (std::int64_t c = 0; c < m * columns; ++c)
      segment[c] = (*spare)[static_cast<std::size_t>(c)];
  }
}

inline void full_f64(const RotationPlan& plan, std::vector<double>* spare, double* x) {
  const HadamardPlan& h = plan.full;
  std::int64_t columns = std::int64_t{1} << h.log2_segment;
  for (std::int64_t start = 0; start < plan.k; start += columns) {
    butterflies_f64(x + start, columns);
  }
  for (int f = h.log2_segment > 0 ? 1 : 0; f < h.factor_count; ++f) {
    factor_f64(h.factors[f], hadamard_table(h, f, plan.tables), columns, plan.k, spare, x);
    columns *= h.factors[f].order;
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(plan.k));
  for (std::int64_t i = 0; i < plan.k; ++i) x[i] *= scale;
}

// rotate_row in double.
inline void rotate_row_f64(const RotationPlan& plan, std::vector<double>* spare, double* x) {
  if (plan.rotation.kind == RotationKind::kNone) return;
  for (std::int64_t i = 0; plan.signs != nullptr && i < plan.k; ++i) {
    x[i] *= static_cast<double>(plan.signs[i]);
  }
  if (plan.rotation.kind == RotationKind::kFull) return full_f64(plan, spare, x);
  std::int64_t size = plan.rotation.block;
  for (std::int64_t done = 0; done < plan.k; done += size) {
    while (size > plan.k - done) size /= 2;
    butterflies_f64(x + done, size);
    const double scale = 1.0 / std::sqrt(static_cast<double>(size));
    for (std::int64_t i = done; i < done + size; ++i) x[i] *= scale;
  }
}

// m[i][j] = m[p_i][p_j] / (d_p d_q); either may be null.
inline void permute_both(const std::int32_t* p, const float* divisor, std::int64_t k,
                         std::vector<double>* m) {
  if (p == nullptr && divisor == nullptr) return;
  std::vector<double> out(m->size());
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t from = p == nullptr ? i : p[i];
    const double by = divisor == nullptr ? 1.0 : static_cast<double>(divisor[from]);
    const double* row = m->data() + from * k;
    for (std::int64_t j = 0; j < k; ++j) {
      const std::int64_t at = p == nullptr ? j : p[j];
      const double other = divisor == nullptr ? 1.0 : static_cast<double>(divisor[at]);
      out[static_cast<std::size_t>(i * k + j)] = row[at] / (by * other);
    }
  }
  m->swap(out);
}

inline void transpose_square(std::int64_t k, std::vector<double>* m) {
  double* x = m->data();
  constexpr std::int64_t kTile = 32;
  for (std::int64_t a = 0; a < k; a += kTile) {
    for (std::int64_t b = a; b < k; b += kTile) {
      for (std::int64_t i = a; i < a + kTile && i < k; ++i) {
        for (std::int64_t j = b > i ? b : i + 1; j < b + kTile && j < k; ++j) {
          std::swap(x[i * k + j], x[j * k + i]);
        }
      }
    }
  }
}

template <class Executor>
Status rotate_rows_f64(const RotationPlan& plan, std::vector<double>* m, const Executor& executor) {
  constexpr std::int64_t kRows = 16;
  return run_allocating_tasks(executor, (plan.k + kRows - 1) / kRows, [&](std::int64_t task) {
    std::vector<double> spare;
    for (std::int64_t i = task * kRows; i < (task + 1) * kRows && i < plan.k; ++i) {
      rotate_row_f64(plan, &spare, m->data() + i * plan.k);
    }
  });
}

}  // namespace detail

// Any square matrix M [K][K] of two inputs in the model's basis becomes B^T M B. For symmetric M
// the result is exactly symmetric when `symmetric` says so. Errors: kInvalidArgument, kOutOfMemory
// (or std::bad_alloc; M is then unspecified).
template <class Executor = SerialExecutor>
Status change_basis(const Scheme& scheme, const LayerChannels& channels, std::int64_t k,
                    bool symmetric, std::vector<double>* m, const Executor& executor = Executor{}) {
  if (m == nullptr) return invalid_argument("hessian", "must not be null", 0, 1);
  if (Status s = detail::validate_square(m->size(), k, "hessian"); !s) return s;
  if (Status s = validate(scheme.rotation, k); !s) return s;
  if (Status s = detail::validate_weight_channels(channels, scheme, k); !s) return s;
  RotationPlan plan = plan_rotation(scheme.rotation, k);
  AlignedBuffer tables;
  if (Status s = tables.allocate(static_cast<std::int64_t>(rotation_tables_bytes(plan))); !s) {
    return s;
  }
  build_rotation_tables(&plan, tables.data());
  detail::permute_both(channels.input_permutation, channels.divisor, k, m);
  if (plan.rotation.kind != RotationKind::kNone) {
    if (Status s = detail::rotate_rows_f64(plan, m, executor); !s) return s;
    detail::transpose_square(k, m);
    if (Status s = detail::rotate_rows_f64(plan, m, executor); !s) return s;
    if (!symmetric) detail::transpose_square(k, m);
  }
  detail::permute_both(channels.group_permutation, nullptr, k, m);
  for (std::int64_t i = 0; symmetric && i < k; ++i) {
    for (std::int64_t j = 0; j < i; ++j) {
      (*m)[static_cast<std::size_t>(i * k + j)] = (*m)[static_cast<std::size_t>(j * k + i)];
    }
  }
  return Status{};
}

RRS_FUNCTIONS_END
