// AVX2 tiles for integer activations: W4A4, W4A8, W8A8, up to 48 rows x 16 outputs per panel.
//
// formula and written order: gemm.hpp.  from: pack/ (panels, tiles).  to: driver.hpp.
// Steps, per chunk of 32 blocks (256 inputs of W4, 128 of W8) and panel:
//   1. unpack the chunk into 4 KB of L1 (W4: two nibbles to two bytes, 3 uops per 32 bytes; W8:
//   bytes
//      to int16, since 8 x 8 bits saturate vpmaddubsw), once for all rows of the tile;
//   2. for every sub-tile of up to 12 rows, output half and group: dot_group (avx2_dot.hpp).
// W8 codes are widened likewise, once per chunk: even inputs of a 4-byte unit, then odd ones,
// because that needs shifts only; the weights are split the same way. L1, 48 rows: codes 24 KB +
// weights 8 KB + sums 3 KB + start values and scales 6 KB of 48 KB. Parts: int16 sums hold 128
// steps of A4 (30720) but only 8 of A8: W4A8 goes to int32 every 32 inputs. Whole groups in the
// chunk (A4, W8, or A8 at group 32) need one part.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_dot.hpp"
#include "rrs/gemm/avx2_few_rows.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx2 {

inline constexpr int kTileRows = 48;  // 60 was no better: unpacking is 3 to 5 % of the time at 48
inline constexpr int kTilePanels = 2;
inline constexpr int kChunkBlocks = 32;
inline constexpr int kPartBlocksA4 = 32;
inline constexpr int kPartBlocksA8 = 4;

// One chunk of one panel, for one sub-tile.
struct ChunkArgs {
  const GemmTileArgs* tile;
  const std::uint8_t* weights;  // [2][kChunkBlocks][64] unpacked
  const std::int8_t* codes;     // first block of the chunk, first row of the sub-tile
  const std::int32_t* start;    // [groups of the chunk][tile rows], first row of the sub-tile
  std::int32_t* totals;         // [2][12][8] of the sub-tile: alive while a group spans chunks
  float* out;                   // [rows][16] of the panel, first row of the sub-tile
  std::int64_t first_block;     // of the chunk
  std::int64_t first_group;     // the group that holds it
  std::int64_t blocks;          // in the chunk
  int panel;
  int first_row;
  int part_blocks;
};
using ChunkFunction = void (*)(const ChunkArgs& args) noexcept;

}  // namespace avx2

RRS_FUNCTIONS_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

template <int kWeightBits>
RRS_FORCE_INLINE std::int64_t group_blocks(const GemmTileArgs& a) noexcept {
  constexpr int kInputs = kWeightBits == 4 ? 8 : 4;
  return a.inner_group == kRowGroup ? a.k_padded / kInputs : a.inner_group / kInputs;
}

// Sums beyond 2^22 do not fit the float trick: row groups, and W8 with the raw code.
template <int kWeightBits>
RRS_FORCE_INLINE bool wide_sums(const GemmTileArgs& a) noexcept {
  return a.inner_group == kRowGroup || (kWeightBits == 8 && a.weight_offsets != nullptr);
}

// totals -> out, by conversion: tmp = float(isum) * v; acc = fma(tmp, s, acc).
template <int R>
RRS_TARGET_AVX2 inline void finish_wide(const DotArgs& d) noexcept {
  const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(d.v)));
  for (int r = 0; r < R; ++r) {
    const __m256i isum_i32x8 =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(d.totals + 8 * r));
    const __m256 tmp_f32x8 = _mm256_mul_ps(_mm256_cvtepi32_ps(isum_i32x8), v_f32x8);
    float* out = d.out + 16 * r;
    _mm256_store_ps(out, _mm256_fmadd_ps(tmp_f32x8, _mm256_set1_ps(d.s[r]), _mm256_load_ps(out)));
  }
}

