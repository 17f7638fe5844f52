// Scalar leaves of the KV cache: the written orders of kv_kernels.hpp, as loops.
//
// Every other level gives these bits. Integer sums: 255 * 128 * 1024 dims < 2^25.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"
#include "rrs/kv_cache/kv_kernels.hpp"
#include "rrs/kv_cache/kv_page.hpp"

RRS_FUNCTIONS_BEGIN

namespace scalar {

RRS_FORCE_INLINE f16 load_f16(const std::uint8_t* bytes, std::int64_t index) noexcept {
  f16 value;
  std::memcpy(&value, bytes + 2 * index, sizeof value);
  return value;
}

// Code of dim d, token n of a block of K.
template <int kBits>
RRS_FORCE_INLINE int kv_k_code(const std::uint8_t* block, int n, std::int64_t d) noexcept {
  if (kBits == 8) return block[d / 4 * 64 + n * 4 + d % 4];
  const int byte = block[d / 8 * 64 + n * 4 + d % 4];
  return d % 8 < 4 ? byte & 15 : byte >> 4;
}

// Code of dim d in a row of V.
template <int kBits>
RRS_FORCE_INLINE int kv_v_code(const std::uint8_t* row, std::int64_t d) noexcept {
  if (kBits == 8) return row[d];
  const int byte = row[d / 32 * 16 + d % 16];
  return d % 32 < 16 ? byte & 15 : byte >> 4;
}

template <int kBits>
inline void kv_scores(const KvScoreArgs& a) noexcept {
  for (int t = a.first_block * kKvBlockTokens; t < a.last_block * kKvBlockTokens; ++t) {
    const std::uint8_t* block = a.codes + t / kKvBlockTokens * a.block_bytes;
    float acc = 0.0f;
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const std::int64_t first = g * a.group;
      const std::int64_t last = a.dims - first < a.group ? a.dims : first + a.group;
      std::int32_t sum = 0;
      for (std::int64_t d = first; d < last; ++d) {
        sum += a.query[d] * kv_k_code<kBits>(block, t % kKvBlockTokens, d);
      }
      const int zero = a.zeros != nullptr ? a.zeros[g * kKvPageTokens + t] : a.zero;
      const float scale = to_f32(a.scales[g * kKvPageTokens + t]);
      acc = std::fma(static_cast<float>(sum - zero * a.query_sums[g]), scale, acc);
    }
    a.out[t] = acc * a.query_scale;
  }
}

inline void kv_scores16(const KvScoreArgs& a) noexcept {
  for (int t = a.first_block * kKvBlockTokens; t < a.last_block * kKvBlockTokens; ++t) {
    const std::uint8_t* block = a.codes + t / kKvBlockTokens * a.block_bytes;
    float acc = 0.0f;
    for (std::int64_t d = 0; d < a.dims; ++d) {
      const f16 k = load_f16(block, d * kKvBlockTokens + t % kKvBlockTokens);
      acc = std::fma(a.query_f32[d], to_f32(k), acc);
    }
    a.out[t] = acc;
  }
}

template <int kBits>
inline void kv_accumulate(const KvAccumulateArgs& a) noexcept {
  for (int t = a.first; t < a.last; ++t) {
    const std::uint8_t* row = a.codes + t * a.row_bytes;
    for (int first = 0, g = 0; first < a.dims; first += a.group, ++g) {
      const float scaled = a.p[t - a.first] * to_f32(a.scales[g * kKvPageTokens + t]);
      const int zero = a.zeros != nullptr ? a.zeros[g * kKvPageTokens + t] : a.zero;
      const int last = a.dims - first < a.group ? a.dims : first + a.group;
      for (int d = first; d < last; ++d) {
        const int code = kv_v_code<kBits>(row, d) - zero;
        a.out[d] = std::fma(scaled, static_cast<float>(code), a.out[d]);
      }
    }
  }
}

inline void kv_accumulate16(const KvAccumulateArgs& a) noexcept {
  for (int t = a.first; t < a.last; ++t) {
    const std::uint8_t* row = a.codes + t * a.row_bytes;
    for (int d = 0; d < a.dims; ++d) {
      a.out[d] = std::fma(a.p[t - a.first], to_f32(load_f16(row, d)), a.out[d]);
    }
  }
}

// Rounds as quantize/scalar.hpp does: 1.5 * 2^23 is added, and only the bits are used.
inline void kv_encode(const float* x, std::int64_t n, float inverse, int zero, int top,
                      std::uint8_t* codes) noexcept {
  constexpr float kLimit = 0x1p20f;
  for (std::int64_t i = 0; i < n; ++i) {
    const float scaled = x[i] * inverse;
    const float raised = scaled > -kLimit ? scaled : -kLimit;
    const float clamped = raised < kLimit ? raised : kLimit;
    const std::uint32_t rounded = float_bits(clamped + 12582912.0f) - 0x4b400000u;
    const int code = static_cast<std::int32_t>(rounded) + zero;
    codes[i] = static_cast<std::uint8_t>(code < 0 ? 0 : (code > top ? top : code));
  }
}

constexpr KvKernels kv_kernels() {
  KvKernels kernels{};
  kernels.scores4 = &kv_scores<4>;
  kernels.scores8 = &kv_scores<8>;
  kernels.scores16 = &kv_scores16;
  kernels.accumulate4 = &kv_accumulate<4>;
  kernels.accumulate8 = &kv_accumulate<8>;
  kernels.accumulate16 = &kv_accumulate16;
  kernels.encode = &kv_encode;
  return kernels;
}

}  // namespace scalar

RRS_FUNCTIONS_END
