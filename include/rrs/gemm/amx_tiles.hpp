// Tile registers as the AMX leaves use them: the configuration, and one-instruction wrappers.
//
//   tdpbsud   16 cycles for 16 rows (8 for 8), whatever K <= 64 is; latency 52; C += A * B
//   tileloadd 8 cycles, 64 bytes per row; tilestored 16 cycles; tilezero is free
//   ldtilecfg + tilerelease about 120 ns: once per tile leaf
// Registers: tmm0-3 sums of 16 rows x 16 outputs, tmm4 activations (rows x inputs, signed), tmm6
// and tmm7 weights of two panels (inputs/4 x 16 outputs x 4 inputs, unsigned: the layout of an
// unpacked panel).
// Assembly, not intrinsics: GCC 12's _tile_loadconfig and _tile_loadd do not tell the compiler that
// they read memory, so that it may drop or move the stores before them.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"

#if RRS_HAS_AMX

RRS_TYPES_BEGIN

// The operand of ldtilecfg.
struct AmxConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(AmxConfig) == 64, "read by the CPU");

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace amx {

// Sums rows x 16, activations rows x inputs, weights inputs x 16; rows <= 16, inputs <= 64.
inline AmxConfig tile_config(int rows, int inputs) noexcept {
  AmxConfig config;
  for (int i = 0; i < 8; ++i) {
    const bool activations = i == 4 || i == 5, weights = i >= 6;
    config.row_bytes[i] = static_cast<std::uint16_t>(activations ? inputs : 64);
    config.rows[i] = static_cast<std::uint8_t>(weights ? inputs / 4 : rows);
  }
  return config;
}

RRS_FORCE_INLINE void load_config(const AmxConfig& config) noexcept {
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

RRS_FORCE_INLINE void release() noexcept { __asm__ volatile("tilerelease" ::); }

template <int kTile>
RRS_FORCE_INLINE void zero_tile() noexcept {
  __asm__ volatile("tilezero {%%}tmm%c0" : : "i"(kTile));
}

// Rows of 64 bytes apart.
template <int kTile>
RRS_FORCE_INLINE void load_tile(const void* from) noexcept {
  __asm__ volatile("{tileloadd (%1,%2,1), %%tmm%c0|tileloadd tmm%c0, [%1+%2*1]}"
                   :
                   : "i"(kTile), "r"(from), "r"(std::int64_t{64})
                   : "memory");
}

template <int kTile>
RRS_FORCE_INLINE void store_tile(void* to) noexcept {
  __asm__ volatile("{tilestored %%tmm%c0, (%1,%2,1)|tilestored [%1+%2*1], tmm%c0}"
                   :
                   : "i"(kTile), "r"(to), "r"(std::int64_t{64})
                   : "memory");
}

// sums += activations (s8) * weights (u8), exact in int32.
template <int kSums, int kActivations, int kWeights>
RRS_FORCE_INLINE void dot_tile() noexcept {
  __asm__ volatile("{tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbsud tmm%c0, tmm%c1, tmm%c2}"
                   :
                   : "i"(kSums), "i"(kActivations), "i"(kWeights));
}

}  // namespace amx

RRS_FUNCTIONS_END

#endif
