// The canonical packed weight format and the layout of activation tiles.
//
// Weights, one layout for all ISAs (format version 1). A panel is 16 consecutive outputs; N is
// padded to whole panels and K to a multiple of 8 with weight code 0.
//   W4: u4 = code + 8. For each 8 inputs, 64 bytes: byte (n*4 + j), n = 0..15, j = 0..3, holds
//   input
//       k0+j in its low nibble and input k0+4+j in its high nibble.
//   W8: u8 = code + 128. For each 4 inputs, 64 bytes: byte (n*4 + j) holds input k0+j.
//   Scales: f16 [panel][group][16]; outputs beyond N have scale 0.
//   Offsets (optional): f32 [panel][group][16]. With offsets a weight is scale * u + offset, u the
//       stored unsigned code; without, scale * code.
//
// Activations are transient. The rows of a call are cut into tiles of at most max_rows (the tile
// height of the kernel that will read them), as equal as possible. Within a tile, 4 inputs x rows:
// byte (k/4 * rows * 4 + row * 4 + k%4); floats: element (k * rows + row). Scales and code sums:
// [group][row]. All offsets below count elements of the array named.
//
// from: quantize/ (codes).  to: gemm/ (tiles).
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"

RRS_TYPES_BEGIN

inline constexpr int kPanelOutputs = 16;
inline constexpr int kPackedInputs = 8;  // K is padded to a multiple of this
inline constexpr int kPackedFormatVersion = 1;

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// K rounded up to whole blocks of kPackedInputs.
RRS_FORCE_INLINE constexpr std::int64_t padded_inputs(std::int64_t k) noexcept {
  return (k + kPackedInputs - 1) / kPackedInputs * kPackedInputs;
}

// Panels of N outputs; the last may be partly empty.
RRS_FORCE_INLINE constexpr std::int64_t panel_count(std::int64_t n) noexcept {
  return (n + kPanelOutputs - 1) / kPanelOutputs;
}

// Bytes of one panel: 8 per padded input at 4 bits, 16 at 8 bits.
RRS_FORCE_INLINE constexpr std::int64_t panel_bytes(std::int64_t k, int weight_bits) noexcept {
  return padded_inputs(k) * kPanelOutputs * weight_bits / 8;
}

// Position of code (n, k) inside its panel, n < 16. For W4 the nibble is low when k % 8 < 4.
RRS_FORCE_INLINE constexpr std::int64_t w4_byte(int n, std::int64_t k) noexcept {
  return k / 8 * 64 + n * 4 + k % 4;
}
// Which half of byte w4_byte(n, k) holds code (n, k).
RRS_FORCE_INLINE constexpr bool w4_high_nibble(std::int64_t k) noexcept { return k % 8 >= 4; }
// Position of code (n, k) inside its panel at 8 bits.
RRS_FORCE_INLINE constexpr std::int64_t w8_byte(int n, std::int64_t k) noexcept {
  return k / 4 * 64 + n * 4 + k % 4;
}

static_assert(panel_bytes(32, 4) == 256 && panel_bytes(32, 8) == 512, "64 bytes per 8 / 4 inputs");
static_assert(w4_byte(15, 7) == 63 && w8_byte(15, 3) == 63, "a block is 64 bytes");

RRS_FUNCTIONS_END

RRS_TYPES_BEGIN

// How the rows of a call are cut into tiles: `tiles` of them, the first `larger` one row taller.
struct RowTiles {
  std::int64_t rows = 0;
  std::int64_t tiles = 0;
  std::int64_t base = 0;    // rows of a smaller tile
  std::int64_t larger = 0;  // tiles with base + 1 rows

  // Rows [first_row(tile), first_row(tile) + rows_in(tile)) of the call.
  RRS_MEMBER std::int64_t first_row(std::int64_t tile) const noexcept {
    return tile * base + (tile < larger ? tile : larger);
  }
  // base, or base + 1 for the first `larger` tiles.
  RRS_MEMBER int rows_in(std::int64_t tile) const noexcept {
    return static_cast<int>(base + (tile < larger ? 1 : 0));
  }
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// Cuts `rows` into tiles: as few as max_rows >= 1 allows, as even as possible; no tile for rows <=
// 0.
inline RowTiles make_row_tiles(std::int64_t rows, int max_rows) noexcept {
  RowTiles t;
  t.rows = rows;
  if (rows <= 0) return t;
  t.tiles = rows / max_rows + (rows % max_rows != 0 ? 1 : 0);  // no sum that could wrap
  t.base = rows / t.tiles;
  t.larger = rows % t.tiles;
  return t;
}

RRS_FUNCTIONS_END
