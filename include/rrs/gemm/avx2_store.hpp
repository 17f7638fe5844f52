// Store leaves for AVX2: y = a*acc (+ bias) (+ old y), rounded once. "Store" in gemm.hpp.
//
// Instructions: vfmadd, vcvtps2ph, vpackusdw + vpermq.
// Registers: under 8. bf16 is rounded with integers, as core/types.hpp does; f16 by F16C, same
// bits. The epilogue touches each output once: bound by the store to memory, nothing was tuned.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/types.hpp"

#if RRS_X86_64

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 load_y(const float* y) noexcept {
  return _mm256_loadu_ps(y);
}
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 load_y(const f16* y) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(y)));
}
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 load_y(const bf16* y) noexcept {
  const __m128i bits_i16x8 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(y));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits_i16x8), 16));
}

RRS_TARGET_AVX2 RRS_FORCE_INLINE void store_y(__m256 x, float* y) noexcept {
  _mm256_storeu_ps(y, x);
}
RRS_TARGET_AVX2 RRS_FORCE_INLINE void store_y(__m256 x, f16* y) noexcept {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm256_cvtps_ph(x, kNearest));
}
RRS_TARGET_AVX2 RRS_FORCE_INLINE void store_y(__m256 x, bf16* y) noexcept {
  const __m256i bits_i32x8 = _mm256_castps_si256(x);
  const __m256i high_i32x8 = _mm256_srli_epi32(bits_i32x8, 16);
  const __m256i odd_i32x8 = _mm256_and_si256(high_i32x8, _mm256_set1_epi32(1));
  const __m256i up_i32x8 = _mm256_add_epi32(odd_i32x8, _mm256_set1_epi32(0x7fff));
  const __m256i rounded_i32x8 = _mm256_srli_epi32(_mm256_add_epi32(bits_i32x8, up_i32x8), 16);
  const __m256i magnitude_i32x8 = _mm256_and_si256(bits_i32x8, _mm256_set1_epi32(0x7fffffff));
  const __m256i nan_i32x8 = _mm256_cmpgt_epi32(magnitude_i32x8, _mm256_set1_epi32(0x7f800000));
  const __m256i quiet_i32x8 = _mm256_or_si256(high_i32x8, _mm256_set1_epi32(0x40));
  const __m256i out_i32x8 = _mm256_blendv_epi8(rounded_i32x8, quiet_i32x8, nan_i32x8);
  const __m256i packed_u16 =
      _mm256_permute4x64_epi64(_mm256_packus_epi32(out_i32x8, out_i32x8), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm256_castsi256_si128(packed_u16));
}

// 8 outputs.
template <class T>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void store_block(const float* acc, __m256 a_f32x8,
                                                  const float* bias, bool accumulate,
                                                  T* y) noexcept {
  const __m256 acc_f32x8 = _mm256_loadu_ps(acc);
  __m256 y_f32x8;
  if (bias != nullptr) {
    y_f32x8 = _mm256_fmadd_ps(a_f32x8, acc_f32x8, _mm256_loadu_ps(bias));
    if (accumulate) y_f32x8 = _mm256_add_ps(y_f32x8, load_y(y));
  } else if (accumulate) {
    y_f32x8 = _mm256_fmadd_ps(a_f32x8, acc_f32x8, load_y(y));
  } else {
    y_f32x8 = _mm256_mul_ps(a_f32x8, acc_f32x8);
  }
  store_y(y_f32x8, y);
}

template <class T>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void store_span(const float* acc, std::int64_t n,
                                                 float token_scale, const float* bias,
                                                 bool accumulate, T* y) noexcept {
  const __m256 a_f32x8 = _mm256_set1_ps(token_scale);
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    store_block(acc + i, a_f32x8, bias == nullptr ? nullptr : bias + i, accumulate, y + i);
  }
  if (i == n) return;
  const auto left = static_cast<std::size_t>(n - i);  // the tail goes through full-sized copies
  float tail_acc[8] = {0.0f}, tail_bias[8] = {0.0f};
  T tail_y[8] = {};
  std::memcpy(tail_acc, acc + i, left * sizeof(float));
  if (bias != nullptr) std::memcpy(tail_bias, bias + i, left * sizeof(float));
  if (accumulate) std::memcpy(tail_y, y + i, left * sizeof(T));
  store_block(tail_acc, a_f32x8, bias == nullptr ? nullptr : tail_bias, accumulate, tail_y);
  std::memcpy(y + i, tail_y, left * sizeof(T));
}

RRS_TARGET_AVX2 inline void store_f32(const float* acc, std::int64_t n, float token_scale,
                                      const float* bias, bool accumulate, float* y) noexcept {
  store_span(acc, n, token_scale, bias, accumulate, y);
}

RRS_TARGET_AVX2 inline void store_f16(const float* acc, std::int64_t n, float token_scale,
                                      const float* bias, bool accumulate, f16* y) noexcept {
  store_span(acc, n, token_scale, bias, accumulate, y);
}

RRS_TARGET_AVX2 inline void store_bf16(const float* acc, std::int64_t n, float token_scale,
                                       const float* bias, bool accumulate, bf16* y) noexcept {
  store_span(acc, n, token_scale, bias, accumulate, y);
}

constexpr GemmKernels store_kernels(GemmKernels lower) {
  lower.store_f32 = &store_f32;
  lower.store_f16 = &store_f16;
  lower.store_bf16 = &store_bf16;
  return lower;
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
