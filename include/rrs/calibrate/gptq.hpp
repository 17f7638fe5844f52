// GPTQ and GPTAQ: codes chosen column by column, each error passed on to the columns after it.
//
//   for each column i, in order:  q_i = v rint(clamp(w_i / v)),  e_i = (w_i - q_i) / U_ii
//                                 w_j -= e_i U_ij  (+ w_i P_ij, GPTAQ)          for j > i
//   (H + d I)^-1 = U^T U (hessian_factor.hpp);  sum_i e_i^2 = (w - q) (H + d I) (w - q)^T
//   GPTAQ: P = alpha triu(D U^T, 1) U,  D = (X_fp - X_q)^T X_q,  H = X_q^T X_q
// Scales v by quantize/rtn.hpp: per output channel from the row; per group when the group's first
// column is reached, from the weights as updated by then; or, with static groups, from the weights
// as given. Act-order (options of factor_hessian) implies static groups. A dead input gets weight
// 0.
//
// from: transform_weight (W in the basis of its scheme), factor_hessian in the same basis.
// to: weight_from_quantized(codes, scales, scheme, channels_fingerprint).
// Shapes: W [N,K] f32; codes [N][K] signed; scales [N][groups] f16, rounded before the codes.
// Numeric contract: everything in double but the scale search and the code's product, which are
// RTN's; the same bytes for any executor. Rows are independent of each other.
// Cost: N K^2 flops plus RTN's search; about 6 GFLOP/s and core without -m flags. Offline:
// allocates.
// Papers: Frantar et al., GPTQ, 2023; Li et al., GPTAQ, 2025.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include "rrs/calibrate/allocating_tasks.hpp"
#include "rrs/calibrate/hessian_factor.hpp"
#include "rrs/calibrate/square.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/core/view.hpp"
#include "rrs/quantize/rtn.hpp"

RRS_TYPES_BEGIN

struct GptqOptions {
  bool static_groups = false;
  // GPTAQ's P [K][K] in processing order, from gptaq_correction, or null.
  const std::vector<double>* correction = nullptr;
};

struct GptqResult {
  std::vector<std::int8_t> codes;  // [N][K]
  std::vector<f16> scales;         // [N][groups]
  // tr((W - Q) (H + d I) (W - Q)^T), dead inputs apart; without a correction.
  double objective = 0.0;
};

inline constexpr double kGptaqAlpha = 0.25;

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

inline constexpr std::int64_t kGptqRows = 32;      // rows that walk together
inline constexpr std::int64_t kGptqColumns = 128;  // columns between two products

using RowMajorRows = Eigen::Matrix<double, Eigen::Dynamic, kGptqRows, Eigen::RowMajor>;
using RowMajorSquare = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// One call, shared by its tasks.
struct GptqJob {
  MatrixView<const float> w;
  const HessianFactor& factor;
  WeightScheme scheme;
  const GptqOptions& options;
  bool static_groups = false;
  std::int64_t groups = 0;
  GptqResult* result = nullptr;
  std::vector<double> objectives = {};  // [N]
  std::atomic<std::int64_t> bad_row{INT64_MAX};

  std::int64_t column(std::int64_t i) const {
    return factor.order.empty() ? i : factor.order[static_cast<std::size_t>(i)];
  }
  std::int64_t group_of(std::int64_t column_) const {
    return scheme.group == kRowGroup ? 0 : column_ / scheme.group;
  }
};

inline void note_bad_row(GptqJob& job, std::int64_t row) noexcept {
  std::int64_t seen = job.bad_row.load(std::memory_order_relaxed);
  while (row < seen && !job.bad_row.compare_exchange_weak(seen, row, std::memory_order_relaxed)) {
  }
}

// kGptqRows rows, the last ones possibly missing (zeros).
struct GptqRows {
  std::int64_t first = 0;
  std::int64_t count = 0;
  RowMajorRows w;             // [K][rows], in processing order, as updated
  RowMajorRows error;         // [columns of the block][rows]
  RowMajorRows start;         // the same: w when its column was reached; for GPTAQ
  std::vector<float> values;  // one row of a group
  float scale[kGptqRows] = {};
  float inverse[kGptqRows] = {};
};

