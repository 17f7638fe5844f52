// AVX-VNNI tile of one row of W4: each panel read from memory as one stream.
//
// formula and written order: gemm.hpp.  What is fetched ahead, and why: stream.hpp.
// As avx512vnni_stream.hpp, in halves of 8 outputs. Two rows take 1.04 to 1.12 times as long as in
// avxvnni.hpp (Granite Rapids, L3): one only.
#pragma once

#include <cstdint>

#include "rrs/gemm/avx2_stream.hpp"
#include "rrs/gemm/stream.hpp"

#if RRS_HAS_AVXVNNI
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avxvnni {

// acc += w . a. As assembly: GCC 12 copies sums around the intrinsic (avx512vnni_dot.hpp).
RRS_TARGET_AVXVNNI RRS_FORCE_INLINE __m256i dot(__m256i acc_i32x8, __m256i w_u8x32,
                                                __m256i a_i8x32) noexcept {
  __asm__("%{vex%} {vpdpbusd %2, %1, %0|vpdpbusd %0, %1, %2}"
          : "+x"(acc_i32x8)
          : "x"(w_u8x32), "x"(a_i8x32));
  return acc_i32x8;
}

// One line: 8 inputs of 16 outputs. [half]: sums of even and odd steps of 4 inputs.
RRS_TARGET_AVXVNNI RRS_FORCE_INLINE void stream_line(const std::uint8_t* weights,
                                                     const std::int8_t* codes,
                                                     __m256i (&even_i32x8)[2],
                                                     __m256i (&odd_i32x8)[2]) noexcept {
  const __m256i low_u8x32 = _mm256_set1_epi8(15);
  const __m256i even_i8x32 = avx2::broadcast4(codes);
  const __m256i odd_i8x32 = avx2::broadcast4(codes + 4);
  RRS_UNROLL_FULL
  for (int half = 0; half < 2; ++half) {
    const auto* line = reinterpret_cast<const __m256i*>(weights) + half;
    __m256i w_u4x64 = _mm256_loadu_si256(line);
    avx2::keep(w_u4x64);
    const __m256i even_u8x32 = _mm256_and_si256(w_u4x64, low_u8x32);
    const __m256i odd_u8x32 = _mm256_and_si256(_mm256_srli_epi16(w_u4x64, 4), low_u8x32);
    even_i32x8[half] = dot(even_i32x8[half], even_u8x32, even_i8x32);
    odd_i32x8[half] = dot(odd_i32x8[half], odd_u8x32, odd_i8x32);
  }
}

RRS_TARGET_AVXVNNI inline void stream_panel(const GemmTileArgs& a, StreamWalk w,
                                            float* out) noexcept {
  __m256 acc_f32x8[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (std::int64_t g = 0; g < w.groups; ++g) {
    const __m256i start_i32x8 = _mm256_set1_epi32(stream::start(*w.code_sums));
    __m256i even_i32x8[2] = {start_i32x8, start_i32x8};
    __m256i odd_i32x8[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    std::int64_t lines = w.lines_in(g);
    for (; lines >= stream::kLines; lines -= stream::kLines) {
      const std::uintptr_t ahead = stream::ahead(w.weights);
      RRS_UNROLL_FULL
      for (int i = 0; i < stream::kLines; ++i) {
        stream::fetch(w.weights, ahead, i);
        stream_line(w.weights + i * 64, w.codes + i * kPackedInputs, even_i32x8, odd_i32x8);
      }
      w.pass_lines(stream::kLines);
    }
    for (; lines > 0; --lines) {
      stream_line(w.weights, w.codes, even_i32x8, odd_i32x8);
      w.pass_lines(1);
    }
    RRS_UNROLL_FULL
    for (int half = 0; half < 2; ++half) {
      const auto* f16x8 = reinterpret_cast<const __m128i*>(w.v) + half;
      const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(f16x8));
      const __m256i isum_i32x8 = _mm256_add_epi32(even_i32x8[half], odd_i32x8[half]);
      const __m256 tmp_f32x8 = _mm256_mul_ps(_mm256_cvtepi32_ps(isum_i32x8), v_f32x8);
      acc_f32x8[half] = _mm256_fmadd_ps(tmp_f32x8, _mm256_set1_ps(*w.s), acc_f32x8[half]);
    }
    w.pass_group(a);
  }
  _mm256_storeu_ps(out, acc_f32x8[0]);
  _mm256_storeu_ps(out + 8, acc_f32x8[1]);
}

// True when it did the tile.
RRS_TARGET_AVXVNNI inline bool w4_stream_tile(const GemmTileArgs& a) noexcept {
  if (!stream::fits(a, 1)) return false;
  for (int panel = 0; panel < a.panels; ++panel) {
    stream_panel(a, stream::walk(a, panel), a.out + panel * kPanelOutputs);
  }
  return true;
}

}  // namespace avxvnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
