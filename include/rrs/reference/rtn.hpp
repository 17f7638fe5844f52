// Oracle of quantize/rtn.hpp: the same definitions in double with std::pow. No dispatch, no SIMD.
//
// from: tests.  Scales are the f16 values that are stored; errors are exact up to double rounding.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/types.hpp"

RRS_FUNCTIONS_BEGIN

namespace reference {

// rint(clamp(w / v)), half to even; 0 when v is 0.
inline int rtn_code(double w, double v, int bits) {
  if (v == 0.0) return 0;
  const double qmax = max_code(bits);
  double q = w / v;
  if (q < -qmax - 1.0) q = -qmax - 1.0;
  if (q > qmax) q = qmax;
  return static_cast<int>(std::nearbyint(q));
}

// Sum of |v q - w|^2.4 over a group.
inline double rtn_error(const std::vector<float>& w, double v, int bits) {
  double sum = 0.0;
  for (const float x : w) {
    sum += std::pow(
        std::abs(v * rtn_code(static_cast<double>(x), v, bits) - static_cast<double>(x)), 2.4);
  }
  return sum;
}

// Scale at clip 1 before rounding to f16.
inline double rtn_base_scale(const std::vector<float>& w, int bits, Range range) {
  double positive = 0.0, negative = 0.0;
  for (const float x : w) {
    if (static_cast<double>(x) > positive) positive = static_cast<double>(x);
    if (-static_cast<double>(x) > negative) negative = -static_cast<double>(x);
  }
  const bool up = positive >= negative;
  const double largest = up ? positive : negative;
  const double opposite = up ? negative : positive;
  if (largest < 0x1p-100) return 0.0;
  const double floored = largest > 1e-5 ? largest : 1e-5;
  const double qmax = max_code(bits);
  if (range == Range::kSymmetric) return floored / qmax;
  const double scale = std::fmax(floored / (qmax + 1.0), opposite / qmax);
  return up ? -scale : scale;
}

// Scale of clip step i (0..79), rounded to f16.
inline f16 rtn_step_scale(const std::vector<float>& w, const WeightScheme& s, int i) {
  return to_f16(static_cast<float>((1.0 - i / 100.0) * rtn_base_scale(w, s.bits, s.range)));
}

// The errors of all 80 clips.
inline std::vector<double> rtn_clip_errors(const std::vector<float>& w, const WeightScheme& s) {
  std::vector<double> errors;
  for (int i = 0; i < 80; ++i) {
    const f16 v = rtn_step_scale(w, s, i);
    errors.push_back(rtn_error(w, static_cast<double>(to_f32(v)), s.bits));
  }
  return errors;
}

}  // namespace reference

RRS_FUNCTIONS_END