inline GptqRows load_gptq_rows(const GptqJob& job, std::int64_t first) {
  GptqRows rows;
  rows.first = first;
  rows.count = job.w.rows - first < kGptqRows ? job.w.rows - first : kGptqRows;
  rows.w.setZero(job.w.cols, kGptqRows);
  for (std::int64_t i = 0; i < job.w.cols; ++i) {
    const std::int64_t c = job.column(i);
    if (job.factor.dead[static_cast<std::size_t>(c)] != 0) continue;
    for (std::int64_t r = 0; r < rows.count; ++r) {
      rows.w(i, r) = static_cast<double>(job.w.row(first + r)[c]);
    }
  }
  return rows;
}

// The scale of group g of row r from `values`, stored; false when f16 cannot hold it.
inline bool store_gptq_scale(GptqJob& job, const GptqRows& rows, std::int64_t r, std::int64_t g) {
  const f16 scale =
      rtn_scale(rows.values.data(), static_cast<std::int64_t>(rows.values.size()), job.scheme);
  job.result->scales[static_cast<std::size_t>((rows.first + r) * job.groups + g)] = scale;
  if (is_finite_f16(scale)) return true;
  note_bad_row(job, rows.first + r);
  return false;
}

// All scales from the weights as given (dead inputs as 0).
inline bool static_gptq_scales(GptqJob& job, GptqRows* rows) {
  const std::int64_t k = job.w.cols;
  const std::int64_t step = job.scheme.group == kRowGroup ? k : job.scheme.group;
  for (std::int64_t r = 0; r < rows->count; ++r) {
    for (std::int64_t begin = 0, g = 0; begin < k; begin += step, ++g) {
      const std::int64_t end = k - begin < step ? k : begin + step;
      rows->values.clear();
      for (std::int64_t c = begin; c < end; ++c) {
        const bool dead = job.factor.dead[static_cast<std::size_t>(c)] != 0;
        rows->values.push_back(dead ? 0.0f : job.w.row(rows->first + r)[c]);
      }
      if (!store_gptq_scale(job, *rows, r, g)) return false;
    }
  }
  return true;
}

// Scales of the group that starts at column i, from the updated weights.
inline bool reached_gptq_scales(GptqJob& job, GptqRows* rows, std::int64_t i) {
  const std::int64_t k = job.w.cols;
  const std::int64_t step = job.scheme.group == kRowGroup ? k : job.scheme.group;
  if (i % step != 0) return true;
  const std::int64_t end = k - i < step ? k : i + step;
  for (std::int64_t r = 0; r < rows->count; ++r) {
    rows->values.clear();
    for (std::int64_t c = i; c < end; ++c) {
      rows->values.push_back(static_cast<float>(rows->w(c, r)));
    }
    if (!store_gptq_scale(job, *rows, r, i / step)) return false;
  }
  return true;
}

inline void select_gptq_scales(const GptqJob& job, GptqRows* rows, std::int64_t g) noexcept {
  for (std::int64_t r = 0; r < rows->count; ++r) {
    const f16 scale =
        job.result->scales[static_cast<std::size_t>((rows->first + r) * job.groups + g)];
    rows->scale[r] = to_f32(scale);
    rows->inverse[r] = rtn_inverse(scale);
  }
}

// Codes of column i, and its errors in row `at` of the block's.
inline void quantize_gptq_column(GptqJob& job, GptqRows* rows, std::int64_t i,
                                 std::int64_t at) noexcept {
  const std::int32_t qmax = max_code(job.scheme.bits);
  const std::int64_t k = job.w.cols;
  const double by = 1.0 / job.factor.upper[static_cast<std::size_t>(i * (k + 1))];
  const std::int64_t c = job.column(i);
  const bool dead = job.factor.dead[static_cast<std::size_t>(c)] != 0;
  for (std::int64_t r = 0; r < rows->count; ++r) {
    const double w = rows->w(i, r);
    const std::int32_t code = rtn_code(static_cast<float>(w), rows->inverse[r], qmax);
    job.result->codes[static_cast<std::size_t>((rows->first + r) * k + c)] =
        static_cast<std::int8_t>(code);
    const double error = (w - static_cast<double>(rows->scale[r]) * code) * by;
    rows->error(at, r) = error;
    rows->start(at, r) = w;
    if (!dead) job.objectives[static_cast<std::size_t>(rows->first + r)] += error * error;
  }
}