// acc = fma(float(code_sum) * offset, s, acc)
template <int R>
RRS_TARGET_AVX2 inline void add_offsets(const DotArgs& d, const std::int32_t* sums,
                                        const float* offsets) noexcept {
  const __m256 offset_f32x8 = _mm256_loadu_ps(offsets);
  for (int r = 0; r < R; ++r) {
    const __m256 tmp_f32x8 =
        _mm256_mul_ps(_mm256_set1_ps(static_cast<float>(sums[r])), offset_f32x8);
    float* out = d.out + 16 * r;
    _mm256_store_ps(out, _mm256_fmadd_ps(tmp_f32x8, _mm256_set1_ps(d.s[r]), _mm256_load_ps(out)));
  }
}

// One part of a group; `first` and `last` say where in the group it lies.
template <int R, int kWeightBits>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void dot_part(const DotArgs& d, bool first, bool last) noexcept {
  if (first) {
    last ? dot_group<R, kWeightBits, kStartToOut>(d) : dot_group<R, kWeightBits, kStartToTotals>(d);
  } else {
    last ? dot_group<R, kWeightBits, kTotalsToOut>(d)
         : dot_group<R, kWeightBits, kTotalsToTotals>(d);
  }
}

// g / per without a division in the usual case. With four divisions per group and half, the loop
// below lost 2 % at group 128 and 9 % at group 32.
RRS_FORCE_INLINE std::int64_t outer_group(std::int64_t g, std::int64_t per) noexcept {
  return per == 1 ? g : g / per;
}

// A group that is cut into parts or needs more than the scale: both halves, any flow.
template <int R, int kWeightBits>
RRS_TARGET_AVX2 inline void general_group(const ChunkArgs& c, DotArgs d, std::int64_t first,
                                          std::int64_t last, std::int64_t g) noexcept {
  const GemmTileArgs& a = *c.tile;
  const std::int64_t stop = (std::min)(last, c.first_block + c.blocks);
  const bool wide = wide_sums<kWeightBits>(a);
  const std::uint8_t* weights = c.weights;
  for (int half = 0; half < 2; ++half) {
    for (std::int64_t b = (std::max)(first, c.first_block); b < stop; b += d.blocks) {
      const std::int64_t in_chunk = b - c.first_block;
      d.blocks = (std::min)(stop - b, std::int64_t{c.part_blocks});
      d.weights = weights + in_chunk * 64;
      d.codes = c.codes + in_chunk * 2 * d.stride;
      dot_part<R, kWeightBits>(d, b == first, b + d.blocks == last && !wide);
    }
    if (stop == last && wide) finish_wide<R>(d);
    if (stop == last && a.weight_offsets != nullptr) {
      const std::int64_t offset =
          c.panel * a.panel_scales + outer_group(g, a.inner_per_weight) * kPanelOutputs + half * 8;
      add_offsets<R>(d, a.code_sums + g * a.rows + c.first_row, a.weight_offsets + offset);
    }
    d.v += 8;
    d.out += 8;
    d.totals += kDotRows * 8;
    weights += kChunkBlocks * 64;
  }
}

// One sub-tile, one chunk, one panel: all groups that overlap the chunk.
template <int R, int kWeightBits>
RRS_TARGET_AVX2 void chunk_rows(const ChunkArgs& c) noexcept {
  const GemmTileArgs& a = *c.tile;
  const std::int64_t per_group = group_blocks<kWeightBits>(a);
  const std::int64_t all = a.k_padded / (kWeightBits == 4 ? 8 : 4);
  const std::int64_t stop = c.first_block + c.blocks;
  const bool simple =
      !wide_sums<kWeightBits>(a) && a.weight_offsets == nullptr && per_group <= c.part_blocks;
  const f16* v = a.weight_scales + c.panel * a.panel_scales;
  DotArgs d;
  d.stride = std::int64_t{a.rows} * 4;
  d.start = c.start;
  d.totals = c.totals;
  d.out = c.out;
  std::int64_t g = c.first_group;
  for (std::int64_t first = g * per_group; first < stop; first += per_group, ++g) {
    const std::int64_t last = (std::min)(first + per_group, all);
    d.s = a.activation_scales + outer_group(g, a.inner_per_activation) * a.rows + c.first_row;
    d.v = v + outer_group(g, a.inner_per_weight) * kPanelOutputs;
    if (simple) {  // groups of up to 256 do not cross chunks
      d.blocks = last - first;
      d.weights = c.weights + (first - c.first_block) * 64;
      d.codes = c.codes + (first - c.first_block) * 2 * d.stride;
      dot_group<R, kWeightBits, kStartToOut>(d);
      DotArgs second = d;
      second.weights += kChunkBlocks * 64;
      second.v += 8;
      second.out += 8;
      dot_group<R, kWeightBits, kStartToOut>(second);
    } else {
      general_group<R, kWeightBits>(c, d, first, last, g);
    }
    d.start += a.rows;
  }
}

