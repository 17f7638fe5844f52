// GEMM leaves of level avx512 (F, BW, DQ, VL; no VNNI): the table. Instructions, registers and what
// was tried: avx512_int.hpp (integer tiles), avx512_a16.hpp (float tiles), avx512_store.hpp
// (epilogue).
#pragma once

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx512_a16.hpp"
#include "rrs/gemm/avx512_block.hpp"
#include "rrs/gemm/avx512_int.hpp"
#include "rrs/gemm/avx512_low_rank.hpp"
#include "rrs/gemm/avx512_store.hpp"

#if RRS_X86_64

RRS_FUNCTIONS_BEGIN

namespace avx512 {

constexpr GemmKernels gemm_kernels(GemmKernels lower) {
  lower = store_kernels(lower);
  lower.w4a4 = {&block_tile<IntTraits<4, kA4Tiles>>, kBlockMaxRows, 2, "avx512 w4a4 6x32 of 56x32"};
  lower.w4a8 = {&block_tile<IntTraits<4, kA8Tiles>>, kBlockMaxRows, 2, "avx512 w4a8 6x32 of 56x32"};
  lower.w8a8 = {&block_tile<IntTraits<8, kW8Tiles>>, kBlockMaxRows, 2, "avx512 w8a8 6x32 of 56x32"};
  lower.w4a16 = {&float_gemm_tile<4>, kFloatMaxRows, kFloatMaxPanels,
                 "avx512 w4a16 12x32 of 48x64"};
  lower.w8a16 = {&float_gemm_tile<8>, kFloatMaxRows, kFloatMaxPanels,
                 "avx512 w8a16 12x32 of 48x64"};
  lower.low_rank = &low_rank_panels;
  return lower;
}

}  // namespace avx512

RRS_FUNCTIONS_END

#endif
