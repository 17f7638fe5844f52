// RTN for weights: the scale of a group (absolute maximum, or best of 80 clips) and its codes.
//
//   base  = symmetric: max|w| / qmax         full: -sign(e) max(|e| / (qmax + 1), |o| / qmax)
//   v     = f16(base)                        search: f16(p base), p = 1 - i/100, i = 0..79, with
//                                            the smallest sum |v q - w|^2.4, the first on a tie
//   q[k]  = rint(clamp(w[k] r, -qmax-1, qmax)),  r = 1/v rounded once, half to even
// e: value of largest magnitude (positive on a tie); o: largest magnitude of the opposite sign;
// qmax 7 or 127. max|w| and |e| are floored at 1e-5; a group whose magnitudes are all below 2^-100
// gets v = 0.
//
// from: pipeline/weight.hpp (rotated rows), calibrate/gptq (updated columns).  to: pack/.
// Shapes: a group is n contiguous floats, any n >= 1. Scales are rounded to f16 *before* the codes
// are computed, and each candidate is judged with the scale and the codes that would be stored.
// Numeric contract: bit-identical everywhere. With absmax, |v q - w| <= |v|/2 (1 + 2^-9) while v is
// a normal f16; a clipped weight may be further away. The chosen clip's error is within 1e-6
// (relative) of the smallest, errors below 2^-30 max|w| per weight not being resolved.
// Cost: search about 0.1 us per weight at group 32 on one 2.x GHz core; absmax and codes about 1
// ns.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/types.hpp"
#include "rrs/quantize/rtn_error.hpp"

RRS_TYPES_BEGIN

// Extremes of a group as magnitudes: 0 when there is no value of that sign.
struct GroupExtremes {
  float positive = 0.0f;
  float negative = 0.0f;
  bool finite = true;  // false: the group holds NaN or Inf, the other fields mean nothing
};

inline constexpr int kClipSteps = 80;
inline constexpr float kMaximumFloor = 1e-5f;
RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// p of step i: (100 - i) / 100 in f32.
RRS_FORCE_INLINE float clip_step(int i) noexcept { return static_cast<float>(100 - i) / 100.0f; }

// By integer comparison, so that NaN and Inf are seen under -ffast-math too.
inline GroupExtremes group_extremes(const float* w, std::int64_t n) noexcept {
  std::int32_t positive = 0, negative = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto bits = static_cast<std::int32_t>(float_bits(w[i]));
    const std::int32_t magnitude = bits & 0x7fffffff;
    const std::int32_t below = bits < 0 ? magnitude : 0;
    const std::int32_t above = bits < 0 ? 0 : magnitude;
    negative = below > negative ? below : negative;
    positive = above > positive ? above : positive;
  }
  GroupExtremes e;
  e.positive = float_from_bits(static_cast<std::uint32_t>(positive));
  e.negative = float_from_bits(static_cast<std::uint32_t>(negative));
  e.finite = positive < 0x7f800000 && negative < 0x7f800000;
  return e;
}

// Scale at clip 1 in f32, signed for range full; 0 for a group that counts as zero.
inline float rtn_base_scale(const GroupExtremes& e, int bits, Range range) noexcept {
  const bool positive_extreme = e.positive >= e.negative;
  const float largest = positive_extreme ? e.positive : e.negative;
  if (!(largest >= kZeroMagnitude)) return 0.0f;
  const float opposite = positive_extreme ? e.negative : e.positive;
  const float floored = largest > kMaximumFloor ? largest : kMaximumFloor;
  const auto qmax = static_cast<float>(max_code(bits));
  if (range == Range::kSymmetric) return floored / qmax;
  const float by_extreme = floored / (qmax + 1.0f);
  const float by_opposite = opposite / qmax;
  const float scale = by_extreme > by_opposite ? by_extreme : by_opposite;
  return positive_extreme ? -scale : scale;
}

