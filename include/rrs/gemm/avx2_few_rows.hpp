// AVX2 tiles of few rows for integer activations: stored weights, unpacked in registers.
//
// formula and written order: gemm.hpp.  from: pack/.  to: avx2_integer.hpp (taller tiles).
//   per 64 bytes of W4 and sub-tile: 6 uops to unpack; per row 2 broadcasts, 4 vpmaddubsw, 4 vpaddw
//   per 64 bytes of W8 likewise, with vpmaddwd on codes widened to int16
// One row of W4 comes here in groups of 16, or per channel with offsets, only (else
// avx2_stream.hpp): 14 uops on three ports = 4.7 cycles per 64 bytes (6.5 to 7.7 measured in L2).
// Each panel is read from end to end: one stream. With a switch of the panel every 16 KB, L3 took
// 15 cycles per 64 bytes instead of 9.5 (reading alone: 8.7) and DRAM 26 instead of 20 (21). Up to
// 12 rows unpack twice in registers rather than once to L1: 10 % faster than taller tiles' way at
// 12 rows, equal at 13. int32 sums (W8) need no parts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_wide.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx2 {

inline constexpr int kFewRows = 12;
inline constexpr int kFewPanels = 4;
inline constexpr int kStreamBlocks = 256;

}  // namespace avx2

RRS_FUNCTIONS_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// A short last group of W4A8 that is not of whole parts (K = 1000): int32 sums as of a row group,
// then its end as in avx2_chunk.hpp. c: one group of c.blocks.
RRS_TARGET_AVX2 inline void stream_odd_group(const GemmTileArgs& a, const WideChunk& c,
                                             const std::uint8_t* weights, const std::int8_t* codes,
                                             float* out) noexcept {
  alignas(64) float sums[kFewRows * 16] = {};  // int32
  carry_rows<4, 1>(a, c, c.blocks, weights, codes, sums);
  const __m256 minus_magic_f32x8 = _mm256_load_ps(kWideConstants.minus_magic);
  for (int half = 0; half < 2; ++half) {
    const auto* f16x8 = static_cast<const __m128i*>(c.v) + half;
    const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(f16x8));
    const __m256 c_f32x8 = _mm256_mul_ps(v_f32x8, minus_magic_f32x8);
    for (int r = 0; r < a.rows; ++r) {
      const int at = r * 16 + half * 8;
      const __m256i sum_i32x8 = _mm256_load_si256(reinterpret_cast<const __m256i*>(sums + at));
      const __m256i isum_i32x8 = _mm256_add_epi32(sum_i32x8, _mm256_set1_epi32(c.start[r]));
      const __m256 tmp_f32x8 = _mm256_fmadd_ps(_mm256_castsi256_ps(isum_i32x8), v_f32x8, c_f32x8);
      _mm256_store_ps(out + at,
                      _mm256_fmadd_ps(tmp_f32x8, _mm256_set1_ps(c.s[r]), _mm256_load_ps(out + at)));
    }
  }
}

// Blocks [first, first + blocks) of panels [panel, last_panel). out: [panels][rows][16].
template <int kWeightBits, int kPartBlocks>
RRS_TARGET_AVX2 inline void stream_chunk(const GemmTileArgs& a, std::int64_t first,
                                         std::int64_t blocks, int panel, int last_panel,
                                         float* out) noexcept {
  constexpr int kCodes = kWeightBits == 4 ? 8 : 4;                       // bytes of a block and row
  constexpr int kPart = kWeightBits == 4 ? kPartBlocks : kStreamBlocks;  // int32 needs no parts
  alignas(64) std::int8_t wide_codes[kWeightBits == 8 ? kStreamBlocks * 2 * kFewRows * 4 : 1];
  alignas(64) std::int32_t start[kStreamBlocks / 2 * kFewRows];
  alignas(64) float s[kStreamBlocks / 2 * kFewRows];
  const bool row_group = a.inner_group == kRowGroup;
  const std::int64_t per_group = group_blocks<kWeightBits>(a);
  const std::int64_t first_group = first / per_group;
  const std::int64_t whole = blocks / per_group;
  const std::int64_t rest = blocks - whole * per_group;
  const std::int64_t groups = whole + (rest != 0);
  if (!row_group) chunk_start<kWeightBits>(a, first_group, groups, start);
  const float* scales = chunk_scales(a, first_group, groups, s);
  const auto* codes = static_cast<const std::int8_t*>(a.activations) + first * kCodes * a.rows;
  if (kWeightBits == 8) {
    widen_codes(codes, blocks, a.rows, wide_codes);
    codes = wide_codes;
  }
  for (out += panel * a.rows * 16; panel < last_panel; ++panel, out += a.rows * 16) {
    const std::uint8_t* weights = a.weights + panel * a.panel_bytes + first * 64;
    const f16* v = a.weight_scales + panel * a.panel_scales + first_group * kPanelOutputs;
    if (row_group) {
      const WideChunk c{0, 0, kPart, start, scales, v, {}, {}};
      carry_rows<kWeightBits, 1>(a, c, blocks, weights, codes, out);
      continue;
    }
    if (whole != 0) {
      const WideChunk c{per_group, whole, kPart, start, scales, v, {}, {}};
      wide_rows<kWeightBits, 1>(a, c, weights, codes, out);
    }
    if (rest != 0) {
      const WideChunk c{rest,
                        1,
                        kPart,
                        start + whole * a.rows,
                        scales + whole * a.rows,
                        v + whole * kPanelOutputs,
                        {},
                        {}};
      const std::int64_t done = whole * per_group;
      weights += done * 64;
      const std::int8_t* rest_codes = codes + done * 8 * a.rows;
      if (kWeightBits == 4 && rest > kPart && rest % 4 != 0) {  // parts are of four blocks
        stream_odd_group(a, c, weights, rest_codes, out);
      } else {
        wide_rows<kWeightBits, 1>(a, c, weights, rest_codes, out);
      }
    }
  }
}

// True when it did the tile.
template <int kWeightBits, int kPartBlocks>
RRS_TARGET_AVX2 inline bool few_rows_tile(const GemmTileArgs& a) noexcept {
  if (a.rows > kFewRows || a.panels > kFewPanels || a.inner_per_weight != 1 ||
      !wide_groups_fit<kWeightBits>(a, kPartBlocks, kStreamBlocks)) {
    return false;
  }
  const std::int64_t all = a.k_padded / (kWeightBits == 4 ? 8 : 4);
  alignas(64) float out[kFewPanels * kFewRows * 16];
  for (std::int64_t i = 0; i < std::int64_t{a.panels} * a.rows * 16; i += 8) {
    _mm256_store_ps(out + i, _mm256_setzero_ps());
  }
  // W4: one panel after the other, a single stream. W8: chunks first, codes are widened once.
  const int step = kWeightBits == 4 ? 1 : a.panels;
  for (int panel = 0; panel < a.panels; panel += step) {
    for (std::int64_t b = 0; b < all; b += kStreamBlocks) {
      stream_chunk<kWeightBits, kPartBlocks>(a, b, (std::min)(std::int64_t{kStreamBlocks}, all - b),
                                             panel, panel + step, out);
    }
  }
  if (a.inner_group == kRowGroup) finish_row_groups<kWeightBits>(a, out);
  write_tile(a, out);
  return true;
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
