// AVX-512 leaf of the low-rank branch: f32 rows against panels of f16 or of int8 codes.
//
// formula and written order: low_rank.hpp.
//   vfmadd231ps zmm, zmm, m32{1to16}   ports 0 5, one load   vcvtph2ps zmm, m256   2 uops (0 5)
//   int8 instead of vcvtph2ps: vpmovsxbd zmm (port 5), vcvtdq2ps zmm (ports 0 5): 2 uops, too
// Registers: 12 rows x 2 panels = 24 sums, 2 weights. Weights are converted once per 12 rows: 4 of
// 28 uops on the FMA ports. One row alone (decode) takes four panels at once, for four chains.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/types.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx512 {

inline constexpr int kLowRankRows = 12;

}  // namespace avx512

RRS_FUNCTIONS_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512 {

// The weights that `m` names as f32: exact. The others are 0 and not read.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 low_rank_weights(__mmask16 m, const f16* w) noexcept {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, w));
}
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 low_rank_weights(__mmask16 m,
                                                           const std::int8_t* w) noexcept {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(m, w)));
}

template <std::size_t... I>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void low_rank_step(__m512* sum_f32x16, const float* x,
                                                      std::int64_t x_stride, __m512 w_f32x16,
                                                      std::index_sequence<I...>) noexcept {
  ((sum_f32x16[I] = _mm512_fmadd_ps(_mm512_set1_ps(x[static_cast<std::int64_t>(I) * x_stride]),
                                    w_f32x16, sum_f32x16[I])),
   ...);
}

// Rows [row, row + R) of P panels; `m`: the outputs that a panel stores.
template <class Element, int R, int P>
RRS_TARGET_AVX512 inline void low_rank_rows(const LowRankArgs<Element>& a, int row,
                                            __mmask16 m) noexcept {
  constexpr std::make_index_sequence<static_cast<std::size_t>(R)> kRows{};
  __m512 sum_f32x16[static_cast<std::size_t>(P)][static_cast<std::size_t>(R)];
  float* out = a.out + row * a.out_stride;
  RRS_UNROLL_FULL
  for (int p = 0; p < P; ++p) {
    RRS_UNROLL_FULL
    for (int t = 0; t < R; ++t) {
      const float* at = out + t * a.out_stride + p * kPanelOutputs;
      sum_f32x16[p][t] =
          a.start_scale == nullptr
              ? _mm512_setzero_ps()
              : _mm512_mul_ps(_mm512_set1_ps(a.start_scale[row + t]), _mm512_maskz_loadu_ps(m, at));
    }
  }
  const float* x = a.x + row * a.x_stride;
  const Element* w = a.weights;
  const std::int64_t panel = a.inputs * a.width;
  for (std::int64_t k = 0; k < a.inputs; ++k, ++x, w += a.width) {
    RRS_UNROLL_FULL
    for (int p = 0; p < P; ++p) {
      low_rank_step(sum_f32x16[p], x, a.x_stride, low_rank_weights(m, w + p * panel), kRows);
    }
  }
  RRS_UNROLL_FULL
  for (int p = 0; p < P; ++p) {
    RRS_UNROLL_FULL
    for (int t = 0; t < R; ++t) {
      _mm512_mask_storeu_ps(out + t * a.out_stride + p * kPanelOutputs, m, sum_f32x16[p][t]);
    }
  }
}

template <class Element>
using LowRankRows = void (*)(const LowRankArgs<Element>& a, int row, __mmask16 m) noexcept;
template <class Element, int P>
inline constexpr LowRankRows<Element> kLowRankRowsOf[kLowRankRows + 1] = {
    nullptr,
    &low_rank_rows<Element, 1, P>,
    &low_rank_rows<Element, 2, P>,
    &low_rank_rows<Element, 3, P>,
    &low_rank_rows<Element, 4, P>,
    &low_rank_rows<Element, 5, P>,
    &low_rank_rows<Element, 6, P>,
    &low_rank_rows<Element, 7, P>,
    &low_rank_rows<Element, 8, P>,
    &low_rank_rows<Element, 9, P>,
    &low_rank_rows<Element, 10, P>,
    &low_rank_rows<Element, 11, P>,
    &low_rank_rows<Element, 12, P>};

template <class Element>
inline void low_rank_panels(const LowRankArgs<Element>& args) noexcept {
  LowRankArgs<Element> a = args;
  const auto m = static_cast<__mmask16>(a.width == 8 ? 0x00ffu : 0xffffu);
  const RowTiles sub = make_row_tiles(a.rows, kLowRankRows);
  for (int panel = 0; panel < args.panels;) {
    const int left = args.panels - panel;
    const int done = a.rows == 1 && left >= 4 ? 4 : (std::min)(left, 2);
    if (done == 4) low_rank_rows<Element, 1, 4>(a, 0, m);
    for (std::int64_t i = 0; done < 4 && i < sub.tiles; ++i) {
      const auto& rows = done == 2 ? kLowRankRowsOf<Element, 2> : kLowRankRowsOf<Element, 1>;
      rows[sub.rows_in(i)](a, static_cast<int>(sub.first_row(i)), m);
    }
    panel += done;
    a.weights += done * a.inputs * a.width;
    a.out += done * kPanelOutputs;
  }
}

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
