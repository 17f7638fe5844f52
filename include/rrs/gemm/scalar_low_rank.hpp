// Scalar leaf of the low-rank branch: the written order (low_rank.hpp) as loops.
#pragma once

#include <cmath>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/types.hpp"
#include "rrs/pack/layout.hpp"

RRS_FUNCTIONS_BEGIN

namespace scalar {

inline float low_rank_value(f16 v) noexcept { return to_f32(v); }
inline float low_rank_value(std::int8_t v) noexcept { return static_cast<float>(v); }

template <class Element>
inline void low_rank_panels(const LowRankArgs<Element>& a) noexcept {
  for (int p = 0; p < a.panels; ++p) {
    const Element* weights = a.weights + p * a.inputs * a.width;
    float* out = a.out + p * kPanelOutputs;
    for (int t = 0; t < a.rows; ++t) {
      for (int o = 0; o < a.width; ++o) {
        float& sum = out[t * a.out_stride + o];
        sum = a.start_scale == nullptr ? 0.0f : a.start_scale[t] * sum;
      }
    }
    for (std::int64_t k = 0; k < a.inputs; ++k) {
      float w[kPanelOutputs];
      for (int o = 0; o < a.width; ++o) w[o] = low_rank_value(weights[k * a.width + o]);
      for (int t = 0; t < a.rows; ++t) {
        const float x = a.x[t * a.x_stride + k];
        float* sum = out + t * a.out_stride;
        for (int o = 0; o < a.width; ++o) sum[o] = std::fma(x, w[o], sum[o]);
      }
    }
  }
}

}  // namespace scalar

RRS_FUNCTIONS_END
