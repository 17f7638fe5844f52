// AVX2 leaves that interleave one activation tile (layout: pack/layout.hpp).
//
//   vpunpck*, vperm2i128   1 / 3 cycles, port 5   24 per 8 x 8 transpose of 32-bit units
// A tile of codes is the transpose of 32-bit units of four codes, a tile of floats that of floats.
// k_padded is a multiple of 8, so floats always come in whole 8 x 8 blocks, codes in pairs of
// units. Registers: 8 rows, 8 in flight.
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// Four rows: 4 x 4 transposes inside each 128-bit lane; out[j] lane l = column 4 l + j of the rows.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void transpose_lanes(__m256i a, __m256i b, __m256i c, __m256i d,
                                                      __m256i* out) noexcept {
  const __m256i ab_low_i32x8 = _mm256_unpacklo_epi32(a, b);
  const __m256i ab_high_i32x8 = _mm256_unpackhi_epi32(a, b);
  const __m256i cd_low_i32x8 = _mm256_unpacklo_epi32(c, d);
  const __m256i cd_high_i32x8 = _mm256_unpackhi_epi32(c, d);
  out[0] = _mm256_unpacklo_epi64(ab_low_i32x8, cd_low_i32x8);
  out[1] = _mm256_unpackhi_epi64(ab_low_i32x8, cd_low_i32x8);
  out[2] = _mm256_unpacklo_epi64(ab_high_i32x8, cd_high_i32x8);
  out[3] = _mm256_unpackhi_epi64(ab_high_i32x8, cd_high_i32x8);
}

// Row `row` of an 8-column block, zero beyond the tile.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i tile_row(const char* in, std::int64_t row_bytes, int row,
                                                  int rows) noexcept {
  if (row >= rows) return _mm256_setzero_si256();
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + row * row_bytes));
}

// 1 to 3 rows of 8 units; columns go out_stride units apart.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void transpose_few_rows(const char* in, std::int64_t row_bytes,
                                                         int rows, std::int32_t* out,
                                                         std::int64_t out_stride) noexcept {
  __m256i quad[4];
  transpose_lanes(tile_row(in, row_bytes, 0, rows), tile_row(in, row_bytes, 1, rows),
                  tile_row(in, row_bytes, 2, rows), tile_row(in, row_bytes, 3, rows), quad);
  const __m128i lane_i32x4 = _mm_setr_epi32(0, 1, 2, 3);
  const __m128i mask_i32x4 = _mm_cmpgt_epi32(_mm_set1_epi32(rows), lane_i32x4);
  for (int j = 0; j < 4; ++j) {
    std::int32_t* at = out + j * out_stride;
    _mm_maskstore_epi32(at, mask_i32x4, _mm256_castsi256_si128(quad[j]));
    _mm_maskstore_epi32(at + 4 * out_stride, mask_i32x4, _mm256_extracti128_si256(quad[j], 1));
  }
}

// Eight whole rows of 8 units: no mask (vpmaskmovd to memory is microcode on AMD).
RRS_TARGET_AVX2 RRS_FORCE_INLINE void transpose_8_rows(const char* in, std::int64_t row_bytes,
                                                       std::int32_t* out,
                                                       std::int64_t out_stride) noexcept {
  __m256i low[4], high[4];
  transpose_lanes(tile_row(in, row_bytes, 0, 8), tile_row(in, row_bytes, 1, 8),
                  tile_row(in, row_bytes, 2, 8), tile_row(in, row_bytes, 3, 8), low);
  transpose_lanes(tile_row(in, row_bytes, 4, 8), tile_row(in, row_bytes, 5, 8),
                  tile_row(in, row_bytes, 6, 8), tile_row(in, row_bytes, 7, 8), high);
  for (int j = 0; j < 4; ++j) {
    std::int32_t* at = out + j * out_stride;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                        _mm256_permute2x128_si256(low[j], high[j], 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + 4 * out_stride),
                        _mm256_permute2x128_si256(low[j], high[j], 0x31));
  }
}

// Four whole rows of 8 units.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void transpose_4_rows(const char* in, std::int64_t row_bytes,
                                                       std::int32_t* out,
                                                       std::int64_t out_stride) noexcept {
  __m256i quad[4];
  transpose_lanes(tile_row(in, row_bytes, 0, 4), tile_row(in, row_bytes, 1, 4),
                  tile_row(in, row_bytes, 2, 4), tile_row(in, row_bytes, 3, 4), quad);
  for (int j = 0; j < 4; ++j) {
    std::int32_t* at = out + j * out_stride;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm256_castsi256_si128(quad[j]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 4 * out_stride),
                     _mm256_extracti128_si256(quad[j], 1));
  }
}

// Columns between what is stored and what is prefetched: the tile of the last call has left L2.
inline constexpr int kColumnsAhead = 32;

// 8 columns of `rows` units each are 32 * rows bytes. They may lie beyond the tile.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void prefetch_columns(const std::int32_t* out, int rows) noexcept {
  const std::uintptr_t first =
      reinterpret_cast<std::uintptr_t>(out) + static_cast<std::uintptr_t>(kColumnsAhead * 4 * rows);
  for (int byte = 0; byte < 32 * rows; byte += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(first + static_cast<std::uintptr_t>(byte)),
                 _MM_HINT_T0);
  }
}

// Any number of rows; `units` columns of 32 bits.
RRS_TARGET_AVX2 inline void transpose_tile(const char* in, std::int64_t row_bytes, int rows,
                                           std::int64_t units, std::int32_t* out) noexcept {
  std::int64_t unit = 0;
  if (rows == 1) {
    std::memcpy(out, in, static_cast<std::size_t>(units) * 4);
    return;
  }
  for (; unit + 8 <= units; unit += 8, in += 32, out += 8 * rows) {
    int row = 0;
    prefetch_columns(out, rows);
    for (; row + 8 <= rows; row += 8) {
      transpose_8_rows(in + row * row_bytes, row_bytes, out + row, rows);
    }
    for (; row + 4 <= rows; row += 4) {
      transpose_4_rows(in + row * row_bytes, row_bytes, out + row, rows);
    }
    if (row < rows)
      transpose_few_rows(in + row * row_bytes, row_bytes, rows - row, out + row, rows);
  }
  for (; unit < units; ++unit, in += 4, out += rows) {
    for (int row = 0; row < rows; ++row) std::memcpy(out + row, in + row * row_bytes, 4);
  }
}

RRS_TARGET_AVX2 inline void pack_codes(const std::int8_t* codes, std::int64_t row_stride, int rows,
                                       int /*inner_group*/, std::int64_t k_padded,
                                       std::int8_t* out) noexcept {
  transpose_tile(reinterpret_cast<const char*>(codes), row_stride, rows, k_padded / 4,
                 reinterpret_cast<std::int32_t*>(out));
}

RRS_TARGET_AVX2 inline void pack_floats(const float* x, std::int64_t row_stride, int rows,
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

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
