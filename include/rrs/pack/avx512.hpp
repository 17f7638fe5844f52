// AVX-512 leaves that interleave one activation tile (layout: pack/layout.hpp).
//
//   vpunpck*, vshufi32x4   1 / 3 cycles, port 5   64 per 16 x 16 transpose of 32-bit units
// A tile of codes is the transpose of 32-bit units of four codes, a tile of floats that of floats.
// Registers: 16 rows, 16 in flight.
// Rows beyond the tile are read as zero and not stored (masks), so nothing outside is touched.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/pack/avx2.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512 {

// Four rows: 4 x 4 transposes inside each 128-bit lane; out[j] lane l = column 4 l + j of the rows.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void transpose_lanes(__m512i a, __m512i b, __m512i c, __m512i d,
                                                        __m512i* out) noexcept {
  const __m512i ab_low_i32x16 = _mm512_unpacklo_epi32(a, b);
  const __m512i ab_high_i32x16 = _mm512_unpackhi_epi32(a, b);
  const __m512i cd_low_i32x16 = _mm512_unpacklo_epi32(c, d);
  const __m512i cd_high_i32x16 = _mm512_unpackhi_epi32(c, d);
  out[0] = _mm512_unpacklo_epi64(ab_low_i32x16, cd_low_i32x16);
  out[1] = _mm512_unpackhi_epi64(ab_low_i32x16, cd_low_i32x16);
  out[2] = _mm512_unpacklo_epi64(ab_high_i32x16, cd_high_i32x16);
  out[3] = _mm512_unpackhi_epi64(ab_high_i32x16, cd_high_i32x16);
}

// Up to 16 rows of up to 16 columns of 32-bit units. `stride` and `out_stride` in units of 4 bytes
// would misdescribe unaligned rows of codes: the row stride is in bytes.
struct TransposeArgs {
  const char* in;
  std::int64_t row_bytes;
  int rows;
  int columns;
  std::int32_t* out;
  int out_stride;  // units between the starts of two columns
};

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i tile_row(const TransposeArgs& args, int row,
                                                    __mmask16 columns) noexcept {
  if (row >= args.rows) return _mm512_setzero_si512();
  return _mm512_maskz_loadu_epi32(columns, args.in + row * args.row_bytes);
}

// out[4 l + j] = [a_j lane l, b_j lane l, c_j lane l, d_j lane l], for one j.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_columns(const TransposeArgs& args, int j, __m512i a,
                                                      __m512i b, __m512i c, __m512i d) noexcept {
  const __m512i ab_even_i32x16 = _mm512_shuffle_i32x4(a, b, 0x88);
  const __m512i ab_odd_i32x16 = _mm512_shuffle_i32x4(a, b, 0xdd);
  const __m512i cd_even_i32x16 = _mm512_shuffle_i32x4(c, d, 0x88);
  const __m512i cd_odd_i32x16 = _mm512_shuffle_i32x4(c, d, 0xdd);
  const __m512i column_i32x16[4] = {_mm512_shuffle_i32x4(ab_even_i32x16, cd_even_i32x16, 0x88),
                                    _mm512_shuffle_i32x4(ab_odd_i32x16, cd_odd_i32x16, 0x88),
                                    _mm512_shuffle_i32x4(ab_even_i32x16, cd_even_i32x16, 0xdd),
                                    _mm512_shuffle_i32x4(ab_odd_i32x16, cd_odd_i32x16, 0xdd)};
  const __mmask16 mask = static_cast<__mmask16>((1u << args.rows) - 1u);
  for (int lane = 0; lane < 4; ++lane) {
    const int column = 4 * lane + j;
    if (column >= args.columns) return;
    _mm512_mask_storeu_epi32(args.out + std::int64_t{column} * args.out_stride, mask,
                             column_i32x16[lane]);
  }
}

RRS_TARGET_AVX512 inline void transpose_16x16(const TransposeArgs& args) noexcept {
  const __mmask16 columns = static_cast<__mmask16>((1u << args.columns) - 1u);
  __m512i a[4], b[4], c[4], d[4];
  transpose_lanes(tile_row(args, 0, columns), tile_row(args, 1, columns),
                  tile_row(args, 2, columns), tile_row(args, 3, columns), a);
  transpose_lanes(tile_row(args, 4, columns), tile_row(args, 5, columns),
                  tile_row(args, 6, columns), tile_row(args, 7, columns), b);
  transpose_lanes(tile_row(args, 8, columns), tile_row(args, 9, columns),
                  tile_row(args, 10, columns), tile_row(args, 11, columns), c);
  transpose_lanes(tile_row(args, 12, columns), tile_row(args, 13, columns),
                  tile_row(args, 14, columns), tile_row(args, 15, columns), d);
  for (int j = 0; j < 4; ++j) store_columns(args, j, a[j], b[j], c[j], d[j]);
}

// Any number of rows; `units` columns of 32 bits. A few rows are faster in 256-bit registers.
RRS_TARGET_AVX512 inline void transpose_tile(const char* in, std::int64_t row_bytes, int rows,
                                             std::int64_t units, std::int32_t* out) noexcept {
  if (rows <= 8) {
    avx2::transpose_tile(in, row_bytes, rows, units, out);
    return;
  }
  for (int row = 0; row < rows; row += 16) {
    const int tall = rows - row < 16 ? rows - row : 16;
    for (std::int64_t unit = 0; unit < units; unit += 16) {
      const int wide = units - unit < 16 ? static_cast<int>(units - unit) : 16;
      transpose_16x16(TransposeArgs{in + row * row_bytes + unit * 4, row_bytes, tall, wide,
                                    out + unit * rows + row, rows});
    }
  }
}

RRS_TARGET_AVX512 inline void pack_codes(const std::int8_t* codes, std::int64_t row_stride,
                                         int rows, std::int64_t k_padded,
                                         std::int8_t* out) noexcept {
  transpose_tile(reinterpret_cast<const char*>(codes), row_stride, rows, k_padded / 4,
                 reinterpret_cast<std::int32_t*>(out));
}

RRS_TARGET_AVX512 inline void pack_floats(const float* x, std::int64_t row_stride, int rows,
                                          std::int64_t k_padded, float* out) noexcept {
  transpose_tile(reinterpret_cast<const char*>(x), row_stride * 4, rows, k_padded,
                 reinterpret_cast<std::int32_t*>(out));
}

constexpr PackKernels pack_kernels(PackKernels lower) {
  lower.codes_a4 = &pack_codes;
  lower.codes_a8 = &pack_codes;
  lower.floats = &pack_floats;
  return lower;
}

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
