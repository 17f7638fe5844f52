// GEMM kernels of the avx2 level: which tile serves which precision.
//
// Tiles are as high as L1 allows (60 rows x 256 inputs of codes: 15 KB, 48 rows x 128 floats: 24
// KB), because weights are unpacked once per tile; four panels share that chunk. 48 rows and 2
// panels lost 2 to 3 % (W4A4). The registers hold sub-tiles of 6 rows x 16 outputs. Instruction
// tables, register budgets and what was tried: avx2_dot.hpp, avx2_integer.hpp, avx2_a16.hpp.
#pragma once

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"

#if RRS_X86_64
#include "rrs/gemm/avx2_a16.hpp"
#include "rrs/gemm/avx2_integer.hpp"
#include "rrs/gemm/avx2_low_rank.hpp"
#include "rrs/gemm/avx2_store.hpp"

RRS_FUNCTIONS_BEGIN

namespace avx2 {

constexpr GemmKernels gemm_kernels(GemmKernels lower) {
  lower.w4a4 = {&integer_tile<4, kPartBlocksA4>, kTileRows, kTilePanels, "avx2 w4a4 60x64"};
  lower.w4a8 = {&integer_tile<4, kPartBlocksA8>, kTileRows, kTilePanels, "avx2 w4a8 60x64"};
  lower.w8a8 = {&integer_tile<8, kChunkBlocks>, kTileRows, kTilePanels, "avx2 w8a8 60x64"};
  lower.w4a16 = {&float_tile<4>, kFloatTileRows, kFloatPanels, "avx2 w4a16 48x64"};
  lower.w8a16 = {&float_tile<8>, kFloatTileRows, kFloatPanels, "avx2 w8a16 48x64"};
  lower.store_f32 = &store_f32;
  lower.store_f16 = &store_f16;
  lower.store_bf16 = &store_bf16;
  lower.low_rank16 = &low_rank_panels<f16>;
  lower.low_rank8 = &low_rank_panels<std::int8_t>;
  return lower;
}

}  // namespace avx2

RRS_FUNCTIONS_END
#endif
