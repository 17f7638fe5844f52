// AMX leaf that lays one activation tile out for tileloadd (gemm/amx.hpp).
//
//   byte (k/64 * rows * 64 + row * w + k%64)   w = 64, in a last chunk of fewer inputs: as many
// A chunk of 64 inputs x 16 rows is one tile register, its rows one cache line each and one after
// the other (rows K bytes apart would fall into the same cache set). Tiles of fewer rows than
// kAmxMinRows run on the VNNI kernels and keep the layout of pack/layout.hpp.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/pack/avx512.hpp"

#if RRS_HAS_AMX
#include <immintrin.h>

RRS_TYPES_BEGIN

// A tile instruction takes 8 cycles for 8 rows, but finishing a step of fewer than 16 rows goes the
// masked way. At 8 to 15 rows the VNNI leaves take 0.64 of the time at groups of 32, 0.88 to 1.05
// at 128; packing does not know the group.
inline constexpr int kAmxMinRows = 16;
inline constexpr int kAmxChunk = 64;  // inputs of one tile register row

RRS_TYPES_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace amx {

RRS_TARGET_AMX inline void pack_codes(const std::int8_t* codes, std::int64_t row_stride, int rows,
                                      std::int64_t k_padded, std::int8_t* out) noexcept {
  if (rows < kAmxMinRows) return avx512::pack_codes(codes, row_stride, rows, k_padded, out);
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
