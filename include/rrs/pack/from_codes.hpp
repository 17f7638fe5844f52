// Other people's codes as panels, without requantizing: blocks of Q4_0 and Q4_1, zero points.
//
//   Q4_0: 18 bytes, 32 inputs: f16 d, then 16 bytes; w = d (u - 8)
//   Q4_1: 20 bytes, 32 inputs: f16 d, f16 m, then 16 bytes; w = d u + m
//     low nibbles of the 16 bytes are inputs 0..15, high nibbles inputs 16..31
//   zero point z: w = v (u - z) = v u + offset, offset = -v z; exact in f32 for integer z <= 255
//     (11 + 8 bits), rounded once otherwise
//
// from: pipeline/weight_from_codes.hpp (checked arguments).  to: panels, scales, offsets of a
// weight. Numeric contract: every code and every bit of every scale is kept. Blocks need no
// alignment. Cost: about 1 ns per weight, offline.
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"
#include "rrs/pack/pack.hpp"

RRS_TYPES_BEGIN

inline constexpr int kQ4Group = 32;
inline constexpr int kQ4_0Bytes = 18;
inline constexpr int kQ4_1Bytes = 20;

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

RRS_FORCE_INLINE f16 read_f16(const std::uint8_t* bytes) noexcept {
  f16 h;
  std::memcpy(&h, bytes, sizeof h);
  return h;
}

// The 32 unsigned codes of a block's 16 bytes.
RRS_FORCE_INLINE void read_q4_codes(const std::uint8_t* bytes, std::uint8_t* codes) noexcept {
  for (int i = 0; i < 16; ++i) {
    codes[i] = bytes[i] & 15u;
    codes[i + 16] = static_cast<std::uint8_t>(bytes[i] >> 4);
  }
}

RRS_FORCE_INLINE float zero_point_offset(f16 scale, float zero_point) noexcept {
  return -(to_f32(scale) * zero_point);
}

// Where one weight's sections are written.
struct WeightSections {
  std::uint8_t* panels;
  std::int64_t panel_bytes;
  f16* scales;     // zeroed by the caller
  float* offsets;  // zeroed by the caller, or null
  std::int64_t groups;
};

// `rows` rows of Q4 blocks, output `first` onwards (a multiple of 16), into their panel. The group
// of 32 inputs is whole panel blocks, so that each block is packed on its own. Returns false when a
// scale or minimum is not finite, with its row in *bad_row.
inline bool pack_q4_panel(const std::uint8_t* rows_begin, std::int64_t row_bytes, bool with_minimum,
                          std::int64_t first, int rows, const WeightSections& out,
                          std::int64_t* bad_row) noexcept {
  const int block_bytes = with_minimum ? kQ4_1Bytes : kQ4_0Bytes;
  std::uint8_t* panel = out.panels + first / kPanelOutputs * out.panel_bytes;
  std::uint8_t codes[kPanelOutputs * kQ4Group];
  for (std::int64_t g = 0; g < out.groups; ++g) {
    for (int n = 0; n < rows; ++n) {
      const std::uint8_t* block = rows_begin + n * row_bytes + g * block_bytes;
      const std::int64_t at = group_value_index(first + n, g, out.groups);
      out.scales[at] = read_f16(block);
      bool finite = (out.scales[at].bits & 0x7c00u) != 0x7c00u;
      if (with_minimum) {
        const f16 minimum = read_f16(block + 2);
        finite = finite && (minimum.bits & 0x7c00u) != 0x7c00u;
        out.offsets[at] = to_f32(minimum);
      }
      if (!finite) {
        *bad_row = first + n;
        return false;
      }
      read_q4_codes(block + (with_minimum ? 4 : 2), codes + n * kQ4Group);
    }
    pack_panel(codes, kQ4Group, rows, kQ4Group, 4, panel + g * panel_bytes(kQ4Group, 4));
  }
  return true;
}

}  // namespace detail

RRS_FUNCTIONS_END