// Code of one weight, r = rtn_inverse(v).
RRS_FORCE_INLINE std::int32_t rtn_code(float w, float r, std::int32_t qmax) noexcept {
  const float low = static_cast<float>(-qmax - 1), high = static_cast<float>(qmax);
  float q = w * r;
  q = q > low ? q : low;
  q = q < high ? q : high;
  return detail::rint_i32(q);
}

// 1 / v rounded once; 0 for v = 0, which makes every code 0.
RRS_FORCE_INLINE float rtn_inverse(f16 scale) noexcept {
  const float v = to_f32(scale);
  return v == 0.0f ? 0.0f : 1.0f / v;
}

namespace detail {

// Index of the best clip for a group with that base scale (not 0) and extremes.
inline int best_clip(const float* w, std::int64_t n, float base, const GroupExtremes& e,
                     int bits) noexcept {
  const bool positive_extreme = e.positive >= e.negative;
  const float extreme = positive_extreme ? e.positive : -e.negative;
  const std::uint32_t exponent = (float_bits(extreme) >> 23) & 255u;  // >= 27: above 2^-100
  ErrorCandidate c;
  c.down = float_from_bits((254u - exponent) << 23);
  c.high = static_cast<float>(max_code(bits));
  c.low = -c.high - 1.0f;
  double best = (std::numeric_limits<double>::max)();
  int best_step = 0;
  for (int i = 0; i < kClipSteps; ++i) {
    const float v = to_f32(to_f16(clip_step(i) * base));
    c.scale = v * c.down;
    c.inverse = v == 0.0f ? 0.0f : 1.0f / c.scale;
    // The extreme alone often costs more than the best so far: it is clipped most.
    if (static_cast<double>(error_term(extreme, c)) >= best) continue;
    const double error = scalar::error_sum(w, n, c, best);
    if (error < best) {
      best = error;
      best_step = i;
    }
  }
  return best_step;
}

}  // namespace detail

// True for a scale that can be stored: not NaN, not infinite.
RRS_FORCE_INLINE bool is_finite_f16(f16 h) noexcept { return (h.bits & 0x7c00u) != 0x7c00u; }

// The scale of one group: 0 for a zero group, infinite when max|w| is too large for f16, NaN when
// the group holds NaN or Inf (see is_finite_f16).
inline f16 rtn_scale(const float* w, std::int64_t n, const WeightScheme& scheme) noexcept {
  const GroupExtremes extremes = group_extremes(w, n);
  if (!extremes.finite) return f16{0x7e00u};
  const float base = rtn_base_scale(extremes, scheme.bits, scheme.range);
  const f16 unclipped = to_f16(base);
  if (base == 0.0f || scheme.scale == WeightScale::kAbsmax || !is_finite_f16(unclipped)) {
    return unclipped;
  }
  const int step = detail::best_clip(w, n, base, extremes, scheme.bits);
  return to_f16(clip_step(step) * base);
}

// codes[i] for a finite scale; bits 4 or 8.
inline void rtn_quantize(const float* w, std::int64_t n, f16 scale, int bits,
                         std::int8_t* codes) noexcept {
  const float r = rtn_inverse(scale);
  const std::int32_t qmax = max_code(bits);
  for (std::int64_t i = 0; i < n; ++i) codes[i] = static_cast<std::int8_t>(rtn_code(w[i], r, qmax));
}

// A whole row: scales[group_count(k, scheme.group)] and codes[k]. False when a scale is not finite
// (then the codes are unspecified).
inline bool rtn_row(const float* w, std::int64_t k, const WeightScheme& scheme, f16* scales,
                    std::int8_t* codes) noexcept {
  const std::int64_t step = scheme.group == kRowGroup ? k : scheme.group;
  for (std::int64_t begin = 0, g = 0; begin < k; begin += step, ++g) {
    const std::int64_t n = k - begin < step ? k - begin : step;
    scales[g] = rtn_scale(w + begin, n, scheme);
    if (!is_finite_f16(scales[g])) return false;
    rtn_quantize(w + begin, n, scales[g], scheme.bits, codes + begin);
  }
  return true;
}

RRS_FUNCTIONS_END
