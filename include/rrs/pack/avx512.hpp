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
RRS_TARGET_AVX512 RRS_FORCE_INLINE void columns_of(__m512i a, __m512i b, __m512i c, __m512i d,
                                                   __m512i* column_i32x16) noexcept {
  const __m512i ab_even_i32x16 = _mm512_shuffle_i32x4(a, b, 0x88);
  const __m512i ab_odd_i32x16 = _mm512_shuffle_i32x4(a, b, 0xdd);
  const __m512i cd_even_i32x16 = _mm512_shuffle_i32x4(c, d, 0x88);
  const __m512i cd_odd_i32x16 = _mm512_shuffle_i32x4(c, d, 0xdd);
  column_i32x16[0] = _mm512_shuffle_i32x4(ab_even_i32x16, cd_even_i32x16, 0x88);
  column_i32x16[1] = _mm512_shuffle_i32x4(ab_odd_i32x16, cd_odd_i32x16, 0x88);
  column_i32x16[2] = _mm512_shuffle_i32x4(ab_even_i32x16, cd_even_i32x16, 0xdd);
  column_i32x16[3] = _mm512_shuffle_i32x4(ab_odd_i32x16, cd_odd_i32x16, 0xdd);
}

// Columns j, j + 4, j + 8, j + 12 to memory, as far as they exist.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_columns(const TransposeArgs& args, int j, __m512i a,
                                                      __m512i b, __m512i c, __m512i d) noexcept {
  __m512i column_i32x16[4];
  columns_of(a, b, c, d, column_i32x16);
  const __mmask16 mask = static_cast<__mmask16>((1u << args.rows) - 1u);
  for (int lane = 0; lane < 4; ++lane) {
    const int column = 4 * lane + j;
    if (column >= args.columns) return;
    _mm512_mask_storeu_epi32(args.out + std::int64_t{column} * args.out_stride, mask,
                             column_i32x16[lane]);
  }
}

RRS_TARGET_AVX512 inline void transpose_part(const TransposeArgs& args) noexcept {
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

// Four rows of 16 columns, transposed inside each lane.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void load_quad(const char* in, std::int64_t row_bytes,
                                                  __m512i* out) noexcept {
  transpose_lanes(_mm512_loadu_si512(in), _mm512_loadu_si512(in + row_bytes),
                  _mm512_loadu_si512(in + 2 * row_bytes), _mm512_loadu_si512(in + 3 * row_bytes),
                  out);
}

// 16 whole rows of 16 columns: no mask, no branch.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void transpose_16x16(const char* in, std::int64_t row_bytes,
                                                        std::int32_t* out,
                                                        std::int64_t out_stride) noexcept {
  __m512i a[4], b[4], c[4], d[4];
  load_quad(in, row_bytes, a);
  load_quad(in + 4 * row_bytes, row_bytes, b);
  load_quad(in + 8 * row_bytes, row_bytes, c);
  load_quad(in + 12 * row_bytes, row_bytes, d);
  for (int j = 0; j < 4; ++j) {
    __m512i column_i32x16[4];
    columns_of(a[j], b[j], c[j], d[j], column_i32x16);
    std::int32_t* at = out + j * out_stride;
    _mm512_storeu_si512(at, column_i32x16[0]);
    _mm512_storeu_si512(at + 4 * out_stride, column_i32x16[1]);
    _mm512_storeu_si512(at + 8 * out_stride, column_i32x16[2]);
    _mm512_storeu_si512(at + 12 * out_stride, column_i32x16[3]);
  }
}

// Four whole rows of 16 columns.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void transpose_4x16(const char* in, std::int64_t row_bytes,
                                                       std::int32_t* out,
                                                       std::int64_t out_stride) noexcept {
  __m512i quad_i32x16[4];
  load_quad(in, row_bytes, quad_i32x16);
  for (int j = 0; j < 4; ++j) {
    std::int32_t* at = out + j * out_stride;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_castsi512_si128(quad_i32x16[j]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 4 * out_stride),
                     _mm512_extracti32x4_epi32(quad_i32x16[j], 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 8 * out_stride),
                     _mm512_extracti32x4_epi32(quad_i32x16[j], 2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 12 * out_stride),
                     _mm512_extracti32x4_epi32(quad_i32x16[j], 3));
  }
}

// Columns between what is stored and what is prefetched: the tile of the last call has left L2, and
// unaligned stores that wait for their lines from L3 took a third of the whole preparation.
inline constexpr int kColumnsAhead = 32;

// 16 columns of `rows` units each are 64 * rows bytes. They may lie beyond the tile.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void prefetch_columns(const std::int32_t* out,
                                                         int rows) noexcept {
  const std::uintptr_t first =
      reinterpret_cast<std::uintptr_t>(out) + static_cast<std::uintptr_t>(kColumnsAhead * 4 * rows);
  for (int line = 0; line < rows; ++line) {
    _mm_prefetch(reinterpret_cast<const char*>(first + static_cast<std::uintptr_t>(64 * line)),
                 _MM_HINT_T0);
  }
}

// Any number of rows; `units` columns of 32 bits. A few rows are faster in 256-bit registers.
// Columns outside, rows inside: each line of the tile is filled while it is in L1 (the other order
// walks over the whole tile once per 16 rows).
RRS_TARGET_AVX512 inline void transpose_tile(const char* in, std::int64_t row_bytes, int rows,
                                             std::int64_t units, std::int32_t* out) noexcept {
  if (rows <= 8) {
    avx2::transpose_tile(in, row_bytes, rows, units, out);
    return;
  }
  for (std::int64_t unit = 0; unit < units; unit += 16, in += 64, out += 16 * rows) {
    const int wide = units - unit < 16 ? static_cast<int>(units - unit) : 16;
    int row = 0;
    prefetch_columns(out, rows);
    if (wide == 16) {
      for (; row + 16 <= rows; row += 16) {
        transpose_16x16(in + row * row_bytes, row_bytes, out + row, rows);
      }
      for (; row + 4 <= rows; row += 4) {
        transpose_4x16(in + row * row_bytes, row_bytes, out + row, rows);
      }
    }
    for (; row < rows; row += 16) {
      const int tall = rows - row < 16 ? rows - row : 16;
      transpose_part(TransposeArgs{in + row * row_bytes, row_bytes, tall, wide, out + row, rows});
    }
  }
}

RRS_TARGET_AVX512 inline void pack_codes(const std::int8_t* codes, std::int64_t row_stride,
                                         int rows, int /*inner_group*/, std::int64_t k_padded,
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
