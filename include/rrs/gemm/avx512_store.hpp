// Store leaves for AVX-512: y = a*acc (+ bias) (+ old y), rounded once. "Store" in gemm.hpp.
//
// Instructions: vfmadd, masked load and store, vcvtps2ph, vpmovdw.
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

namespace avx512 {

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 load_y(const float* y, __mmask16 m) noexcept {
  return _mm512_maskz_loadu_ps(m, y);
}
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 load_y(const f16* y, __mmask16 m) noexcept {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, y));
}
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 load_y(const bf16* y, __mmask16 m) noexcept {
  const __m512i bits_i32x16 = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, y));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits_i32x16, 16));
}

RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_y(__m512 x, float* y, __mmask16 m) noexcept {
  _mm512_mask_storeu_ps(y, m, x);
}
RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_y(__m512 x, f16* y, __mmask16 m) noexcept {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  // The maskz form: at -O0 the plain one is a macro that warns in the user's build (GCC 12).
  constexpr __mmask16 kAll = 0xffff;
  _mm256_mask_storeu_epi16(y, m, _mm512_maskz_cvtps_ph(kAll, x, kNearest));
}
RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_y(__m512 x, bf16* y, __mmask16 m) noexcept {
  const __m512i bits_i32x16 = _mm512_castps_si512(x);
  const __m512i high_i32x16 = _mm512_srli_epi32(bits_i32x16, 16);
  const __m512i odd_i32x16 = _mm512_and_si512(high_i32x16, _mm512_set1_epi32(1));
  const __m512i up_i32x16 = _mm512_add_epi32(odd_i32x16, _mm512_set1_epi32(0x7fff));
  const __m512i rounded_i32x16 = _mm512_srli_epi32(_mm512_add_epi32(bits_i32x16, up_i32x16), 16);
  const __m512i magnitude_i32x16 = _mm512_and_si512(bits_i32x16, _mm512_set1_epi32(0x7fffffff));
  const __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude_i32x16, _mm512_set1_epi32(0x7f800000));
  const __m512i out_i32x16 =
      _mm512_mask_or_epi32(rounded_i32x16, nan, high_i32x16, _mm512_set1_epi32(0x40));
  _mm256_mask_storeu_epi16(y, m, _mm512_cvtepi32_epi16(out_i32x16));
}

// 16 outputs, or the first of them.
template <class T>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_block(const float* acc, __m512 a_f32x16,
                                                    const float* bias, bool accumulate, T* y,
                                                    __mmask16 m) noexcept {
  const __m512 acc_f32x16 = _mm512_maskz_loadu_ps(m, acc);
  __m512 y_f32x16;
  if (bias != nullptr) {
    y_f32x16 = _mm512_fmadd_ps(a_f32x16, acc_f32x16, _mm512_maskz_loadu_ps(m, bias));
    if (accumulate) y_f32x16 = _mm512_add_ps(y_f32x16, load_y(y, m));
  } else if (accumulate) {
    y_f32x16 = _mm512_fmadd_ps(a_f32x16, acc_f32x16, load_y(y, m));
  } else {
    y_f32x16 = _mm512_mul_ps(a_f32x16, acc_f32x16);
  }
  store_y(y_f32x16, y, m);
}

template <class T>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_span(const float* acc, std::int64_t n,
                                                   float token_scale, const float* bias,
                                                   bool accumulate, T* y) noexcept {
  const __m512 a_f32x16 = _mm512_set1_ps(token_scale);
  for (std::int64_t i = 0; i < n; i += 16) {
    const std::int64_t left = n - i;
    const auto m = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
    store_block(acc + i, a_f32x16, bias == nullptr ? nullptr : bias + i, accumulate, y + i, m);
  }
}

RRS_TARGET_AVX512 inline void store_f32(const float* acc, std::int64_t n, float token_scale,
                                        const float* bias, bool accumulate, float* y) noexcept {
  store_span(acc, n, token_scale, bias, accumulate, y);
}

RRS_TARGET_AVX512 inline void store_f16(const float* acc, std::int64_t n, float token_scale,
                                        const float* bias, bool accumulate, f16* y) noexcept {
  store_span(acc, n, token_scale, bias, accumulate, y);
}

RRS_TARGET_AVX512 inline void store_bf16(const float* acc, std::int64_t n, float token_scale,
                                         const float* bias, bool accumulate, bf16* y) noexcept {
  store_span(acc, n, token_scale, bias, accumulate, y);
}

constexpr GemmKernels store_kernels(GemmKernels lower) {
  lower.store_f32 = &store_f32;
  lower.store_f16 = &store_f16;
  lower.store_bf16 = &store_bf16;
  return lower;
}

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
