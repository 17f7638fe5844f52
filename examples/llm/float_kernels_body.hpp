#pragma once
// Row operations, written once: float_kernels.cpp instantiates them inside functions of each level,
// whose compiler flags then decide how wide the fixed loops over 16 lanes become.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "float_kernels.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"

namespace rrs_llm::body {

// e^x by 2^n * p(r), r = x - n ln 2 in two steps; 0 below -87 (the result would be subnormal).
RRS_FORCE_INLINE float exp_value(float x) noexcept {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float bounded = x > 88.0f ? 88.0f : x;
  const float shifted = bounded * 1.44269504f + kRound;
  const float n = shifted - kRound;
  float r = bounded - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const std::uint32_t power = (rrs::float_bits(shifted) + 127u) << 23;
  const float value = p * rrs::float_from_bits(power);
  return x < -87.0f ? 0.0f : value;
}

RRS_FORCE_INLINE void q8_expand(const std::int8_t* codes, const float* scales, std::int64_t columns,
                                float* out) noexcept {
  for (std::int64_t k = 0; k < columns; ++k) {
    const float* scale = scales + k / kQ8Inputs * kLanes;
    for (int j = 0; j < kLanes; ++j) {
      out[k * kLanes + j] = scale[j] * static_cast<float>(codes[k * kLanes + j]);
    }
  }
}

RRS_FORCE_INLINE float exp_row(float* x, std::int64_t n, float shift) noexcept {
  float lanes[kLanes] = {};
  for (std::int64_t i = 0; i < n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const float e = exp_value(x[i + j] - shift);
      x[i + j] = e;
      lanes[j] += e;
    }
  }
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  return sum;
}

RRS_FORCE_INLINE float max_row(const float* x, std::int64_t n) noexcept {
  float lanes[kLanes];
  for (float& lane : lanes) lane = x[0];
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  }
  float most = lanes[0];
  for (const float lane : lanes) most = lane > most ? lane : most;
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

RRS_FORCE_INLINE void silu_product(float* a, const float* b, std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const float x = a[i + j];
      a[i + j] = x / (1.0f + exp_value(-x)) * b[i + j];
    }
  }
  for (; i < n; ++i) a[i] = a[i] / (1.0f + exp_value(-a[i])) * b[i];
}

RRS_FORCE_INLINE void rms_norm(const float* x, const float* gain, std::int64_t n, float epsilon,
                               float* y) noexcept {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += x[i + j] * x[i + j];
  }
  for (std::int64_t j = 0; i + j < n; ++j) lanes[j] += x[i + j] * x[i + j];
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + epsilon);
  for (std::int64_t k = 0; k < n; ++k) y[k] = x[k] * scale * gain[k];
}

RRS_FORCE_INLINE double log_sum_exp(const float* x, std::int64_t n) noexcept {
  const float most = max_row(x, n);
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  while (i + kLanes <= n) {
    // 32 values per lane in float, then on in double: terms are at most 1.
    float part[kLanes] = {};
    const std::int64_t end = i + kLanes * 32 < n ? i + kLanes * 32 : n;
    for (; i + kLanes <= end; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) part[j] += exp_value(x[i + j] - most);
    }
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(part[j]);
  }
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  for (; i < n; ++i) sum += static_cast<double>(exp_value(x[i] - most));
  return static_cast<double>(most) + std::log(sum);
}

RRS_FORCE_INLINE double divergence(const float* a, double lse_a, const float* b, double lse_b,
                                   std::int64_t n) noexcept {
  const auto base_a = static_cast<float>(lse_a);
  const double shift = lse_b - lse_a;
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const double gap = static_cast<double>(a[i + j]) - static_cast<double>(b[i + j]) + shift;
      lanes[j] += static_cast<double>(exp_value(a[i + j] - base_a)) * gap;
    }
  }
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  for (; i < n; ++i) {
    const double gap = static_cast<double>(a[i]) - static_cast<double>(b[i]) + shift;
    sum += static_cast<double>(exp_value(a[i] - base_a)) * gap;
  }
  return sum;
}

}  // namespace rrs_llm::body
