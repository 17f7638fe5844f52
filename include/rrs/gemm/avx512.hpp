// GEMM leaves of level avx512 (F, BW, DQ, VL; no VNNI): the table. Instructions and registers:
// avx512_int.hpp (integer tiles), avx512_a16.hpp (float tiles), avx512_store.hpp (epilogue).
//
// Tiles of up to 6 rows of W4 run on the AVX2 leaves, which unpack in registers and read a panel as
// one stream: one row avx2_stream.hpp, the others avx2_few_rows.hpp. Measured on Emerald Rapids,
// group 32, weights in DRAM, the latter against unpacking to L1 first: 1.7 times as fast at 1 row,
// 1.7 at 4, 1.3 at 6, equal at 8; group 128: 1.25, 1.6, 1.4, 0.9. W8, whose panels need no
// unpacking, does not: level avx2 takes 1.03 to 1.1, 1.1 to 1.2 and 1.2 to 1.3 times as long at 1,
// 2 and 3 rows (2048 x 2048 to 4096 x 4096, groups of 128 and row groups, g++ and clang++; Granite
// Rapids); its leaf in this level's tiles of two panels, whose codes it widens for each, 1.1 to 1.4
// times.
#pragma once

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_few_rows.hpp"
#include "rrs/gemm/avx2_integer.hpp"
#include "rrs/gemm/avx512_a16.hpp"
#include "rrs/gemm/avx512_block.hpp"
#include "rrs/gemm/avx512_int.hpp"
#include "rrs/gemm/avx512_low_rank.hpp"
#include "rrs/gemm/avx512_store.hpp"

#if RRS_X86_64

RRS_FUNCTIONS_BEGIN

namespace avx512 {

inline constexpr int kStreamRows = 6;

// kPartBlocks: of the AVX2 leaf, avx2_integer.hpp.
template <class Traits, int kPartBlocks>
RRS_TARGET_AVX512 inline void int_tile(const GemmTileArgs& a) noexcept {
  constexpr int kBits = Traits::kWeightBits;
  if (kBits == 4 && avx2::w4_stream_tile(a)) return;
  if (kBits == 4 && a.rows <= kStreamRows && avx2::few_rows_tile<4, kPartBlocks>(a)) return;
  block_tile<Traits>(a);
}

constexpr GemmKernels gemm_kernels(GemmKernels lower) {
  lower = store_kernels(lower);
  lower.w4a4 = {&int_tile<IntTraits<4, kA4Tiles>, avx2::kPartBlocksA4>, kBlockMaxRows, 2,
                "avx512 w4a4 6x32 of 56x32"};
  lower.w4a8 = {&int_tile<IntTraits<4, kA8Tiles>, avx2::kPartBlocksA8>, kBlockMaxRows, 2,
                "avx512 w4a8 6x32 of 56x32"};
  lower.w8a8 = {&int_tile<IntTraits<8, kW8Tiles>, avx2::kChunkBlocks>, kBlockMaxRows, 2,
                "avx512 w8a8 6x32 of 56x32"};
  lower.w4a16 = {&float_gemm_tile<4>, kFloatMaxRows, kFloatMaxPanels,
                 "avx512 w4a16 12x32 of 48x64"};
  lower.w8a16 = {&float_gemm_tile<8>, kFloatMaxRows, kFloatMaxPanels,
                 "avx512 w8a16 12x32 of 48x64"};
  lower.low_rank16 = &low_rank_panels<f16>;
  lower.low_rank8 = &low_rank_panels<std::int8_t>;
  return lower;
}

}  // namespace avx512

RRS_FUNCTIONS_END

#endif
