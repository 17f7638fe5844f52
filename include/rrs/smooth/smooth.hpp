// Runtime smoothing scales: which rows share them, and what they are.
//
//   s[b,g] = max(floor, max over finite rows t of window b, inputs k of group g, of |x~[t,k]|)
//
// from: rotate/ (f32 rows; the level's `extremes` leaf gives positive[t,g] and negative[t,g], the
//   largest magnitudes among the values of each sign).  to: quantize/quantize.hpp.
// Shapes: extremes are [rows][groups], scales [groups] per window; units are those of x~.
// Contract: exact (maxima only), so the same bits on every level and for any split of the rows. A
//   maximum below 2^-100 counts as zero: s = 0. Rows with a NaN or Inf are as if absent.
// Cost: the extremes are one pass over the row; everything here is per group, hence 1/group of it.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"

RRS_TYPES_BEGIN

// Rows [first, last) of the call.
struct WindowRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

// Rows at which sequences begin, ascending; row 0 always begins one, named or not. Null with count
// 0: the call is one sequence. Equal neighbours are an empty sequence.
struct SequenceStarts {
  const std::int64_t* rows = nullptr;
  std::int64_t count = 0;
};

// Extremes of consecutive rows, each [rows][groups] and contiguous.
struct Extremes {
  const float* positive = nullptr;
  const float* negative = nullptr;
  std::int64_t groups = 0;

  // Those of row t alone.
  RRS_MEMBER Extremes row(std::int64_t t) const noexcept {
    return Extremes{positive + t * groups, negative + t * groups, groups};
  }
};

// The windows of a call, in order: WindowRange r; while (walk.next(&r)) ... Never an empty range.
// `frozen` has no maxima to share; its ranges are the sequences.
class WindowWalk {
 public:
  RRS_MEMBER WindowWalk(const Window& window, std::int64_t m, SequenceStarts starts) noexcept
      : starts_(starts), rows_(m) {
    if (window.kind == WindowKind::kOne) step_ = 1;
    if (window.kind == WindowKind::kRows) step_ = window.rows;
  }

  // Writes the next window; false after the last.
  RRS_MEMBER bool next(WindowRange* range) noexcept {
    if (row_ >= rows_) return false;
    while (index_ < starts_.count && starts_.rows[index_] <= row_) ++index_;
    const std::int64_t end = index_ < starts_.count ? starts_.rows[index_] : rows_;
    range->first = row_;
    range->last = step_ > 0 && step_ < end - row_ ? row_ + step_ : end;
    row_ = range->last;
    return true;
  }