// w[j] -= e u for the columns (i, end) of the block; + w p with a correction.
inline void update_gptq_block(const GptqJob& job, GptqRows* rows, std::int64_t i, std::int64_t at,
                              std::int64_t end) noexcept {
  const std::int64_t k = job.w.cols;
  const double* u = job.factor.upper.data() + i * k;
  const double* p =
      job.options.correction == nullptr ? nullptr : job.options.correction->data() + i * k;
  const double* RRS_RESTRICT error = rows->error.data() + at * kGptqRows;
  const double* RRS_RESTRICT start = rows->start.data() + at * kGptqRows;
  for (std::int64_t j = i + 1; j < end; ++j) {
    double* RRS_RESTRICT w = rows->w.data() + j * kGptqRows;
    const double by = u[j];
    for (std::int64_t r = 0; r < kGptqRows; ++r) w[r] -= error[r] * by;
    if (p == nullptr) continue;
    const double with = p[j];
    for (std::int64_t r = 0; r < kGptqRows; ++r) w[r] += start[r] * with;
  }
}

// One block of rows through all columns.
inline void gptq_rows(GptqJob& job, std::int64_t first) {
  GptqRows rows = load_gptq_rows(job, first);
  if (job.static_groups && !static_gptq_scales(job, &rows)) return;
  const std::int64_t k = job.w.cols;
  const Eigen::Map<const RowMajorSquare> upper(job.factor.upper.data(), k, k);
  for (std::int64_t begin = 0; begin < k; begin += kGptqColumns) {
    const std::int64_t columns = k - begin < kGptqColumns ? k - begin : kGptqColumns;
    const std::int64_t end = begin + columns;
    rows.error.setZero(columns, kGptqRows);
    rows.start.setZero(columns, kGptqRows);
    std::int64_t group = -1;
    for (std::int64_t i = begin; i < end; ++i) {
      if (!job.static_groups && !reached_gptq_scales(job, &rows, i)) return;
      const std::int64_t g = job.group_of(job.column(i));
      if (g != group) select_gptq_scales(job, &rows, g);
      group = g;
      quantize_gptq_column(job, &rows, i, i - begin);
      update_gptq_block(job, &rows, i, i - begin, end);
    }
    if (end == k) break;
    rows.w.bottomRows(k - end).noalias() -=
        upper.block(begin, end, columns, k - end).transpose() * rows.error;
    if (job.options.correction == nullptr) continue;
    const Eigen::Map<const RowMajorSquare> p(job.options.correction->data(), k, k);
    rows.w.bottomRows(k - end).noalias() +=
        p.block(begin, end, columns, k - end).transpose() * rows.start;
  }
}

inline Status validate_gptq(const MatrixView<const float>& w, const HessianFactor& factor,
                            const WeightScheme& scheme, const GptqOptions& options) {
  if (Status s = validate_view(erase(w), kNamesW); !s) return s;
  Scheme whole;
  whole.weight = scheme;
  if (Status s = validate(whole); !s) return s;
  if (factor.k != w.cols) {
    return invalid_argument("factor", "must have the K of W", factor.k, w.cols);
  }
  if (Status s = validate_factor(factor); !s) return s;
  if (options.correction != nullptr) {
    if (Status s = validate_square(options.correction->size(), w.cols, "correction"); !s) return s;
  }
  for (std::int64_t n = 0; n < w.rows; ++n) {
    if (!group_extremes(w.row(n), w.cols).finite) {
      return invalid_argument("W", "must be finite in every row (found: row)", n, w.rows);
    }
  }
  return Status{};
}

}  // namespace detail

