// VNNI tiles of kWideMinRows rows and more: 64 rows x 4 panels, no offsets; any group of up to 256
// inputs (W8: 128), and row groups, whose int32 sums stay in `out` until the end of K.
//
// Sub-tiles, their instructions and registers: avx512vnni_sub.hpp.
// Whole products, M=512 N=K=4096 (Granite Rapids, time over that of 7x2): 6x4 0.93 at groups of 32,
// 0.885 at 64, although it has more stores: its blocks of 128 inputs stay in L1. Blocks of 256 0.97
// and 0.88; 5x4 0.92 and 0.91; 4x4 0.97 and 0.93; 3x4 with sums in registers 1.23 to 1.28. At 128
// 5x4, 4x4 and blocks of 256 are equal to it within 1 %.
// Unpacking, too, is mostly its stores: 128 per 64 rows x 4 panels x 128 inputs, 4 % of the ports.
// L1 of 6x4, 48 KB: 128 inputs x 64 rows 8 KB, twice (this block and the next), 4 panels unpacked
// 8 KB, sums 16 KB, the next weights 4 KB. Blocks of 512 inputs outgrow it: 7x2 prefetches the next
// sub-tile's activations from L2 (+13 %).
// M=512 N=K=4096, removing one cost at a time: activations from L2 1 %, unpacking 2 %, Y 3 %, all
// of them 12 %; without prefetching the next block -6 %. Storing rows of Y as soon as they are
// final, and prefetching only the next ones, lost 1 %.
// No gain: 7x2 for groups of 128 with tiles of 96, 128 or 192 rows x 2 panels (-3 to -10 %; at 32
// the tall tiles gain 2-5 % more, not taken: one tile shape per kernel); 8x3, 5x4, 12x2, 4x6, 5x5
// in L1; weights interleaved by panel; broadcasts instead of copies as start values; sums placed
// free of 4K aliasing; huge pages. Non-temporal stores of Y: +2 %, not taken: the next layer would
// read Y from memory.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "rrs/gemm/avx512_block.hpp"
#include "rrs/gemm/avx512vnni_stream.hpp"
#include "rrs/gemm/avx512vnni_sub.hpp"

#if RRS_X86_64

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512vnni {

inline constexpr int kWideMaxRows = kBlockRowsBound;
// Time over that of the leaves of few rows: 4 rows 1.24, 5 and 6 1.2, 7 0.90. W8, which those
// leaves do not unpack: 4 rows 1.02 to 1.05, 5 0.91 to 0.95, 6 0.94 to 0.97, 7 0.83.
template <int kBits>
inline constexpr int kWideMinRows = kBits == 4 ? 7 : 5;
inline constexpr int kWidePanels = 4;

// v, c, starts and scales of the block.
template <unsigned P>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void wide_scales(const GemmTileArgs& a, int weight_bits,
                                                        int panel, std::int64_t group, WideBlock& b,
                                                        float* vc, std::int32_t* starts) noexcept {
  const __m512 minus_magic_f32x16 = _mm512_set1_ps(-kMagicValue);
  avx512::fill_starts(a.code_sums + group * a.rows, b.groups * a.rows, kMagicBits, weight_bits - 1,
                      starts);
  for (int g = 0; g < b.groups; ++g) {
    b.scales[g] = a.activation_scales + (group + g) / a.inner_per_activation * a.rows;
    const f16* at =
        a.weight_scales + panel * a.panel_scales + (group + g) / a.inner_per_weight * 16;
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      const auto* scales = reinterpret_cast<const __m256i*>(at + p * a.panel_scales);
      const __m512 v_f32x16 = _mm512_cvtph_ps(_mm256_loadu_si256(scales));
      _mm512_store_ps(vc + p * 16, v_f32x16);
      _mm512_store_ps(vc + (P + p) * 16, _mm512_mul_ps(v_f32x16, minus_magic_f32x16));
    }
    vc += 2 * P * 16;
  }
}

