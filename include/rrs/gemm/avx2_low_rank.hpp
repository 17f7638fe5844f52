// AVX2 leaf of the low-rank branch: f32 rows against panels of f16 or of int8 codes.
//
// formula and written order: low_rank.hpp.
//   vfmadd231ps   ports 0 1   vbroadcastss ymm, m32   load only   vcvtph2ps ymm, m128   2 uops
//   int8 instead of vcvtph2ps: vpmovsxbd ymm, m64 (port 5), vcvtdq2ps (ports 0 1)
// Registers: 6 rows x 2 vectors = 12 sums, 2 weights, 1 broadcast. One row alone (decode) takes
// four panels at once: 8 sums are 8 independent chains, as many as latency 4 on two ports needs.
#pragma once

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

namespace avx2 {

inline constexpr int kLowRankRows = 6;

}  // namespace avx2

RRS_FUNCTIONS_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// Eight weights as f32: exact.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 low_rank_weights(const f16* w) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
}
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 low_rank_weights(const std::int8_t* w) noexcept {
  const __m128i w_i8x8 = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(w_i8x8));
}

template <std::size_t... I>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void low_rank_step(__m256* sum_f32x8, const float* x,
                                                    std::int64_t x_stride, __m256 w_f32x8,
                                                    std::index_sequence<I...>) noexcept {
  ((sum_f32x8[I] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + static_cast<std::int64_t>(I) * x_stride),
                                   w_f32x8, sum_f32x8[I])),
   ...);
}

// Outputs of vector v, row t.
template <class Element>
RRS_FORCE_INLINE float* low_rank_out(const LowRankArgs<Element>& a, int row, int t,
                                     int v) noexcept {
  return a.out + (row + t) * a.out_stride + v * 8;
}

// Rows [row, row + R) of the first V vectors of 8 outputs; vector v belongs to panel v / 2.
template <class Element, int R, int V>
RRS_TARGET_AVX2 inline void low_rank_rows(const LowRankArgs<Element>& a, int row) noexcept {
  constexpr std::make_index_sequence<static_cast<std::size_t>(R)> kRows{};
  __m256 sum_f32x8[static_cast<std::size_t>(V)][static_cast<std::size_t>(R)];
  RRS_UNROLL_FULL
  for (int v = 0; v < V; ++v) {
    RRS_UNROLL_FULL
    for (int t = 0; t < R; ++t) {
      sum_f32x8[v][t] = a.start_scale == nullptr
                            ? _mm256_setzero_ps()
                            : _mm256_mul_ps(_mm256_broadcast_ss(a.start_scale + row + t),
                                            _mm256_loadu_ps(low_rank_out(a, row, t, v)));
    }
  }
  const float* x = a.x + row * a.x_stride;
  const Element* w = a.weights;
  const std::int64_t panel = a.inputs * a.width;
  for (std::int64_t k = 0; k < a.inputs; ++k, ++x, w += a.width) {
    RRS_UNROLL_FULL
    for (int v = 0; v < V; ++v) {
      const __m256 w_f32x8 = low_rank_weights(w + v / 2 * panel + v % 2 * 8);
      low_rank_step(sum_f32x8[v], x, a.x_stride, w_f32x8, kRows);
    }
  }
  RRS_UNROLL_FULL
  for (int v = 0; v < V; ++v) {
    RRS_UNROLL_FULL
    for (int t = 0; t < R; ++t) {
      _mm256_storeu_ps(low_rank_out(a, row, t, v), sum_f32x8[v][t]);
    }
  }
}

template <class Element>
using LowRankRows = void (*)(const LowRankArgs<Element>& a, int row) noexcept;
template <class Element, int V>
inline constexpr LowRankRows<Element> kLowRankRowsOf[kLowRankRows + 1] = {
    nullptr,
    &low_rank_rows<Element, 1, V>,
    &low_rank_rows<Element, 2, V>,
    &low_rank_rows<Element, 3, V>,
    &low_rank_rows<Element, 4, V>,
    &low_rank_rows<Element, 5, V>,
    &low_rank_rows<Element, 6, V>};

// One panel of `width` outputs, all rows.
template <class Element>
inline void low_rank_panel(const LowRankArgs<Element>& a) noexcept {
  const RowTiles sub = make_row_tiles(a.rows, kLowRankRows);
  for (std::int64_t i = 0; i < sub.tiles; ++i) {
    const int row = static_cast<int>(sub.first_row(i));
    const auto& rows = a.width == 8 ? kLowRankRowsOf<Element, 1> : kLowRankRowsOf<Element, 2>;
    rows[sub.rows_in(i)](a, row);
  }
}

template <class Element>
inline void low_rank_panels(const LowRankArgs<Element>& args) noexcept {
  LowRankArgs<Element> a = args;
  for (int panel = 0; panel < args.panels;) {
    const bool four = args.rows == 1 && args.panels - panel >= 4;
    if (four) {
      low_rank_rows<Element, 1, 8>(a, 0);
    } else {
      low_rank_panel(a);
    }
    const int done = four ? 4 : 1;
    panel += done;
    a.weights += done * a.inputs * a.width;
    a.out += done * kPanelOutputs;
  }
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
