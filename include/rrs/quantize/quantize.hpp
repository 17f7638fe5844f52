// Activation quantization of one row, given its extremes.
//
//   q[k] = rint(clamp(x~[k] * r[g], -qmax - 1, qmax)), half to even, g the group of input k
//   window one:  s[g] = range rule on the group, a = 1,                 r[g] = 1 / s[g]
//   otherwise:   s[g] given (window or frozen), a = range rule on x~/s, r[g] = float(1 / (s[g] a))
//   y = a sum_g s[g] v[g] (sum of q p in g)
//
// from: rotate/ (the row), smooth/ (extremes, window scales).  to: pack/, then gemm/.
// Shapes: x, codes [k]; positive, negative, inverse, scales [groups(k, group)]; sums
//   [groups(k, inner_group)].
// Contract: the same bytes on every level. Every code is the nearest integer to x~ r, so an
// unclipped
//   value has |x~ - s a q| <= |s a| / 2 (1 + 2^-15) at 8 bits or fewer.
// Written order of the range rule, e and o the larger and smaller of (positive, negative):
//   full:      clip * max(e / (qmax + 1), o / qmax), negative when positive >= negative
//   symmetric: (clip * e) / qmax
//   Divisions are true divisions. Zero when e < 2^-100 or the result is below 2^-126.
// Limits: 1 / s is subnormal, hence coarse, only at 2 and 3 bits for magnitudes above 2^126.
// Cost: two to four divisions per group, plus the leaves' pass over the row.
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/types.hpp"
#include "rrs/smooth/smooth.hpp"

RRS_TYPES_BEGIN

// One row to quantize. All pointers are the caller's.
struct QuantizeRowArgs {
  const float* x = nullptr;  // [k], rotated
  std::int64_t k = 0;
  Extremes extremes;                     // of this row
  const float* window_scales = nullptr;  // [groups], or null for window one
  int group = 32;
  int inner_group = 32;
  Range range = Range::kFull;
  float clip = 1.0f;
  int qmax = 7;
  bool token_scale = true;       // ignored in window one
  float* inverse = nullptr;      // [groups], scratch
  std::int8_t* codes = nullptr;  // [k]
  float* scales = nullptr;       // [groups]; may be window_scales itself
  std::int32_t* sums = nullptr;  // [inner groups]
};

inline constexpr std::uint32_t kQuietNanBits = 0x7fc00000u;

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// The signed scale of a set with these extremes (both >= 0); 0 when the set counts as zero.
RRS_FORCE_INLINE float group_scale(Range range, float clip, int qmax, float positive,
                                   float negative) noexcept {
  const float q = static_cast<float>(qmax);
  const float e = positive >= negative ? positive : negative;
  const float o = positive >= negative ? negative : positive;
  float magnitude = 0.0f;
  if (range == Range::kFull) {
    const float by_extreme = e / (q + 1.0f);
    const float by_opposite = o / q;
    magnitude = clip * (by_extreme > by_opposite ? by_extreme : by_opposite);
  } else {
    magnitude = (clip * e) / q;
  }
  if (e < kZeroMagnitude || magnitude < 0x1p-126f) return 0.0f;
  return range == Range::kFull && positive >= negative ? -magnitude : magnitude;
}

// Window one: 1 / s, or 0 for a group that counts as zero. Finite, since |s| >= 2^-126.
RRS_FORCE_INLINE float inverse_scale(float scale) noexcept {
  return scale == 0.0f ? 0.0f : 1.0f / scale;
}

// Wide windows: 1 / (s a), the product in double so that it is rounded once. 0 when s or a is 0, or
// when the result would leave float (then every |x~| of the group is below 2^-120).
RRS_FORCE_INLINE float inverse_scale(float scale, float token) noexcept {
  if (scale == 0.0f || token == 0.0f) return 0.0f;
  const double inverse = 1.0 / (static_cast<double>(scale) * static_cast<double>(token));
  return inverse < 0x1p127 && inverse > -0x1p127 ? static_cast<float>(inverse) : 0.0f;
}

// Frozen scales below 2^-100 count as zero, like measured ones.
RRS_FORCE_INLINE float effective_scale(float scale) noexcept {
  return scale < kZeroMagnitude ? 0.0f : scale;
}

namespace detail {

// a[t]: the range rule on x~/s. Division by a positive s is monotone, so the extremes of x~/s are
// the quotients of the extremes. Groups with s = 0 do not count. May be Inf with tiny frozen
// scales.
inline float token_scale_of(const QuantizeRowArgs& args) noexcept {
  if (!args.token_scale) return args.clip / static_cast<float>(args.qmax);
  std::uint32_t positive = 0;
  std::uint32_t negative = 0;
  for (std::int64_t g = 0; g < args.extremes.groups; ++g) {
    const float s = effective_scale(args.window_scales[g]);
    if (s == 0.0f) continue;
    const std::uint32_t p = float_bits(args.extremes.positive[g] / s);
    const std::uint32_t n = float_bits(args.extremes.negative[g] / s);
    positive = p > positive ? p : positive;
    negative = n > negative ? n : negative;
  }
  if (positive >= 0x7f800000u || negative >= 0x7f800000u) return float_from_bits(kQuietNanBits);
  return group_scale(args.range, args.clip, args.qmax, float_from_bits(positive),
                     float_from_bits(negative));
}

inline void clear_row(const QuantizeRowArgs& args) noexcept {
  std::memset(args.codes, 0, static_cast<std::size_t>(args.k));
  if (args.scales != args.window_scales) {
    for (std::int64_t g = 0; g < args.extremes.groups; ++g) args.scales[g] = 0.0f;
  }
  const std::int64_t inner = group_count(args.k, args.inner_group);
  for (std::int64_t g = 0; g < inner; ++g) args.sums[g] = 0;
}

// scales[g], inverse[g] and the token scale.
inline float fill_scales(const QuantizeRowArgs& args) noexcept {
  const std::int64_t groups = args.extremes.groups;
  if (args.window_scales == nullptr) {
    for (std::int64_t g = 0; g < groups; ++g) {
      args.scales[g] = group_scale(args.range, args.clip, args.qmax, args.extremes.positive[g],
                                   args.extremes.negative[g]);
      args.inverse[g] = inverse_scale(args.scales[g]);
    }
    return 1.0f;
  }
  const float token = token_scale_of(args);
  for (std::int64_t g = 0; g < groups; ++g) {
    const float s = effective_scale(args.window_scales[g]);
    args.inverse[g] = inverse_scale(s, token);
    args.scales[g] = s;
  }
  return token;
}

}  // namespace detail

// Codes, scales, sums of one row; *token_scale is a[t]. False when the row holds a NaN or Inf (or
// when x~/s overflows under frozen scales): then codes, sums and scales are 0 (scales that alias
// window_scales stay), a[t] is a quiet NaN, and so is every output of the row.
inline bool quantize_row(const QuantizeKernels& kernels, const QuantizeRowArgs& args,
                         float* token_scale) noexcept {
  bool finite = row_is_finite(args.extremes);
  float token = 0.0f;
  if (finite) {
    token = detail::fill_scales(args);
    finite = is_finite_bits(float_bits(token));
  }
  if (!finite) {
    detail::clear_row(args);
    const std::uint32_t bits = kQuietNanBits;
    std::memcpy(token_scale, &bits, sizeof bits);
    return false;
  }
  *token_scale = token;
  kernels.quantize(args.x, args.k, args.group, args.inverse, args.qmax, args.codes);
  kernels.sum_codes(args.codes, args.k, args.inner_group, args.sums);
  return true;
}

RRS_FUNCTIONS_END
