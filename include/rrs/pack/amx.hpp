// AMX leaf that lays one activation tile out for tileloadd (gemm/amx.hpp).
//
//   byte (k/64 * rows * 64 + row * w + k%64)   w = 64, in a last chunk of fewer inputs: as many
// A chunk of 64 inputs x 16 rows is one tile register, its rows one cache line each and one after
// the other (rows K bytes apart would fall into the same cache set). Tiles of few rows (amx_takes)
// run on the VNNI kernels and keep the layout of pack/layout.hpp.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/pack/avx512.hpp"

#if RRS_HAS_AMX
#include <immintrin.h>

RRS_TYPES_BEGIN

// Fewest rows of a tile. Time over that of the VNNI leaves (Granite Rapids, N = K = 4096): groups
// of 64 and 128 of W4 at 5 rows 1.20, 6 1.24 and 1.09, 7 0.95 and 0.87, 8 0.94 and 0.82; W8 in
// groups of 128 0.95, 0.92, 0.92, 0.90 (the layout does not know the weight's bits: 7 rows for
// both). Groups of 32 have four times the group ends of 128, which AMX cannot hide: 12 rows 1.07,
// 16 1.0, 17 1.2, 24 1.0 to 1.1, 31 0.9, 33 1.1. Per-channel W8 at 5 to 8 rows 0.97 to 1.02.
inline constexpr int kAmxMinRows = 7;
inline constexpr int kAmxMinRowsFine = 24;  // groups of 16 and 32
inline constexpr int kAmxChunk = 64;        // inputs of one tile register row

RRS_TYPES_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace amx {

// True when the AMX leaf, and its layout, take a tile of so many rows.
RRS_FORCE_INLINE bool amx_takes(int rows, int inner_group) noexcept {
  const bool fine = inner_group != kRowGroup && inner_group <= 32;
  return rows >= (fine ? kAmxMinRowsFine : kAmxMinRows);
}

RRS_TARGET_AMX inline void pack_codes(const std::int8_t* codes, std::int64_t row_stride, int rows,
                                      int inner_group, std::int64_t k_padded,
                                      std::int8_t* out) noexcept {
  if (!amx_takes(rows, inner_group)) {
    return avx512::pack_codes(codes, row_stride, rows, inner_group, k_padded, out);
  }
  std::int64_t k = 0;
  for (; k + kAmxChunk <= k_padded; k += kAmxChunk) {
    for (int row = 0; row < rows; ++row) {
      _mm512_storeu_si512(out, _mm512_loadu_si512(codes + row * row_stride + k));
      out += kAmxChunk;
    }
  }
  const std::int64_t left = k_padded - k;
  if (left == 0) return;
  const auto mask = static_cast<__mmask64>((std::uint64_t{1} << left) - 1);
  for (int row = 0; row < rows; ++row) {
    _mm512_mask_storeu_epi8(out, mask, _mm512_maskz_loadu_epi8(mask, codes + row * row_stride + k));
    out += left;
  }
}

constexpr PackKernels pack_kernels(PackKernels lower) {
  lower.codes_a4 = &pack_codes;
  lower.codes_a8 = &pack_codes;
  return lower;
}

}  // namespace amx

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
