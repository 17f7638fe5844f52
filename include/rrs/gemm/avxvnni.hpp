// GEMM kernels of the avxvnni level: vpdpbusd on 256 bits, for CPUs without AVX-512.
//
// formula and written order: gemm.hpp.  from: pack/ (panels, tiles).  to: driver.hpp.
// The tiles are those of avx2_integer.hpp: W4 is unpacked into L1 once per chunk and panel for all
// rows; up to 12 rows, and W8, read the stored weights, each panel as one stream. vpdpbusd sums to
// int32, so there are no parts, W4A8 costs what W4A4 costs, and W8 needs no widening. A row group
// is one group of all of K. What does not fit (offsets, weight groups wider than inner groups)
// goes to the avx2 tile. A16 and the stores are avx2's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_integer.hpp"
#include "rrs/gemm/avx2_wide.hpp"
#include "rrs/gemm/avxvnni_dot.hpp"
#include "rrs/gemm/avxvnni_stream.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_HAS_AVXVNNI

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avxvnni {

// Of 8 inputs, stored weights and few rows: a chunk of 32 KB of a panel, which is read once as a
// stream, so that only the codes (2 KB per row) need L1. Not searched.
inline constexpr int kStreamBlocks = 256;
inline constexpr int kGroupRows = 1536;  // groups x rows of a chunk: 128 x 12 or 16 x 60

using Function = avx2::WideFunction;

template <int R, int kWeightBits, int kStored, int kRowSums>
RRS_TARGET_AVXVNNI void dot_function(const avx2::WideArgs& args) noexcept {
  dot_groups<R, kWeightBits, kStored, kRowSums>(args);
}
template <int kWeightBits, int kStored, int kRowSums, int... kRows>
constexpr avx2::WideFunctions dot_functions(std::integer_sequence<int, kRows...>) {
  return avx2::WideFunctions{
      {nullptr, &dot_function<kRows + 1, kWeightBits, kStored, kRowSums>...}};
}
template <int kWeightBits, int kStored, int kRowSums>
inline constexpr avx2::WideFunctions kDotFunctions = dot_functions<kWeightBits, kStored, kRowSums>(
    std::make_integer_sequence<int, avx2::kWideRows>{});

// All sub-tiles of one panel. out: [tile rows][16].
template <int kWeightBits, int kStored>
RRS_TARGET_AVXVNNI inline void tile_rows(const GemmTileArgs& a, const avx2::WideChunk& c,
                                         const std::uint8_t* weights, const std::int8_t* codes,
                                         float* out) noexcept {
  alignas(32) float scratch[16];
  const avx2::WideFunctions& functions = a.inner_group == kRowGroup
                                             ? kDotFunctions<kWeightBits, kStored, 1>
                                             : kDotFunctions<kWeightBits, kStored, 0>;
  avx2::WideArgs w;
  w.weights = weights;
  w.stride = std::int64_t{a.rows} * 4;
  w.blocks = c.blocks;
  w.groups = c.groups;
  w.v = c.v;
  w.scratch = scratch;
  avx2::WideFetch next_weights = c.weights, next_codes = c.codes;
  const RowTiles sub = make_row_tiles(a.rows, avx2::kWideRows);
  for (std::int64_t t = 0; t < sub.tiles; ++t) {
    const std::int64_t row = sub.first_row(t);
    avx2::fetch_share(next_weights, t, sub.tiles);
    avx2::fetch_share(next_codes, t, sub.tiles);
    w.codes = codes + row * 4;
    w.start = c.start + row;
    w.s = c.s + row;
    w.out = out + row * 16;
    functions.rows[sub.rows_in(t)](w);
  }
}

// Blocks [first, first + blocks), of 8 inputs, of panels [panel, last_panel).
struct Span {
  std::int64_t first;
  std::int64_t blocks;
  int panel;
  int last_panel;
};

// A chunk: whole groups in one call, then the short last one. out: [panels][rows][16].
template <int kWeightBits, int kStored>
RRS_TARGET_AVXVNNI inline void tile_chunk(const GemmTileArgs& a, const Span& span,
                                          float* out) noexcept {
  constexpr int kBytes = kWeightBits * 16;  // of a block
  alignas(64) std::uint8_t unpacked[kStored ? 64 : 2 * avx2::kChunkBlocks * 64];
  alignas(64) float v[kStored ? 1 : avx2::kChunkBlocks / 2 * 32];
  alignas(64) std::int32_t start[kGroupRows];
  alignas(64) float s[kGroupRows];
  const std::int64_t per_group = a.inner_group == kRowGroup ? a.k_padded / 8 : a.inner_group / 8;
  const std::int64_t first_group = span.first / per_group;
  const std::int64_t whole = span.blocks / per_group;
  const std::int64_t rest = span.blocks - whole * per_group;
  const std::int64_t groups = whole + (rest != 0);
  avx2::chunk_start<kWeightBits>(a, first_group, groups, start);
  const float* scales = avx2::chunk_scales(a, first_group, groups, s);
  const auto* tile_codes = static_cast<const std::int8_t*>(a.activations);
  const std::int8_t* codes = tile_codes + span.first * 8 * a.rows;
  const bool more_chunks = (span.first + span.blocks) * 8 < a.k_padded;
  for (int panel = span.panel; panel < span.last_panel; ++panel) {
    const std::uint8_t* weights = a.weights + panel * a.panel_bytes + span.first * kBytes;
    const f16* f16_scales = a.weight_scales + panel * a.panel_scales + first_group * kPanelOutputs;
    avx2::WideChunk c{per_group, whole, 0, start, scales, f16_scales, {}, {}};
    if (a.rows > avx2::kFewRows && a.inner_group != kRowGroup) {  // into L1, for the next panel
      const bool more = panel + 1 < span.last_panel;
      c.weights.from =
          more ? weights + a.panel_bytes : a.weights + (span.first + span.blocks) * kBytes;
      c.weights.lines = span.blocks * kBytes / 64;
      c.codes.lines = span.blocks * 8 * a.rows / 64 / (span.last_panel - span.panel);
      c.codes.from = (more_chunks ? codes + span.blocks * 8 * a.rows : tile_codes) +
                     (panel - span.panel) * c.codes.lines * 64;
    }
    if (!kStored) {
      avx2::unpack_chunk<4>(weights, span.blocks, unpacked);
      avx2::unpack_scales(a, panel, first_group, groups, v);
      weights = unpacked;
      c.v = v;
    }
    float* to = out + panel * a.rows * 16;
    if (whole != 0) tile_rows<kWeightBits, kStored>(a, c, weights, codes, to);
    if (rest != 0) {
      c = {rest,
           1,
           0,
           start + whole * a.rows,
           scales + whole * a.rows,
           kStored ? static_cast<const void*>(f16_scales + whole * kPanelOutputs)
                   : static_cast<const void*>(v + whole * 32),
           {},
           {}};
      const std::int64_t done = whole * per_group;
      tile_rows<kWeightBits, kStored>(a, c, weights + done * (kStored ? kBytes : 64),
                                      codes + done * 8 * a.rows, to);
    }
  }
}

template <int kWeightBits, GemmTile kGeneralTile>
RRS_TARGET_AVXVNNI void integer_tile(const GemmTileArgs& a) noexcept {
  if (kWeightBits == 4 && w4_stream_tile(a)) return;
  const bool row_group = a.inner_group == kRowGroup;
  if (a.weight_offsets != nullptr || a.inner_per_weight != 1 || a.k_padded == 0) {
    return kGeneralTile(a);
  }
  alignas(64) float out[avx2::kTilePanels * avx2::kTileRows * 16];
  for (std::int64_t i = 0; i < std::int64_t{a.panels} * a.rows * 16; i += 8) {
    _mm256_store_ps(out + i, _mm256_setzero_ps());
  }
  const bool few = a.rows <= avx2::kFewRows;
  const std::int64_t all = a.k_padded / 8;
  const std::int64_t step = row_group ? all : few ? kStreamBlocks : avx2::kChunkBlocks;
  const int panels = few || row_group ? 1 : a.panels;  // few rows: one panel is one stream
  for (int panel = 0; panel < a.panels; panel += panels) {
    for (std::int64_t b = 0; b < all; b += step) {
      const Span span{b, (std::min)(step, all - b), panel, panel + panels};
      if (kWeightBits == 8 || few || row_group) {
        tile_chunk<kWeightBits, 1>(a, span, out);
      } else {
        tile_chunk<kWeightBits, kWeightBits == 8>(a, span, out);
      }
    }
  }
  avx2::write_tile(a, out);
}

constexpr GemmKernels gemm_kernels(GemmKernels lower) {
  constexpr GemmTile kA4 = &avx2::integer_tile<4, avx2::kPartBlocksA4>;
  constexpr GemmTile kA8 = &avx2::integer_tile<4, avx2::kPartBlocksA8>;
  constexpr GemmTile kW8 = &avx2::integer_tile<8, avx2::kChunkBlocks>;
  constexpr int kRows = avx2::kTileRows, kPanels = avx2::kTilePanels;
  lower.w4a4 = {&integer_tile<4, kA4>, kRows, kPanels, "avxvnni w4a4 6x16 of 60x64"};
  lower.w4a8 = {&integer_tile<4, kA8>, kRows, kPanels, "avxvnni w4a8 6x16 of 60x64"};
  lower.w8a8 = {&integer_tile<8, kW8>, kRows, kPanels, "avxvnni w8a8 6x16 of 60x64"};
  return lower;
}

}  // namespace avxvnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
