// Oracle of the activation quantizer: plain loops in double over the values, no dispatch.
//
// from: tests and the accuracy programs.  to: comparison with quantize/quantize.hpp.
// The library's scales are f32 quotients of exact maxima: within 4 * 2^-24 of these. Its codes
// differ from these by one only where x / (s a) lies within 2^-15 of a tie.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"

RRS_FUNCTIONS_BEGIN

namespace reference {

struct QuantizedRow {
  std::vector<int> codes;
  std::vector<double> scales;
  double token_scale = 1.0;
  std::vector<std::int64_t> sums;
};

// The range rule on any set of values: 0 when the set counts as zero.
inline double range_scale(Range range, double clip, int qmax, const std::vector<double>& values) {
  double e = 0.0;
  for (const double v : values) {
    if (std::abs(v) > std::abs(e) || (std::abs(v) == std::abs(e) && v > e)) e = v;
  }
  double o = 0.0;
  for (const double v : values) {
    if ((v < 0.0) != (e < 0.0)) o = (std::max)(o, std::abs(v));
  }
  if (std::abs(e) < 0x1p-100) return 0.0;
  const double q = static_cast<double>(qmax);
  if (range == Range::kSymmetric) return clip * std::abs(e) / q;
  const double magnitude = clip * (std::max)(std::abs(e) / (q + 1.0), o / q);
  return e < 0.0 ? magnitude : -magnitude;
}

// clamp(x / step, -qmax-1, qmax), rounded half to even; 0 for step 0.
inline int code_of(double x, double step, int qmax) {
  if (step == 0.0) return 0;
  const double low = static_cast<double>(-qmax - 1);
  const double high = static_cast<double>(qmax);
  return static_cast<int>(std::nearbyint((std::min)((std::max)(x / step, low), high)));
}

// One row x [k]. Without window scales: window one. With them: the token scale by the range rule on
// x / s, or clip / qmax when token_scale is false.
inline QuantizedRow quantize_row(const float* x, std::int64_t k, const ActivationScheme& scheme,
                                 int inner_group, const std::vector<double>* window_scales) {
  const int qmax = max_code(scheme.bits);
  const double clip = static_cast<double>(scheme.clip);
  const std::int64_t step = scheme.group == kRowGroup ? k : scheme.group;
  QuantizedRow row;
  if (window_scales != nullptr) {
    row.scales = *window_scales;
    std::vector<double> smooth;
    for (std::int64_t i = 0; i < k; ++i) {
      const double s = row.scales[static_cast<std::size_t>(i / step)];
      if (s > 0.0) smooth.push_back(static_cast<double>(x[i]) / s);
    }
    row.token_scale = scheme.token_scale ? range_scale(scheme.range, clip, qmax, smooth)
                                         : clip / static_cast<double>(qmax);
  } else {
    for (std::int64_t first = 0; first < k; first += step) {
      const std::int64_t last = (std::min)(k, first + step);
      row.scales.push_back(
          range_scale(scheme.range, clip, qmax, std::vector<double>(x + first, x + last)));
    }
  }
  row.sums.assign(static_cast<std::size_t>(group_count(k, inner_group)), 0);
  const std::int64_t inner = inner_group == kRowGroup ? k : inner_group;
  for (std::int64_t i = 0; i < k; ++i) {
    const double s = row.scales[static_cast<std::size_t>(i / step)] * row.token_scale;
    row.codes.push_back(code_of(static_cast<double>(x[i]), s, qmax));
    row.sums[static_cast<std::size_t>(i / inner)] += row.codes.back();
  }
  return row;
}

}  // namespace reference

RRS_FUNCTIONS_END
