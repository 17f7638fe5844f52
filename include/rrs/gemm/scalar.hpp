// Scalar GEMM leaves: the written order of gemm.hpp, as loops. Every other level gives these bits.
//
// from: pack/ (tiles and panels).  to: driver.hpp through KernelTable.
// Integer sums: a group adds at most 256 * 128 * 255 < 2^31; row groups bound K (scheme.hpp).
#pragma once

#include <cmath>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/types.hpp"
#include "rrs/gemm/scalar_low_rank.hpp"
#include "rrs/pack/layout.hpp"

RRS_FUNCTIONS_BEGIN

namespace scalar {

// Inputs of inner group g: [first, last), padding included in the last group.
struct GroupRange {
  std::int64_t first;
  std::int64_t last;
};

RRS_FORCE_INLINE GroupRange group_range(std::int64_t g, int inner_group,
                                        std::int64_t k_padded) noexcept {
  if (inner_group == kRowGroup) return {0, k_padded};
  const std::int64_t first = g * inner_group;
  const std::int64_t last = first + inner_group;
  return {first, last < k_padded ? last : k_padded};
}

// The stored unsigned code of input k, output n of a panel.
template <int kWeightBits>
RRS_FORCE_INLINE int stored_code(const std::uint8_t* panel, int n, std::int64_t k) noexcept {
  if (kWeightBits == 8) return panel[w8_byte(n, k)];
  const int byte = panel[w4_byte(n, k)];
  return w4_high_nibble(k) ? byte >> 4 : byte & 15;
}

// Integer activations: one row, one panel, all groups.
template <int kWeightBits>
inline void integer_row(const GemmTileArgs& a, int row, int panel, float* acc) noexcept {
  const auto* codes = static_cast<const std::int8_t*>(a.activations);
  const std::uint8_t* weights = a.weights + panel * a.panel_bytes;
  const f16* scales = a.weight_scales + panel * a.panel_scales;
  const bool offsets = a.weight_offsets != nullptr;
  const int zero = offsets ? 0 : 1 << (kWeightBits - 1);
  for (int n = 0; n < kPanelOutputs; ++n) acc[n] = 0.0f;
  for (std::int64_t g = 0; g < a.inner_groups; ++g) {
    const GroupRange range = group_range(g, a.inner_group, a.k_padded);
    std::int32_t isum[kPanelOutputs] = {0};
    for (std::int64_t k = range.first; k < range.last; ++k) {
      const int q = codes[(k / 4 * a.rows + row) * 4 + k % 4];
      for (int n = 0; n < kPanelOutputs; ++n) {
        isum[n] += q * (stored_code<kWeightBits>(weights, n, k) - zero);
      }
    }
    const std::int64_t wg = g / a.inner_per_weight;
    const float s = a.activation_scales[g / a.inner_per_activation * a.rows + row];
    for (int n = 0; n < kPanelOutputs; ++n) {
      const float tmp = static_cast<float>(isum[n]) * to_f32(scales[wg * kPanelOutputs + n]);
      acc[n] = std::fma(tmp, s, acc[n]);
    }
    if (!offsets) continue;
    const float* offset = a.weight_offsets + panel * a.panel_scales + wg * kPanelOutputs;
    const float code_sum = static_cast<float>(a.code_sums[g * a.rows + row]);
    for (int n = 0; n < kPanelOutputs; ++n) {
      const float tmp = code_sum * offset[n];
      acc[n] = std::fma(tmp, s, acc[n]);
    }
  }
}

// Float activations: groups are weight groups (inner_per_weight == 1).
template <int kWeightBits>
inline void float_row(const GemmTileArgs& a, int row, int panel, float* acc) noexcept {
  const auto* x = static_cast<const float*>(a.activations);
  const std::uint8_t* weights = a.weights + panel * a.panel_bytes;
  const f16* scales = a.weight_scales + panel * a.panel_scales;
  const bool offsets = a.weight_offsets != nullptr;
  const int zero = offsets ? 0 : 1 << (kWeightBits - 1);
  for (int n = 0; n < kPanelOutputs; ++n) acc[n] = 0.0f;
  for (std::int64_t g = 0; g < a.inner_groups; ++g) {
    const GroupRange range = group_range(g, a.inner_group, a.k_padded);
    float v[kPanelOutputs], part[kPanelOutputs];
    for (int n = 0; n < kPanelOutputs; ++n) {
      v[n] = to_f32(scales[g * kPanelOutputs + n]);
      part[n] = 0.0f;
    }
    const float* offset =
        offsets ? a.weight_offsets + panel * a.panel_scales + g * kPanelOutputs : v;
    for (std::int64_t k = range.first; k < range.last; ++k) {
      const float xk = x[k * a.rows + row];
      for (int n = 0; n < kPanelOutputs; ++n) {
        const float code = static_cast<float>(stored_code<kWeightBits>(weights, n, k) - zero);
        const float w = offsets ? std::fma(code, v[n], offset[n]) : code;
        part[n] = std::fma(xk, w, part[n]);
      }
    }
    for (int n = 0; n < kPanelOutputs; ++n) {
      acc[n] = offsets ? acc[n] + part[n] : std::fma(part[n], v[n], acc[n]);
    }
  }
}

template <int kWeightBits, bool kFloat>
inline void gemm_tile(const GemmTileArgs& a) noexcept {
  for (int row = 0; row < a.rows; ++row) {
    for (int panel = 0; panel < a.panels; ++panel) {
      float* acc = a.out + (row * a.panels + panel) * kPanelOutputs;
      if (kFloat) {
        float_row<kWeightBits>(a, row, panel, acc);
      } else {
        integer_row<kWeightBits>(a, row, panel, acc);
      }
    }
  }
}

// The value that is stored, before its conversion: see "Store" in gemm.hpp.
RRS_FORCE_INLINE float store_value(float acc, float token_scale, const float* bias, bool accumulate,
                                   float old, std::int64_t n) noexcept {
  if (bias != nullptr) {
    const float y = std::fma(token_scale, acc, bias[n]);
    return accumulate ? y + old : y;
  }
  return accumulate ? std::fma(token_scale, acc, old) : token_scale * acc;
}

inline void store_f32(const float* acc, std::int64_t n, float token_scale, const float* bias,
                      bool accumulate, float* y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    y[i] = store_value(acc[i], token_scale, bias, accumulate, accumulate ? y[i] : 0.0f, i);
  }
}

