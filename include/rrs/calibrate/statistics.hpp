// Statistics of one linear's input, gathered while the float model runs over calibration text.
//
//   maxima[k]     = max_t |x[t,k]|
//   sums[k]       = sum_t |x[t,k]|                     mean magnitude = sums / tokens
//   relative[k]   = sum_t |x[t,k]| / rms(x[t,:])       zigzag's magnitude; all-zero tokens left out
//   token_maxima  = max_k |x[t,k]| of every token, in order   (QFeM's token scales)
//   hessian       = X^T X  [K][K], in double, when asked for
// in the basis of the model, not rotated: every basis in which a weight is quantized is a linear
// map B of it, and B^T H B is the Hessian there (calibrate/hessian_basis.hpp). One pass over the
// model therefore serves every method, rotation and sign seed.
//
// from: the inputs of a linear, one call per sequence.  to: smoothquant, zigzag, gptq, aser,
// spikes. Shapes: X [T,K] f32. Memory: 8 K^2 bytes for the Hessian, 4 bytes per token, 20 bytes per
// channel.
// Numeric contract: the same bits for any executor. Products of the Hessian are summed in f32 over
// kGramTokens tokens, then in double: |error| <= kGramTokens 2^-24 (1 + 2^-10) sum_t |x_i x_j|
// per element, 7.6e-6 relative; everything else is summed in double, in token order.
// Cost: K^2 flops per token with the Hessian (half of 2 K^2, by symmetry), at about 13 GFLOP/s
// a core without any -m flag (tiles of 96: 8, of 288: 11). Offline: allocates.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include "rrs/calibrate/allocating_tasks.hpp"
#include "rrs/calibrate/input_statistics.hpp"
#include "rrs/calibrate/square.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/core/view.hpp"

RRS_TYPES_BEGIN

// Tokens whose products are summed in f32, and the edge of a tile of the Hessian.
inline constexpr std::int64_t kGramTokens = 128;
inline constexpr std::int64_t kGramTile = 192;
// Largest magnitude whose squares, summed over kGramTokens tokens, stay finite in f32.
inline constexpr float kMaxCalibrationMagnitude = 0x1p60f;

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

using RowMajorF32 = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowMajorF64 = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using MapF64 = Eigen::Map<RowMajorF64>;
using ConstMapF64 = Eigen::Map<const RowMajorF64>;
using ConstStridedF32 = Eigen::Map<const RowMajorF32, 0, Eigen::OuterStride<>>;

// Tile (a, b), b >= a, of X^T X, added to both of its places in the Hessian.
inline void add_gram_tile(const MatrixView<const float>& x, std::int64_t a, std::int64_t b,
                          double* hessian) {
  const std::int64_t k = x.cols;
  const std::int64_t rows = k - a < kGramTile ? k - a : kGramTile;
  const std::int64_t cols = k - b < kGramTile ? k - b : kGramTile;
  const ConstStridedF32 all(x.data, x.rows, k, Eigen::OuterStride<>(x.row_stride));
  MapF64 h(hessian, k, k);
  RowMajorF32 product(rows, cols);
  for (std::int64_t t = 0; t < x.rows; t += kGramTokens) {
    const std::int64_t count = x.rows - t < kGramTokens ? x.rows - t : kGramTokens;
    product.noalias() = all.block(t, a, count, rows).transpose() * all.block(t, b, count, cols);
    h.block(a, b, rows, cols) += product.cast<double>();
  }
  if (a == b) {  // the lower half copies the upper, so that the result is exactly symmetric
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < i; ++j) h(a + i, a + j) = h(a + j, a + i);
    }
  } else {
    h.block(b, a, cols, rows) = h.block(a, b, rows, cols).transpose();
  }
}

// The channels [first, last) of everything but the Hessian.
inline void add_channels(const MatrixView<const float>& x, const double* inverse_rms,
                         std::int64_t first, std::int64_t last, InputStatistics* s) {
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const float* row = x.row(t);
    const double scale = inverse_rms[t];
    for (std::int64_t c = first; c < last; ++c) {
      const auto j = static_cast<std::size_t>(c);
      const float magnitude = std::fabs(row[c]);
      if (magnitude > s->maxima[j]) s->maxima[j] = magnitude;
      s->sums[j] += static_cast<double>(magnitude);
      s->relative[j] += static_cast<double>(magnitude) * scale;
    }
  }
}

// Largest magnitude of a row by its bits, so that NaN and Inf are seen under -ffast-math too.
inline std::uint32_t largest_bits(const float* row, std::int64_t n) noexcept {
  std::uint32_t worst = 0;
  for (std::int64_t c = 0; c < n; ++c) {
    const std::uint32_t magnitude = float_bits(row[c]) & 0x7fffffffu;
    worst = magnitude > worst ? magnitude : worst;
  }
  return worst;
}