struct ChunkFunctions {
  ChunkFunction rows[kDotRows + 1];
};
template <int kWeightBits, int... kRows>
constexpr ChunkFunctions chunk_functions(std::integer_sequence<int, kRows...>) {
  return ChunkFunctions{{nullptr, &chunk_rows<kRows + 1, kWeightBits>...}};
}
template <int kWeightBits>
inline constexpr ChunkFunctions kChunkFunctions =
    chunk_functions<kWeightBits>(std::make_integer_sequence<int, kDotRows>{});

// The weights that the next unpack_chunk reads, while the sub-tiles of this one run: an unpack is
// too short to hide the latency of L2 itself. Worth at most 1.5 % at group 128, within the noise.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void prefetch_chunk(const std::uint8_t* in,
                                                     std::int64_t blocks) noexcept {
  for (std::int64_t b = 0; b < blocks; ++b) {
    _mm_prefetch(reinterpret_cast<const char*>(in) + b * 64, _MM_HINT_T0);
  }
}

// 64 stored bytes per block to two halves of two vectors.
template <int kWeightBits>
RRS_TARGET_AVX2 inline void unpack_chunk(const std::uint8_t* in, std::int64_t blocks, bool raw,
                                         std::uint8_t* out) noexcept {
  const __m256i nibble_u8x32 = _mm256_set1_epi8(15);
  const __m256i byte_u16x16 = _mm256_set1_epi16(255);
  const __m256i zero_i16x16 = _mm256_set1_epi16(raw ? 0 : 128);
  for (std::int64_t b = 0; b < blocks; ++b, in += 64, out += 64) {
    for (int half = 0; half < 2; ++half) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 32 * half));
      auto* to = reinterpret_cast<__m256i*>(out + half * kChunkBlocks * 64);
      if (kWeightBits == 4) {
        _mm256_store_si256(to, _mm256_and_si256(w, nibble_u8x32));
        _mm256_store_si256(to + 1, _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble_u8x32));
      } else {
        _mm256_store_si256(to, _mm256_sub_epi16(_mm256_and_si256(w, byte_u16x16), zero_i16x16));
        _mm256_store_si256(to + 1, _mm256_sub_epi16(_mm256_srli_epi16(w, 8), zero_i16x16));
      }
    }
  }
}

// Codes of one chunk to int16: per 4 inputs, rows x (k0, k2), then rows x (k1, k3).
RRS_TARGET_AVX2 inline void widen_codes(const std::int8_t* in, std::int64_t blocks, int rows,
                                        std::int8_t* out) noexcept {
  const std::int64_t stride = std::int64_t{rows} * 4;
  for (std::int64_t b = 0; b < blocks; ++b, in += stride, out += 2 * stride) {
    std::int64_t i = 0;
    for (; i + 32 <= stride; i += 32) {
      const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                          _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + stride + i), _mm256_srai_epi16(q, 8));
    }
    for (; i < stride; i += 4) {
      const __m128i q = _mm_loadu_si32(in + i);
      _mm_storeu_si32(out + i, _mm_srai_epi16(_mm_slli_epi16(q, 8), 8));
      _mm_storeu_si32(out + stride + i, _mm_srai_epi16(q, 8));
    }
  }
}

