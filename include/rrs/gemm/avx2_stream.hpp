// AVX2 tile of one row of W4: each panel read from memory as one stream.
//
// formula and written order: gemm.hpp.  What is fetched ahead, and why: stream.hpp.
// Per line: 2 loads, 4 vpand, 2 vpsrlw, 2 broadcasts, 4 vpmaddubsw, 4 vpaddw, and per step of four
// lines the int16 sums to int32, which is what eight-bit codes need: W4A4 and W4A8 are the same
// code. Without vpsrlw and the second vpand (wrong sums) DRAM is read 2 % faster.
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/gemm/stream.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// 4 activation codes in all lanes.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i broadcast4(const std::int8_t* codes) noexcept {
  std::int32_t x;
  std::memcpy(&x, codes, sizeof x);
  return _mm256_set1_epi32(x);
}

// In a register from here on: GCC 12 else reads lines twice, and spills products of four lines that
// it adds up as a tree.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void keep(__m256i& x) noexcept {
#if defined(__GNUC__) && !defined(__clang__)
  __asm__("" : "+x"(x));
#else
  static_cast<void>(x);
#endif
}

// Half a line, 8 inputs of 8 outputs: sum += products. even, odd: codes of either step of 4 inputs.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i stream_half(const std::uint8_t* weights,
                                                     __m256i even_i8x32, __m256i odd_i8x32,
                                                     __m256i sum_i16x16) noexcept {
  const __m256i low_u8x32 = _mm256_set1_epi8(15);
  __m256i w_u4x64 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
  keep(w_u4x64);
  const __m256i even_u8x32 = _mm256_and_si256(w_u4x64, low_u8x32);
  const __m256i odd_u8x32 = _mm256_and_si256(_mm256_srli_epi16(w_u4x64, 4), low_u8x32);
  sum_i16x16 = _mm256_add_epi16(sum_i16x16, _mm256_maddubs_epi16(even_u8x32, even_i8x32));
  return _mm256_add_epi16(sum_i16x16, _mm256_maddubs_epi16(odd_u8x32, odd_i8x32));
}

// kCount <= 4 lines to int32 sums of both halves. |int16 sum| <= 4 * 4 * 15 * 128 = 30720.
template <int kCount>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void stream_lines(const std::uint8_t* weights,
                                                   const std::int8_t* codes,
                                                   __m256i (&sum_i32x8)[2]) noexcept {
  static_assert(kCount <= 4, "int16 sums");
  const std::uintptr_t ahead = stream::ahead(weights);
  __m256i part_i16x16[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  RRS_UNROLL_FULL
  for (int i = 0; i < kCount; ++i) {
    const __m256i even_i8x32 = broadcast4(codes + i * 8), odd_i8x32 = broadcast4(codes + i * 8 + 4);
    if (kCount == stream::kLines) stream::fetch(weights, ahead, i);
    part_i16x16[0] = stream_half(weights + i * 64, even_i8x32, odd_i8x32, part_i16x16[0]);
    part_i16x16[1] = stream_half(weights + i * 64 + 32, even_i8x32, odd_i8x32, part_i16x16[1]);
    keep(part_i16x16[0]);
    keep(part_i16x16[1]);
  }
  const __m256i ones_i16x16 = _mm256_set1_epi16(1);
  RRS_UNROLL_FULL
  for (int half = 0; half < 2; ++half) {
    sum_i32x8[half] =
        _mm256_add_epi32(sum_i32x8[half], _mm256_madd_epi16(part_i16x16[half], ones_i16x16));
  }
}

RRS_TARGET_AVX2 inline void stream_panel(const GemmTileArgs& a, StreamWalk w, float* out) noexcept {
  __m256 acc_f32x8[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (std::int64_t g = 0; g < w.groups; ++g) {
    const __m256i start_i32x8 = _mm256_set1_epi32(stream::start(*w.code_sums));
    __m256i sum_i32x8[2] = {start_i32x8, start_i32x8};
    std::int64_t lines = w.lines_in(g);
    for (; lines >= stream::kLines; lines -= stream::kLines) {
      stream_lines<stream::kLines>(w.weights, w.codes, sum_i32x8);
      w.pass_lines(stream::kLines);
    }
    for (; lines > 0; --lines) {
      stream_lines<1>(w.weights, w.codes, sum_i32x8);
      w.pass_lines(1);
    }
    RRS_UNROLL_FULL
    for (int half = 0; half < 2; ++half) {
      const auto* f16x8 = reinterpret_cast<const __m128i*>(w.v) + half;
      const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(f16x8));
      const __m256 tmp_f32x8 = _mm256_mul_ps(_mm256_cvtepi32_ps(sum_i32x8[half]), v_f32x8);
      acc_f32x8[half] = _mm256_fmadd_ps(tmp_f32x8, _mm256_set1_ps(*w.s), acc_f32x8[half]);
    }
    w.pass_group(a);
  }
  _mm256_storeu_ps(out, acc_f32x8[0]);
  _mm256_storeu_ps(out + 8, acc_f32x8[1]);
}

// True when it did the tile.
RRS_TARGET_AVX2 inline bool w4_stream_tile(const GemmTileArgs& a) noexcept {
  if (!stream::fits(a, 1)) return false;
  for (int panel = 0; panel < a.panels; ++panel) {
    stream_panel(a, stream::walk(a, panel), a.out + panel * kPanelOutputs);
  }
  return true;
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
