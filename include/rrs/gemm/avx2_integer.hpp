// AVX2 tiles for integer activations: W4A4, W4A8, W8A8, up to 60 rows x 16 outputs per panel.
//
// formula and written order: gemm.hpp.  from: pack/ (panels, tiles).  to: driver.hpp.
// Steps, per chunk of 32 blocks (256 inputs of W4, 128 of W8) and panel:
//   1. unpack the chunk into 4 KB of L1 (W4: two nibbles to two bytes, 3 uops per 32 bytes; W8:
//      bytes to int16, since 8 x 8 bits saturate vpmaddubsw), once for all rows of the tile;
//   2. whole groups, and parts of row groups: sub-tiles of up to 6 rows x 16 outputs, all groups of
//      the chunk in one call (avx2_chunk.hpp). The rest (offsets, groups that cross chunks, a short
//      last group): sub-tiles of up to 12 rows x 8 outputs, group by group (avx2_dot.hpp).
// W8 codes are widened likewise, once per chunk: even inputs of a 4-byte unit, then odd ones,
// because that needs shifts only; the weights are split the same way. The bias (u - 8, u - 128) is
// in the start value of the int32 sums, which may wrap on the way. L1, 60 rows: codes 15 KB +
// weights 4 KB + sums 4 KB + start values 4 KB of 48 KB. Parts: int16 sums hold 128 steps of A4
// (30720) but only 8 of A8: W4A8 goes to int32 every 32 inputs. M = 512, N = K = 4096, group 128,
// MAC/cycle where 48 is the bound (vpmaddubsw and vpaddw of registers): 44.9 in L1 (42.7 groups
// of 64, 39.0 of 32), 43.1 the tile from L2, 41.7 weights from L3, 40 with Y. Fetching the codes of
// the next chunk is worth 1 to 2 %. No gain from: fetching scales, other blocking (weight blocks of
// 256 KB to 8 MB, row blocks of 64 to 512), Y rows off the 4 KB grid, fetching Y again before its
// store. Huge pages for weights, codes and Y: 2 %. Not built: one level of Strassen inside a group
// (exact in int16 for A4): 7 products of 8, but sums of codes per tile and of products per group
// take most of the 11 % again at 4 panels per tile, and only groups of 128 gain.
// Row groups keep int32 sums where others keep floats, and take what groups of 128 take. As groups
// of 12 rows x 8 outputs, cut into parts, they took 1.9 (W8 and W4) times as long at M = 1, 1.3 to
// 1.4 at 8 and 1.11 at 512.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_dot.hpp"
#include "rrs/gemm/avx2_few_rows.hpp"
#include "rrs/gemm/avx2_stream.hpp"
#include "rrs/gemm/avx2_wide.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx2 {

// The pipeline allows 64; 96 was at most 1 % faster. A multiple of kDotRows: totals lie by
// sub-tile.
inline constexpr int kTileRows = kMaxWideRows;
static_assert(kTileRows % kDotRows == 0, "room for the totals of every sub-tile");
inline constexpr int kTilePanels = 4;
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
RRS_TARGET_AVX2 inline void unpack_chunk(const std::uint8_t* in, std::int64_t blocks,
                                         std::uint8_t* out) noexcept {
  const __m256i nibble_u8x32 = _mm256_set1_epi8(15);
  const __m256i byte_u16x16 = _mm256_set1_epi16(255);
  for (std::int64_t b = 0; b < blocks; ++b, in += 64, out += 64) {
    for (int half = 0; half < 2; ++half) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 32 * half));
      auto* to = reinterpret_cast<__m256i*>(out + half * kChunkBlocks * 64);
      if (kWeightBits == 4) {
        _mm256_store_si256(to, _mm256_and_si256(w, nibble_u8x32));
        _mm256_store_si256(to + 1, _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble_u8x32));
      } else {
        _mm256_store_si256(to, _mm256_and_si256(w, byte_u16x16));
        _mm256_store_si256(to + 1, _mm256_srli_epi16(w, 8));
      }
    }
  }
}

// All sub-tiles of one chunk and panel, its weights unpacked. Whole groups in one call each.
template <int kWeightBits>
RRS_TARGET_AVX2 inline void chunk_tile(ChunkArgs c, const WideChunk& wide) noexcept {
  const GemmTileArgs& a = *c.tile;
  const std::int8_t* codes = c.codes;
  const std::int32_t* start = c.start;
  float* const out = c.out;
  std::int32_t* const totals = c.totals;
  if (wide.carry) return carry_rows<kWeightBits, 0>(a, wide, c.blocks, c.weights, codes, out);
  if (wide.groups != 0) {
    wide_rows<kWeightBits, 0>(a, wide, c.weights, codes, out);
    const std::int64_t done = wide.groups * wide.blocks;
    if (done == c.blocks) return;
    c.first_block += done;
    c.first_group += wide.groups;
    c.blocks -= done;
    c.weights += done * 64;
    codes += done * 8 * a.rows;
    start += wide.groups * a.rows;
  }
  const RowTiles sub = make_row_tiles(a.rows, kDotRows);
  for (std::int64_t t = 0; t < sub.tiles; ++t) {
    c.first_row = static_cast<int>(sub.first_row(t));
    c.codes = codes + c.first_row * 4;
    c.start = start + c.first_row;
    c.out = out + c.first_row * 16;
    c.totals = totals + t * 2 * kDotRows * 8;
    kChunkFunctions<kWeightBits>.rows[sub.rows_in(t)](c);
  }
}

