// AVX-512 VNNI tiles of one to three rows of W4: each panel read from memory as one stream.
//
// formula and written order: gemm.hpp.  What is fetched ahead, and why: stream.hpp.
// Per line: load, vpand, vpsrlw, vpand, and per row 2 vpdpbusd with their broadcasts. Sums of even
// and odd steps of 4 inputs are apart: two chains of 5 cycles per line. Group end: cvt, mul and
// fma, for few rows no dearer than preparing c for the float trick (avx512_block.hpp). Time over
// that of two panels in turns (avx512vnni.hpp; Granite Rapids, L3) at 2 / 3 / 4 / 5 / 6 rows,
// groups of 32: 0.87 / 0.88 / 1.0 / 1.12 / 1.17; of 128: 0.99 / 1.04 / 1.11 / 1.08 / 1.05. Hence
// three.
#pragma once

#include <cstdint>

#include "rrs/gemm/avx512_block.hpp"
#include "rrs/gemm/avx512vnni_dot.hpp"
#include "rrs/gemm/stream.hpp"

#if RRS_X86_64

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512vnni {

inline constexpr int kStreamRows = 3;

// One line: 8 inputs of 16 outputs, R rows.
template <unsigned R>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void stream_line(const std::uint8_t* weights,
                                                        const std::int8_t* codes,
                                                        __m512i (&even_i32x16)[R],
                                                        __m512i (&odd_i32x16)[R]) noexcept {
  const __m512i low_u8x64 = _mm512_set1_epi8(15);
  __m512i w_u4x128 = _mm512_loadu_si512(weights);
  avx512::keep(w_u4x128);
  const __m512i even_u8x64 = _mm512_and_si512(w_u4x128, low_u8x64);
  const __m512i odd_u8x64 = _mm512_and_si512(_mm512_srli_epi16(w_u4x128, 4), low_u8x64);
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    even_i32x16[r] = dot4(even_i32x16[r], even_u8x64, codes + r * 4);
    odd_i32x16[r] = dot4(odd_i32x16[r], odd_u8x64, codes + (R + r) * 4);
  }
}

// out: row r at r * stride.
template <unsigned R>
RRS_TARGET_AVX512VNNI inline void stream_panel(const GemmTileArgs& a, StreamWalk w, float* out,
                                               std::int64_t stride) noexcept {
  constexpr int kCodes = static_cast<int>(R) * kPackedInputs;  // of a line
  __m512 acc_f32x16[R];
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) acc_f32x16[r] = _mm512_setzero_ps();
  for (std::int64_t g = 0; g < w.groups; ++g) {
    __m512i even_i32x16[R], odd_i32x16[R];
    RRS_UNROLL_FULL
    for (unsigned r = 0; r < R; ++r) {
      even_i32x16[r] = _mm512_set1_epi32(stream::start(w.code_sums[r]));
      odd_i32x16[r] = _mm512_setzero_si512();
    }
    std::int64_t lines = w.lines_in(g);
    for (; lines >= stream::kLines; lines -= stream::kLines) {
      const std::uintptr_t ahead = stream::ahead(w.weights);
      RRS_UNROLL_FULL
      for (int i = 0; i < stream::kLines; ++i) {
        stream::fetch(w.weights, ahead, i);
        stream_line<R>(w.weights + i * 64, w.codes + i * kCodes, even_i32x16, odd_i32x16);
      }
      w.pass_lines(stream::kLines);
    }
    for (; lines > 0; --lines) {
      stream_line<R>(w.weights, w.codes, even_i32x16, odd_i32x16);
      w.pass_lines(1);
    }
    const __m512 v_f32x16 =
        _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.v)));
    RRS_UNROLL_FULL
    for (unsigned r = 0; r < R; ++r) {
      const __m512i isum_i32x16 = _mm512_add_epi32(even_i32x16[r], odd_i32x16[r]);
      const __m512 tmp_f32x16 = _mm512_mul_ps(_mm512_cvtepi32_ps(isum_i32x16), v_f32x16);
      acc_f32x16[r] = _mm512_fmadd_ps(tmp_f32x16, _mm512_set1_ps(w.s[r]), acc_f32x16[r]);
    }
    w.pass_group(a);
  }
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) _mm512_storeu_ps(out + r * stride, acc_f32x16[r]);
}

template <unsigned R>
RRS_TARGET_AVX512VNNI inline void stream_panels(const GemmTileArgs& a) noexcept {
  const std::int64_t stride = std::int64_t{a.panels} * kPanelOutputs;
  for (int panel = 0; panel < a.panels; ++panel) {
    stream_panel<R>(a, stream::walk(a, panel), a.out + panel * kPanelOutputs, stride);
  }
}

// True when it did the tile.
RRS_TARGET_AVX512VNNI inline bool w4_stream_tile(const GemmTileArgs& a) noexcept {
  if (!stream::fits(a, kStreamRows)) return false;
  switch (a.rows) {
    case 1: stream_panels<1>(a); break;
    case 2: stream_panels<2>(a); break;
    default: stream_panels<3>(a); break;
  }
  return true;
}

}  // namespace avx512vnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