// What the calls before left: a moved-from object keeps its count of tokens and nothing else.
inline Status validate_statistics(const InputStatistics& s) {
  const std::size_t k = s.maxima.size();
  const auto inputs = static_cast<std::int64_t>(k);
  const bool square =
      s.hessian.empty() || validate_square(s.hessian.size(), inputs, "hessian").ok();
  if (s.sums.size() == k && s.relative.size() == k && square && s.tokens >= 0 &&
      s.token_maxima.size() == static_cast<std::size_t>(s.tokens)) {
    return Status{};
  }
  return invalid_argument("statistics",
                          "must be as the last call left them, or new (found: channels)", inputs,
                          s.tokens);
}

inline Status validate_calibration_rows(const MatrixView<const float>& x,
                                        const InputStatistics& s) {
  if (Status e = validate_view(erase(x), kNamesX); !e) return e;
  if (x.cols < 1) return invalid_argument("X.cols", "must be at least 1", x.cols, 1);
  if (x.cols > kMaxInputs) return invalid_argument("X.cols", "must fit int32", x.cols, kMaxInputs);
  if (Status e = validate_statistics(s); !e) return e;
  if (!s.maxima.empty() && static_cast<std::int64_t>(s.maxima.size()) != x.cols) {
    return invalid_argument("X.cols", "must equal the number of channels so far", x.cols,
                            static_cast<std::int64_t>(s.maxima.size()));
  }
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const std::uint32_t worst = largest_bits(x.row(t), x.cols);
    if (!is_finite_bits(worst)) {
      return Status{StatusCode::kNonFinite, "X", "must be finite (found: row)", t, x.rows, nullptr};
    }
    if (float_from_bits(worst) > kMaxCalibrationMagnitude) {
      return invalid_argument("X", "must be at most 2^60 in magnitude (found: row)", t, x.rows);
    }
  }
  return Status{};
}

inline double inverse_rms_of(const float* row, std::int64_t n) noexcept {
  double squares = 0.0;
  for (std::int64_t c = 0; c < n; ++c) {
    squares += static_cast<double>(row[c]) * static_cast<double>(row[c]);
  }
  return squares > 0.0 ? std::sqrt(static_cast<double>(n) / squares) : 0.0;
}

}  // namespace detail

// Adds the rows of one sequence. `with_hessian` must be the same in every call. Errors:
// kNonFinite with the row, kInvalidArgument; `s` is then as before. kOutOfMemory (or
// std::bad_alloc, outside the tasks): `s` is then unspecified, begin anew.
template <class Executor = SerialExecutor>
Status update_statistics(const MatrixView<const float>& X, bool with_hessian, InputStatistics* s,
                         const Executor& executor = Executor{}) {
  if (s == nullptr) return invalid_argument("statistics", "must not be null", 0, 1);
  if (Status e = detail::validate_calibration_rows(X, *s); !e) return e;
  const std::int64_t k = X.cols;
  const auto channels = static_cast<std::size_t>(k);
  if (!s->maxima.empty() && with_hessian == s->hessian.empty()) {
    return invalid_argument("with_hessian", "must be the same in every call", with_hessian ? 1 : 0,
                            with_hessian ? 0 : 1);
  }
  if (s->maxima.empty()) {
    s->maxima.assign(channels, 0.0f);
    s->sums.assign(channels, 0.0);
    s->relative.assign(channels, 0.0);
    if (with_hessian) s->hessian.assign(channels * channels, 0.0);
  }
  std::vector<double> inverse_rms(static_cast<std::size_t>(X.rows));
  s->sequence_starts.push_back(s->tokens);
  for (std::int64_t t = 0; t < X.rows; ++t) {
    inverse_rms[static_cast<std::size_t>(t)] = detail::inverse_rms_of(X.row(t), k);
    s->token_maxima.push_back(float_from_bits(detail::largest_bits(X.row(t), k)));
  }
  constexpr std::int64_t kChannels = 64;
  detail::run_tasks(executor, (k + kChannels - 1) / kChannels, [&](std::int64_t task) noexcept {
    const std::int64_t first = task * kChannels;
    const std::int64_t last = k - first < kChannels ? k : first + kChannels;
    detail::add_channels(X, inverse_rms.data(), first, last, s);
  });
  s->tokens += X.rows;
  if (!with_hessian) return Status{};
  std::vector<std::pair<std::int64_t, std::int64_t>> tiles;
  for (std::int64_t a = 0; a < k; a += kGramTile) {
    for (std::int64_t b = a; b < k; b += kGramTile) tiles.emplace_back(a, b);
  }
  const auto add_tile = [&](std::int64_t task) {
    const auto [a, b] = tiles[static_cast<std::size_t>(task)];
    detail::add_gram_tile(X, a, b, s->hessian.data());
  };
  return detail::run_allocating_tasks(executor, static_cast<std::int64_t>(tiles.size()), add_tile);
}

RRS_FUNCTIONS_END