// One chunk: start values, then per panel unpack and multiply.
template <int kWeightBits>
RRS_TARGET_AVX2 inline void chunk_panels(ChunkArgs c, float* out, std::int32_t* totals) noexcept {
  alignas(64) std::uint8_t weights[2 * kChunkBlocks * 64];
  alignas(64) std::int8_t wide_codes[kWeightBits == 8 ? kChunkBlocks * 2 * kTileRows * 4 : 1];
  alignas(64) std::int32_t start[kChunkBlocks / 2 * kTileRows];
  alignas(64) float s[kChunkBlocks / 2 * kTileRows];
  alignas(64) float v[kChunkBlocks / 2 * 32];
  const GemmTileArgs& a = *c.tile;
  const std::int64_t per_group = group_blocks<kWeightBits>(a);
  const std::int64_t last_group = (c.first_block + c.blocks - 1) / per_group;
  const std::int64_t groups = last_group - c.first_group + 1;
  const bool more_chunks = (c.first_block + c.blocks) * (kWeightBits == 4 ? 8 : 4) < a.k_padded;
  chunk_start<kWeightBits>(a, c.first_group, groups, start);
  WideChunk wide;
  wide.carry = a.inner_group == kRowGroup;
  wide.blocks = per_group;
  wide.groups =
      wide_groups_fit<kWeightBits>(a, c.part_blocks, kChunkBlocks) ? c.blocks / per_group : 0;
  wide.start = start;
  wide.s = chunk_scales(a, c.first_group, wide.groups, s);
  wide.v = v;
  wide.part_blocks = c.part_blocks;
  c.weights = weights;
  c.start = start;
  const std::int64_t block_codes = a.rows * (kWeightBits == 4 ? 8 : 4);
  const auto* codes = static_cast<const std::int8_t*>(a.activations);
  const std::int8_t* next_codes = codes;  // after the last chunk: the tile's next call
  codes += c.first_block * block_codes;
  if (more_chunks) next_codes = codes + c.blocks * block_codes;
  c.codes = codes;
  if (kWeightBits == 8) {
    widen_codes(codes, c.blocks, a.rows, wide_codes);
    c.codes = wide_codes;
  }
  wide.codes.lines = c.blocks * block_codes / 64 / a.panels;
  wide.weights.lines = kChunkBlocks;
  for (c.panel = 0; c.panel < a.panels; ++c.panel) {
    unpack_chunk<kWeightBits>(a.weights + c.panel * a.panel_bytes + c.first_block * 64, c.blocks,
                              weights);
    unpack_scales(a, c.panel, c.first_group, wide.groups, v);
    const bool more = c.panel + 1 < a.panels;
    const std::uint8_t* next = a.weights + (more ? c.panel + 1 : 0) * a.panel_bytes +
                               (c.first_block + (more ? 0 : kChunkBlocks)) * 64;
    if (wide.groups == 0 && !wide.carry) prefetch_chunk(next, c.blocks);
    wide.weights.from = next;
    wide.codes.from = next_codes + c.panel * wide.codes.lines * 64;
    c.out = out + c.panel * a.rows * 16;
    c.totals = totals + c.panel * kTileRows * 16;
    chunk_tile<kWeightBits>(c, wide);
  }
}

template <int kWeightBits, int kPartBlocks>
RRS_TARGET_AVX2 void integer_tile(const GemmTileArgs& a) noexcept {
  if (kWeightBits == 4 && w4_stream_tile(a)) return;
  if (few_rows_tile<kWeightBits, kPartBlocks>(a)) return;
  alignas(64) float out[kTilePanels * kTileRows * 16];
  alignas(64) std::int32_t totals[kTilePanels * kTileRows * 16];
  const std::int64_t blocks = a.k_padded / (kWeightBits == 4 ? 8 : 4);
  const std::int64_t per_group = group_blocks<kWeightBits>(a);
  for (std::int64_t i = 0; i < std::int64_t{a.panels} * a.rows * 16; i += 8) {
    _mm256_store_ps(out + i, _mm256_setzero_ps());
  }
  ChunkArgs c;
  c.tile = &a;
  c.part_blocks = kPartBlocks;
  for (c.first_block = 0; c.first_block < blocks; c.first_block += kChunkBlocks) {
    c.blocks = (std::min)(std::int64_t{kChunkBlocks}, blocks - c.first_block);
    c.first_group = c.first_block / per_group;
    chunk_panels<kWeightBits>(c, out, totals);
  }
  if (a.inner_group == kRowGroup) finish_row_groups<kWeightBits>(a, out);
  write_tile(a, out);
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