 private:
  SequenceStarts starts_;
  std::int64_t rows_ = 0;
  std::int64_t step_ = 0;  // 0: up to the end of the sequence
  std::int64_t row_ = 0;
  std::int64_t index_ = 0;
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// Errors: starts of sequences that are null, negative, not ascending or beyond m.
inline Status validate_sequence_starts(SequenceStarts starts, std::int64_t m) noexcept {
  if (starts.count < 0) {
    return invalid_argument("sequence_starts.count", "must not be negative", starts.count, 0);
  }
  if (starts.count > 0 && starts.rows == nullptr) {
    return invalid_argument("sequence_starts.rows", "must not be null", 0, starts.count);
  }
  std::int64_t previous = 0;
  for (std::int64_t i = 0; i < starts.count; ++i) {
    const std::int64_t row = starts.rows[i];
    if (row < previous) {
      return i == 0 ? invalid_argument("sequence_starts", "must not be negative", row, 0)
                    : invalid_argument("sequence_starts", "must be ascending", row, previous);
    }
    if (row > m) return invalid_argument("sequence_starts", "must be at most X.rows", row, m);
    previous = row;
  }
  return Status{};
}

// Number of ranges that the walk will give.
inline std::int64_t window_count(const Window& window, std::int64_t m,
                                 SequenceStarts starts) noexcept {
  WindowWalk walk(window, m, starts);
  WindowRange range;
  std::int64_t count = 0;
  while (walk.next(&range)) ++count;
  return count;
}

// False when the row held a NaN or Inf: an integer test, since comparisons with NaN may be
// optimised.
inline bool row_is_finite(const Extremes& row) noexcept {
  std::uint32_t largest = 0;
  for (std::int64_t g = 0; g < row.groups; ++g) {
    const std::uint32_t p = float_bits(row.positive[g]);
    const std::uint32_t n = float_bits(row.negative[g]);
    const std::uint32_t pair = p > n ? p : n;
    largest = pair > largest ? pair : largest;
  }
  return largest < 0x7f800000u;
}

// scales[g] of one window. `extremes` starts at row 0 of the call; maxima go by bits, which order
// like values for numbers >= +0.
inline void window_scales(const Extremes& extremes, WindowRange window, float floor,
                          float* scales) noexcept {
  for (std::int64_t g = 0; g < extremes.groups; ++g) scales[g] = floor;
  for (std::int64_t t = window.first; t < window.last; ++t) {
    const Extremes row = extremes.row(t);
    if (!row_is_finite(row)) continue;
    for (std::int64_t g = 0; g < row.groups; ++g) {
      const std::uint32_t p = float_bits(row.positive[g]);
      const std::uint32_t n = float_bits(row.negative[g]);
      const std::uint32_t pair = p > n ? p : n;
      const std::uint32_t old = float_bits(scales[g]);
      scales[g] = float_from_bits(pair > old ? pair : old);
    }
  }
  for (std::int64_t g = 0; g < extremes.groups; ++g) {
    scales[g] = scales[g] < kZeroMagnitude ? 0.0f : scales[g];
  }
}

// column_max[k] = max(column_max[k], |x[k]|): channel maxima over a window, for exact_reference.
// The caller skips non-finite rows and starts from zeros.
inline void accumulate_column_max(const float* x, std::int64_t k, float* column_max) noexcept {
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int32_t bits = static_cast<std::int32_t>(float_bits(x[i]) & 0x7fffffffu);
    const std::int32_t old = static_cast<std::int32_t>(float_bits(column_max[i]));
    column_max[i] = float_from_bits(static_cast<std::uint32_t>(bits > old ? bits : old));
  }
}

namespace detail {

// Merges the sorted runs [first, middle) and [middle, last) of `from` into `to`; on a tie the left
// run, which holds the smaller indices, goes first.
inline void merge_channels(const float* key, const std::int32_t* from, std::int32_t* to,
                           std::int64_t first, std::int64_t middle, std::int64_t last) noexcept {
  std::int64_t left = first;
  std::int64_t right = middle;
  for (std::int64_t i = first; i < last; ++i) {
    const bool take_left = left < middle && (right >= last || float_bits(key[from[left]]) >=
                                                                  float_bits(key[from[right]]));
    to[i] = take_left ? from[left++] : from[right++];
  }
}

}  // namespace detail

// permutation[i] = channel with the i-th largest maximum, ties by index (a stable descending sort,
// as the published reference has it). Maxima are finite and >= 0. `scratch` holds k indices; k <
// 2^31. Bottom-up merge sort, k log2 k steps, no allocation.
inline void sorted_channels(const float* column_max, std::int64_t k, std::int32_t* permutation,
                            std::int32_t* scratch) noexcept {
  for (std::int64_t i = 0; i < k; ++i) permutation[i] = static_cast<std::int32_t>(i);
  std::int32_t* from = permutation;
  std::int32_t* to = scratch;
  for (std::int64_t width = 1; width < k; width *= 2) {
    for (std::int64_t first = 0; first < k; first += 2 * width) {
      const std::int64_t middle = k - first < width ? k : first + width;
      const std::int64_t last = k - first < 2 * width ? k : first + 2 * width;
      detail::merge_channels(column_max, from, to, first, middle, last);
    }
    std::int32_t* const swapped = from;
    from = to;
    to = swapped;
  }
  if (from == permutation) return;
  for (std::int64_t i = 0; i < k; ++i) permutation[i] = from[i];
}

RRS_FUNCTIONS_END