// Start values of the groups that begin in the chunk: the float trick's magic number, and the bias.
// W8 codes lost theirs in unpack_chunk; with offsets the raw code is meant.
template <int kWeightBits>
RRS_TARGET_AVX2 inline void chunk_start(const GemmTileArgs& a, std::int64_t first_group,
                                        std::int64_t groups, std::int32_t* start) noexcept {
  const __m256i magic_i32x8 = _mm256_set1_epi32(wide_sums<kWeightBits>(a) ? 0 : kMagicBits);
  const bool bias = kWeightBits == 4 && a.weight_offsets == nullptr;
  const std::int32_t* sums = a.code_sums + first_group * a.rows;
  const std::int64_t n = groups * a.rows;
  std::int64_t i = 0;
  for (; bias && i + 8 <= n; i += 8) {
    const __m256i sum_i32x8 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + i));
    _mm256_store_si256(reinterpret_cast<__m256i*>(start + i),
                       _mm256_sub_epi32(magic_i32x8, _mm256_slli_epi32(sum_i32x8, 3)));
  }
  const std::int32_t magic = _mm256_extract_epi32(magic_i32x8, 0);
  for (; i < n; ++i) start[i] = bias ? magic - 8 * sums[i] : magic;
}

template <int kWeightBits, int kPartBlocks>
RRS_TARGET_AVX2 void integer_tile(const GemmTileArgs& a) noexcept {
  if (few_rows_tile<kWeightBits, kPartBlocks>(a)) return;
  alignas(64) std::uint8_t weights[2 * kChunkBlocks * 64];
  alignas(64) float out[kTilePanels * kTileRows * 16];
  alignas(64) std::int8_t wide_codes[kWeightBits == 8 ? kChunkBlocks * 2 * kTileRows * 4 : 1];
  alignas(64) std::int32_t start[kChunkBlocks / 2 * kTileRows];
  alignas(64) std::int32_t totals[kTilePanels * kTileRows * 16];
  const std::int64_t blocks = a.k_padded / (kWeightBits == 4 ? 8 : 4);
  const std::int64_t per_group = group_blocks<kWeightBits>(a);
  const RowTiles sub = make_row_tiles(a.rows, kDotRows);
  for (std::int64_t i = 0; i < std::int64_t{a.panels} * a.rows * 16; i += 8) {
    _mm256_store_ps(out + i, _mm256_setzero_ps());
  }
  ChunkArgs c;
  c.tile = &a;
  c.weights = weights;
  c.part_blocks = kPartBlocks;
  for (c.first_block = 0; c.first_block < blocks; c.first_block += kChunkBlocks) {
    c.blocks = (std::min)(std::int64_t{kChunkBlocks}, blocks - c.first_block);
    c.first_group = c.first_block / per_group;
    const std::int64_t last_group = (c.first_block + c.blocks - 1) / per_group;
    chunk_start<kWeightBits>(a, c.first_group, last_group - c.first_group + 1, start);
    const auto* codes = static_cast<const std::int8_t*>(a.activations);
    if (kWeightBits == 8) {
      widen_codes(codes + c.first_block * a.rows * 4, c.blocks, a.rows, wide_codes);
      codes = wide_codes;
    } else {
      codes += c.first_block * a.rows * 8;
    }
    for (c.panel = 0; c.panel < a.panels; ++c.panel) {
      unpack_chunk<kWeightBits>(a.weights + c.panel * a.panel_bytes + c.first_block * 64, c.blocks,
                                a.weight_offsets != nullptr, weights);
      const bool more = c.panel + 1 < a.panels;
      prefetch_chunk(a.weights + (more ? c.panel + 1 : 0) * a.panel_bytes +
                         (c.first_block + (more ? 0 : kChunkBlocks)) * 64,
                     c.blocks);
      for (std::int64_t t = 0; t < sub.tiles; ++t) {
        c.first_row = static_cast<int>(sub.first_row(t));
        c.codes = codes + c.first_row * 4;
        c.start = start + c.first_row;
        c.out = out + (c.panel * a.rows + c.first_row) * 16;
        c.totals = totals + (c.panel * kTileRows / kDotRows + t) * 2 * kDotRows * 8;
        kChunkFunctions<kWeightBits>.rows[sub.rows_in(t)](c);
      }
    }
  }
  for (int panel = 0; panel < a.panels; ++panel) {
    for (int r = 0; r < a.rows; ++r) {
      const float* from = out + (panel * a.rows + r) * 16;
      float* to = a.out + (r * a.panels + panel) * 16;
      _mm256_storeu_ps(to, _mm256_load_ps(from));
      _mm256_storeu_ps(to + 8, _mm256_load_ps(from + 8));
    }
  }
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