// Errors: kInvalidArgument naming W, factor (also one that was moved from) or correction (with the
// row, where there is one), kInvalidScheme, kOutOfMemory (or std::bad_alloc, outside the tasks).
template <class Executor = SerialExecutor>
Result<GptqResult> gptq(const MatrixView<const float>& W, const HessianFactor& factor,
                        const WeightScheme& scheme, const GptqOptions& options = GptqOptions{},
                        const Executor& executor = Executor{}) {
  if (Status s = detail::validate_gptq(W, factor, scheme, options); !s) return s;
  GptqResult result;
  detail::GptqJob job{W, factor, scheme, options};
  job.static_groups = options.static_groups || !factor.order.empty();
  job.groups = group_count(W.cols, scheme.group);
  job.result = &result;
  job.objectives.assign(static_cast<std::size_t>(W.rows), 0.0);
  result.codes.assign(static_cast<std::size_t>(W.rows * W.cols), 0);
  result.scales.assign(static_cast<std::size_t>(W.rows * job.groups), f16{0});
  const Status ran = detail::run_allocating_tasks(
      executor, (W.rows + detail::kGptqRows - 1) / detail::kGptqRows,
      [&job](std::int64_t task) { detail::gptq_rows(job, task * detail::kGptqRows); });
  if (!ran) return ran;
  if (const std::int64_t row = job.bad_row.load(); row != INT64_MAX) {
    return invalid_argument("W", "must give group scales within 65504 in every row (found: row)",
                            row, W.rows);
  }
  for (const double objective : job.objectives) result.objective += objective;
  return result;
}

// GPTAQ's P from D = (X_fp - X_q)^T X_q [K][K], in the columns' own order (it is brought into the
// factor's). alpha 0.25 in the authors' code. Errors: kInvalidArgument, kOutOfMemory as above.
template <class Executor = SerialExecutor>
Result<std::vector<double>> gptaq_correction(const std::vector<double>& d,
                                             const HessianFactor& factor,
                                             double alpha = kGptaqAlpha,
                                             const Executor& executor = Executor{}) {
  const std::int64_t k = factor.k;
  if (Status s = detail::validate_factor(factor); !s) return s;
  if (Status s = detail::validate_square(d.size(), k, "D"); !s) return s;
  std::vector<double> p(d.size());
  const Eigen::Map<const detail::RowMajorSquare> upper(factor.upper.data(), k, k);
  constexpr std::int64_t kRows = 64;
  const auto multiply = [&](std::int64_t task) {
    const std::int64_t first = task * kRows;
    const std::int64_t count = k - first < kRows ? k - first : kRows;
    detail::RowMajorSquare part(count, k);
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t j = 0; j < k; ++j) {
        const auto at = [&](std::int64_t i) {
          return static_cast<std::int64_t>(
              factor.order.empty() ? i : factor.order[static_cast<std::size_t>(i)]);
        };
        const std::int64_t row = at(first + r), column = at(j);
        const bool dead = factor.dead[static_cast<std::size_t>(row)] != 0 ||
                          factor.dead[static_cast<std::size_t>(column)] != 0;
        part(r, j) = dead ? 0.0 : d[static_cast<std::size_t>(row * k + column)];
      }
    }
    detail::RowMajorSquare product = part * upper.transpose();
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t j = 0; j <= first + r; ++j) product(r, j) = 0.0;
    }
    Eigen::Map<detail::RowMajorSquare> out(p.data() + first * k, count, k);
    out.noalias() = alpha * product * upper;
  };
  if (Status s = detail::run_allocating_tasks(executor, (k + kRows - 1) / kRows, multiply); !s) {
    return s;
  }
  for (const double value : p) {
    if (!detail::is_finite_f64(value)) {
      return invalid_argument("D", "must be finite (found: K)", k, k);
    }
  }
  return p;
}

RRS_FUNCTIONS_END