inline void store_f16(const float* acc, std::int64_t n, float token_scale, const float* bias,
                      bool accumulate, f16* y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    const float old = accumulate ? to_f32(y[i]) : 0.0f;
    y[i] = to_f16(store_value(acc[i], token_scale, bias, accumulate, old, i));
  }
}

inline void store_bf16(const float* acc, std::int64_t n, float token_scale, const float* bias,
                       bool accumulate, bf16* y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    const float old = accumulate ? to_f32(y[i]) : 0.0f;
    y[i] = to_bf16(store_value(acc[i], token_scale, bias, accumulate, old, i));
  }
}

constexpr GemmKernels gemm_kernels() {
  return GemmKernels{{&gemm_tile<4, false>, 4, 1, "scalar w4a4 4x16"},
                     {&gemm_tile<4, false>, 4, 1, "scalar w4a8 4x16"},
                     {&gemm_tile<8, false>, 4, 1, "scalar w8a8 4x16"},
                     {&gemm_tile<4, true>, 4, 1, "scalar w4a16 4x16"},
                     {&gemm_tile<8, true>, 4, 1, "scalar w8a16 4x16"},
                     &store_f32,
                     &store_f16,
                     &store_bf16,
                     &low_rank_panels<f16>,
                     &low_rank_panels<std::int8_t>};
}

}  // namespace scalar

RRS_FUNCTIONS_END