// All of K for P panels, in blocks. kCarry: a row group.
template <class Shape, int kBits, bool kCarry>
RRS_TARGET_AVX512VNNI inline void wide_columns(const GemmTileArgs& a, int panel) noexcept {
  constexpr unsigned P = Shape::kSubPanels;
  constexpr int kPanels = P, kRows = Shape::kSubRows;
  constexpr int kStep = Shape::kBlock * kPanelOutputs;  // bytes of an unpacked panel
  constexpr int kInputBytes = kPanelOutputs * kBits / 8;
  constexpr std::size_t kUnpacked = kBits == 4 ? static_cast<std::size_t>(kPanels * kStep) : 64;
  alignas(64) std::uint8_t unpacked[kUnpacked];
  alignas(64) float vc[static_cast<std::size_t>(kBlockGroups * 2 * kPanels * kPanelOutputs)];
  alignas(64) std::int32_t starts[static_cast<std::size_t>(kBlockGroups * kWideMaxRows)];
  WideBlock b;
  b.vc = vc;
  b.starts = starts;
  b.rows = a.rows;
  b.group_inputs = a.inner_group;
  b.out = a.out + panel * kPanelOutputs;
  b.out_stride = std::int64_t{a.panels} * kPanelOutputs;
  const std::uint8_t* weights = a.weights + panel * a.panel_bytes;
  // At least two of four panels: a whole block prefetched at once stalls the multiplications (W8, 5
  // and 6 rows in one: 1.06 to 1.19 times as long from L3, 0.88 to 0.95 from L2). Not of fewer,
  // whose half would have too few chains (4 rows x 2 panels 1.05 to 1.37 times as long).
  const int shares = (std::max)(P == 4 ? 2 : 1, (a.rows + kRows - 1) / kRows);
  const int block =
      kCarry ? Shape::kBlock : (std::min)(Shape::kBlock, kBlockGroups * a.inner_group);
  for (std::int64_t first = 0; first < a.k_padded; first += block) {
    const auto inputs = static_cast<int>((std::min)(std::int64_t{block}, a.k_padded - first));
    const bool last = first + block >= a.k_padded;
    b.groups = kCarry ? 1 : (inputs + b.group_inputs - 1) / b.group_inputs;
    b.last_inputs = kCarry ? inputs : inputs - (b.groups - 1) * b.group_inputs;
    b.activations = static_cast<const std::int8_t*>(a.activations) + first * a.rows;
    if (!kCarry) wide_scales<P>(a, kBits, panel, first / a.inner_group, b, vc, starts);
    const std::uint8_t* at = weights + first * kInputBytes;
    b.weights = kBits == 4 ? unpacked : at;
    b.panel_step = kBits == 4 ? std::int64_t{kStep} : a.panel_bytes;
    for (int p = 0; p < kPanels && kBits == 4; ++p) {
      avx512::unpack_nibbles(at + p * a.panel_bytes, inputs, unpacked + p * kStep);
    }
    // Behind the last block: the next panels, the first activations again.
    const std::uint8_t* next = last ? weights + kPanels * a.panel_bytes : at + block * kInputBytes;
    const auto* next_a = last ? static_cast<const std::int8_t*>(a.activations)
                              : b.activations + std::int64_t{block} * a.rows;
    int share = 0;
    for (int row = 0; row < a.rows; ++share) {
      const int left = a.rows - row;
      const int parts = (std::max)(shares - share, (left + kRows - 1) / kRows);
      const int rows = (left + parts - 1) / parts;  // equal heights: none bound by latency
      wide_rows<Shape, kCarry>(b, row, rows);
      row += rows;
      for (int p = 0; p < kPanels; ++p) {
        avx512::prefetch_share(next + p * a.panel_bytes, inputs * kInputBytes, share, shares);
      }
      if (P == 4) avx512::prefetch_share(next_a, inputs * a.rows, share, shares);
    }
  }
}

template <int kBits, bool kCarry>
RRS_TARGET_AVX512VNNI inline void wide_panels(const GemmTileArgs& a) noexcept {
  const bool whole_groups = kCarry || a.inner_group <= WideFour::kBlock;  // in a block
  if (a.panels == kWidePanels && whole_groups) return wide_columns<WideFour, kBits, kCarry>(a, 0);
  int panel = 0;
  for (; panel + 2 <= a.panels; panel += 2) wide_columns<WideTwo, kBits, kCarry>(a, panel);
  if (panel < a.panels) wide_columns<WideLastPanel, kBits, kCarry>(a, panel);
}

// The sums of a row group: their start values, and what becomes of them, in the written order.
RRS_TARGET_AVX512VNNI inline void start_row_group(const GemmTileArgs& a, int weight_bits) noexcept {
  std::int32_t starts[static_cast<std::size_t>(kWideMaxRows)];
  avx512::fill_starts(a.code_sums, a.rows, 0, weight_bits - 1, starts);
  for (int i = 0; i < a.rows * a.panels; ++i) {
    _mm512_storeu_si512(a.out + i * kPanelOutputs, _mm512_set1_epi32(starts[i / a.panels]));
  }
}

RRS_TARGET_AVX512VNNI inline void finish_row_group(const GemmTileArgs& a) noexcept {
  for (int p = 0; p < a.panels; ++p) {
    const auto* scales = reinterpret_cast<const __m256i*>(a.weight_scales + p * a.panel_scales);
    const __m512 v_f32x16 = _mm512_cvtph_ps(_mm256_loadu_si256(scales));
    for (int r = 0; r < a.rows; ++r) {
      float* out = a.out + (r * a.panels + p) * kPanelOutputs;
      const __m512 tmp_f32x16 =
          _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(out)), v_f32x16);
      _mm512_storeu_ps(out, _mm512_fmadd_ps(tmp_f32x16, _mm512_set1_ps(a.activation_scales[r]),
                                            _mm512_setzero_ps()));
    }
  }
}

// The tile leaf. Other: what runs few rows, offsets and groups beyond kMagic's bound.
template <int kBits, class OtherTraits>
RRS_TARGET_AVX512VNNI inline void wide_tile(const GemmTileArgs& a) noexcept {
  const bool row_group = a.inner_group == kRowGroup;
  const bool fits = a.rows >= kWideMinRows<kBits> && a.weight_offsets == nullptr &&
                    (row_group || a.inner_group <= (kBits == 8 ? 128 : 256));
  if (!fits) {
    if (kBits == 4 && w4_stream_tile(a)) return;
    return avx512::block_tile<OtherTraits>(a);
  }
  if (row_group) {
    start_row_group(a, kBits);
    wide_panels<kBits, true>(a);
    return finish_row_group(a);
  }
  for (int i = 0; i < a.rows * a.panels; ++i) {
    _mm512_storeu_ps(a.out + i * kPanelOutputs, _mm512_setzero_ps());
  }
  wide_panels<kBits, false>(a);
}

}  // namespace avx512vnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
