// Integer GEMM leaves for AVX-512BW without VNNI.
//
// Instructions (Sapphire Rapids): vpmaddubsw, vpmaddwd, vpadd* zmm p0/p5; vpbroadcastd zmm, m32
// load port only. W4: vpmaddubsw + vpaddw = 2 instructions per 64 products, half the rate of VNNI
// at best. W8: both sides widened to 16 bits (vpmaddubsw saturates at 8 x 8 bits), vpmaddwd +
// vpaddd per 32 products. Bounds. W4A4: at most 2*15*8 = 240 per int16 lane and step, 64 steps (256
// inputs) reach 15,360.
//   W4A8: 2*15*128 = 3,840, so 8 steps (30,720) and then vpmaddwd by ones into int32.
//   W8: 2*255*128 per vpmaddwd, int32 throughout; |sum| < 2^31 by max_inputs (scheme.hpp).
// Registers, 6 rows x 2 panels: A4 12 int16 + 12 float accumulators, 2 weights, broadcast, product,
// ones = 29. A8: 12 int16 + 12 int32, floats in L1 (one load and one store per group). A group end
// by kMagic has no branch per output: with one, W4 took 1.20, 1.13 and 1.06 times as long at groups
// of 32, 64 and 128, and the avx2 tile was as fast at 32 (Granite Rapids).
#pragma once

#include "rrs/gemm/avx512_block.hpp"

#if RRS_X86_64

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512 {

inline constexpr int kIntRows = 6;

// 4 activation codes of one row, in all lanes.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i broadcast4(const void* codes) noexcept {
  std::int32_t x;
  std::memcpy(&x, codes, sizeof x);
  return _mm512_set1_epi32(x);
}

// acc (int16) += products. As assembly: GCC 12 keeps a sum and its successor in two registers, and
// then spills int32 or float sums and copies all twelve at each step.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i add_products(__m512i acc_i16x32, __m512i w_u8x64,
                                                        __m512i a_i8x64) noexcept {
  __m512i product_i16x32;
  __asm__(
      "vpmaddubsw %[a], %[w], %[product]\n"
      "vpaddw %[product], %[acc], %[acc]"
      : [acc] "+v"(acc_i16x32), [product] "=&v"(product_i16x32)
      : [w] "v"(w_u8x64), [a] "v"(a_i8x64));
  return acc_i16x32;
}

// acc (int16) += products of one step; the first step of a run assigns.
template <unsigned R, unsigned P, bool kFirst>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void step16(__m512i (&acc)[R][P],
                                               const std::uint8_t* const (&w)[P], std::int64_t at,
                                               const std::int8_t* a) noexcept {
  __m512i w_u8x64[P];
  RRS_UNROLL_FULL
  for (unsigned p = 0; p < P; ++p) w_u8x64[p] = _mm512_loadu_si512(w[p] + at);
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    const __m512i a_i8x64 = broadcast4(a + r * 4);
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      if (kFirst) {
        acc[r][p] = _mm512_maddubs_epi16(w_u8x64[p], a_i8x64);
      } else {
        acc[r][p] = add_products(acc[r][p], w_u8x64[p], a_i8x64);
      }
    }
  }
}

// int16 sums over `inputs` inputs from `at` on: at least 8, as W4 is packed. A loop that may do
// nothing costs GCC 12 copies of all sums.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void run16(__m512i (&acc)[R][P],
                                              const std::uint8_t* const (&w)[P], int at, int inputs,
                                              const std::int8_t* a, std::int64_t step) noexcept {
  step16<R, P, true>(acc, w, at * 16, a);
  int k = 4;
  do {
    a += step;
    step16<R, P, false>(acc, w, (at + k) * 16, a);
    k += 4;
  } while (k < inputs);
}

// Starts of the int32 sums of a sub-tile: the zero point's share, or what the last block left
// (kResumes: if it can have left any; without the question starts need no registers of their own).
template <unsigned R, unsigned P, bool kResumes = true>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void start_group(const GemmBlock& b, int g, int first_row,
                                                    const float* out,
                                                    __m512i (&isum)[R][P]) noexcept {
  const std::int32_t* starts = b.starts + g * b.rows + first_row;
  if (kResumes && b.resume) {
    RRS_UNROLL_FULL
    for (unsigned i = 0; i < R * P; ++i) {
      isum[i / P][i % P] = _mm512_loadu_si512(out + i / P * b.out_stride + i % P * 16);
    }
    return;
  }
  RRS_UNROLL_FULL
  for (unsigned i = 0; i < R * P; ++i) isum[i / P][i % P] = _mm512_set1_epi32(starts[i / P]);
}

// kMagic: a group's isum to floats in `out`. Row by row, and each row's address from the one
// before: GCC 12 else computes all addresses first and spills them to vector registers, 30 moves on
// the ports of the products (groups of 32: W4A8 1.04 to 1.08, W8A8 1.03 times as long).
template <unsigned R, unsigned P>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void finish_magic_in(const float* v, const float* c,
                                                        const float* s, const __m512i (&isum)[R][P],
                                                        std::int64_t stride, float* out) noexcept {
  __m512 v_f32x16[P], c_f32x16[P];
  RRS_UNROLL_FULL
  for (unsigned p = 0; p < P; ++p) {
    v_f32x16[p] = _mm512_load_ps(v + p * 16);
    c_f32x16[p] = _mm512_load_ps(c + p * 16);
  }
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    const __m512 s_f32x16 = _mm512_set1_ps(s[r]);
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      const __m512 tmp_f32x16 =
          _mm512_fmadd_ps(_mm512_castsi512_ps(isum[r][p]), v_f32x16[p], c_f32x16[p]);
      const __m512 old_f32x16 = _mm512_loadu_ps(out + p * 16);
      _mm512_storeu_ps(out + p * 16, _mm512_fmadd_ps(tmp_f32x16, s_f32x16, old_f32x16));
    }
    out += stride;
    __asm__("" : "+r"(out));
  }
}

// int32 sums of a group to `out`: carried as they are, or finished (floats live in `out`).
template <unsigned R, unsigned P>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void leave_group(const GemmBlock& b, int g, int first_row,
                                                    const __m512i (&isum)[R][P],
                                                    float* out) noexcept {
  const float* s = b.scales[g] + first_row;
  if (b.finish == GemmFinish::kMagic) {
    return finish_magic_in(b.v[g][0], b.c[g][0], s, isum, b.out_stride, out);
  }
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      float* o = out + r * b.out_stride + p * 16;
      if (b.finish == GemmFinish::kCarry) {
        _mm512_storeu_si512(o, isum[r][p]);
      } else {
        const __m512 old_f32x16 = b.row_group ? _mm512_setzero_ps() : _mm512_loadu_ps(o);
        const __m512 v_f32x16 = _mm512_load_ps(b.v[g][p]);
        const __m512 tmp_f32x16 = _mm512_mul_ps(_mm512_cvtepi32_ps(isum[r][p]), v_f32x16);
        _mm512_storeu_ps(o, _mm512_fmadd_ps(tmp_f32x16, _mm512_set1_ps(s[r]), old_f32x16));
      }
    }
  }
}

// 4-bit activations: one int16 run per group. kMagic: floats live in registers over the block; else
// int32 or floats in `out`, as it was left.
template <unsigned R, unsigned P, bool kMagic>
RRS_TARGET_AVX512 __attribute__((noinline)) inline void block_a4(const GemmBlock& b,
                                                                 int first_row) noexcept {
  const __m512i ones_i16x32 = _mm512_set1_epi16(1);
  const std::int64_t step = std::int64_t{b.rows} * 4;
  const std::int8_t* a = b.activations + first_row * 4;
  const std::uint8_t* w[P];
  RRS_UNROLL_FULL
  for (unsigned p = 0; p < P; ++p) w[p] = b.weights[p];
  float* out = b.out + first_row * b.out_stride;
  __m512 sum_f32x16[R][P];
  if (kMagic) load_sums(out, b.out_stride, sum_f32x16);
  int at = 0;
  for (int g = 0; g < b.groups; ++g) {
    const int inputs = g + 1 == b.groups ? b.last_inputs : b.group_inputs;
    __m512i acc_i16x32[R][P], isum_i32x16[R][P];
    run16<R, P>(acc_i16x32, w, at, inputs, a + at / 4 * step, step);
    at += inputs;
    start_group<R, P, !kMagic>(b, g, first_row, out, isum_i32x16);
    RRS_UNROLL_FULL
    for (unsigned i = 0; i < R * P; ++i) {
      isum_i32x16[i / P][i % P] = _mm512_add_epi32(
          isum_i32x16[i / P][i % P], _mm512_madd_epi16(acc_i16x32[i / P][i % P], ones_i16x32));
    }
    if (kMagic) {
      finish_magic(b.v[g][0], b.c[g][0], b.scales[g] + first_row, isum_i32x16, sum_f32x16);
    } else {
      leave_group(b, g, first_row, isum_i32x16, out);
    }
  }
  if (kMagic) store_sums(sum_f32x16, b.out_stride, out);
}

template <unsigned R, unsigned P>
RRS_TARGET_AVX512 inline void sub_tile_a4(const GemmBlock& b, int first_row) noexcept {
  b.finish == GemmFinish::kMagic ? block_a4<R, P, true>(b, first_row)
                                 : block_a4<R, P, false>(b, first_row);
}

// 8-bit activations, W4: int16 runs of 32 inputs, widened into int32.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512 inline void sub_tile_a8(const GemmBlock& b, int first_row) noexcept {
  const __m512i ones_i16x32 = _mm512_set1_epi16(1);
  const std::int64_t step = std::int64_t{b.rows} * 4;
  const std::int8_t* a = b.activations + first_row * 4;
  const std::uint8_t* w[P];
  RRS_UNROLL_FULL
  for (unsigned p = 0; p < P; ++p) w[p] = b.weights[p];
  float* out = b.out + first_row * b.out_stride;
  int at = 0;
  for (int g = 0; g < b.groups; ++g) {
    const int end = at + (g + 1 == b.groups ? b.last_inputs : b.group_inputs);
    __m512i isum_i32x16[R][P];
    start_group(b, g, first_row, out, isum_i32x16);
    for (; at < end; at += 32) {
      __m512i acc_i16x32[R][P];
      run16<R, P>(acc_i16x32, w, at, (std::min)(32, end - at), a + at / 4 * step, step);
      RRS_UNROLL_FULL
      for (unsigned r = 0; r < R; ++r) {
        RRS_UNROLL_FULL
        for (unsigned p = 0; p < P; ++p) {
          isum_i32x16[r][p] =
              _mm512_add_epi32(isum_i32x16[r][p], _mm512_madd_epi16(acc_i16x32[r][p], ones_i16x32));
        }
      }
    }
    at = end;
    leave_group(b, g, first_row, isum_i32x16, out);
  }
}

// Where the odd codes lie behind the even ones: a line more than 4 KB, whose addresses alias.
inline constexpr int kOddCodes = kBlockInputs / 4 * 16 + 16;

// 16 times 4 codes to int16: (k0, k2), and kOddCodes further (k1, k3).
RRS_TARGET_AVX512 RRS_FORCE_INLINE void widen_codes(const std::int8_t* codes, __mmask16 mask,
                                                    std::int32_t* to) noexcept {
  const __m512i a_i8x64 = _mm512_maskz_loadu_epi32(mask, codes);
  _mm512_store_si512(to, _mm512_srai_epi16(_mm512_slli_epi16(a_i8x64, 8), 8));
  _mm512_store_si512(to + kOddCodes, _mm512_srai_epi16(a_i8x64, 8));
}

// Codes of R rows of the tile, 4 inputs as many units apart as it returns. R rows that are all of
// the tile lie together: 16 rows and inputs at a time instead of R, 0.75 to 0.83, 0.83, 0.85 and
// 0.89 of the time of a tile of 1, 2, 3 and 5 rows in L2 (Granite Rapids).
template <unsigned R>
RRS_TARGET_AVX512 RRS_FORCE_INLINE int widen_rows(const GemmBlock& b, int first_row,
                                                  std::int32_t* to) noexcept {
  const int units = ((b.groups - 1) * b.group_inputs + b.last_inputs) / 4;
  const std::int8_t* codes = b.activations + first_row * 4;
  if (b.rows != static_cast<int>(R)) {
    for (int k = 0; k < units; ++k, codes += b.rows * 4) {
      widen_codes(codes, (1u << R) - 1u, to + k * 16);
    }
    return 16;
  }
  const int all = units * static_cast<int>(R);
  int i = 0;
  for (; i + 16 <= all; i += 16) widen_codes(codes + i * 4, 0xffffu, to + i);
  if (i < all) {
    widen_codes(codes + i * 4, static_cast<__mmask16>((1u << (all - i)) - 1u), to + i);
  }
  return R;
}

// 8-bit weights: w and a split into even and odd bytes, as int16. Weights are split in registers
// for every 6 rows (2 instructions per 24 multiplications), activations once per sub-tile.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512 inline void sub_tile_w8(const GemmBlock& b, int first_row) noexcept {
  alignas(64) std::int32_t codes[2 * kOddCodes];
  const __m512i low_u16x32 = _mm512_set1_epi16(255);
  const std::int64_t step = widen_rows<R>(b, first_row, codes);
  const std::int32_t* a = codes;
  float* out = b.out + first_row * b.out_stride;
  int k = 0;
  for (int g = 0; g < b.groups; ++g) {
    const int end = k + (g + 1 == b.groups ? b.last_inputs : b.group_inputs) / 4;
    __m512i isum_i32x16[R][P];
    start_group(b, g, first_row, out, isum_i32x16);
    for (; k < end; ++k, a += step) {
      __m512i even_i16x32[P], odd_i16x32[P];
      RRS_UNROLL_FULL
      for (unsigned p = 0; p < P; ++p) {
        __m512i w_u8x64 = _mm512_loadu_si512(b.weights[p] + k * 64);
        keep(w_u8x64);
        // All of R, since M = 5 and 6 without it took 1.35 to 1.4 times as long; M = 512: equal.
        _mm_prefetch(reinterpret_cast<const char*>(b.weights[p] + k * 64) + 4096, _MM_HINT_T1);
        even_i16x32[p] = _mm512_and_si512(w_u8x64, low_u16x32);
        odd_i16x32[p] = _mm512_srli_epi16(w_u8x64, 8);
      }
      RRS_UNROLL_FULL
      for (unsigned r = 0; r < R; ++r) {
        const __m512i even_a_i16x32 = _mm512_set1_epi32(a[r]);
        const __m512i odd_a_i16x32 = _mm512_set1_epi32(a[kOddCodes + r]);
        RRS_UNROLL_FULL
        for (unsigned p = 0; p < P; ++p) {
          isum_i32x16[r][p] =
              _mm512_add_epi32(isum_i32x16[r][p], _mm512_madd_epi16(even_i16x32[p], even_a_i16x32));
          isum_i32x16[r][p] =
              _mm512_add_epi32(isum_i32x16[r][p], _mm512_madd_epi16(odd_i16x32[p], odd_a_i16x32));
        }
      }
    }
    leave_group(b, g, first_row, isum_i32x16, out);
  }
}

inline constexpr GemmSubTile kA4Tiles[kIntRows][2] = {
    {&sub_tile_a4<1, 1>, &sub_tile_a4<1, 2>}, {&sub_tile_a4<2, 1>, &sub_tile_a4<2, 2>},
    {&sub_tile_a4<3, 1>, &sub_tile_a4<3, 2>}, {&sub_tile_a4<4, 1>, &sub_tile_a4<4, 2>},
    {&sub_tile_a4<5, 1>, &sub_tile_a4<5, 2>}, {&sub_tile_a4<6, 1>, &sub_tile_a4<6, 2>}};
inline constexpr GemmSubTile kA8Tiles[kIntRows][2] = {
    {&sub_tile_a8<1, 1>, &sub_tile_a8<1, 2>}, {&sub_tile_a8<2, 1>, &sub_tile_a8<2, 2>},
    {&sub_tile_a8<3, 1>, &sub_tile_a8<3, 2>}, {&sub_tile_a8<4, 1>, &sub_tile_a8<4, 2>},
    {&sub_tile_a8<5, 1>, &sub_tile_a8<5, 2>}, {&sub_tile_a8<6, 1>, &sub_tile_a8<6, 2>}};
inline constexpr GemmSubTile kW8Tiles[kIntRows][2] = {
    {&sub_tile_w8<1, 1>, &sub_tile_w8<1, 2>}, {&sub_tile_w8<2, 1>, &sub_tile_w8<2, 2>},
    {&sub_tile_w8<3, 1>, &sub_tile_w8<3, 2>}, {&sub_tile_w8<4, 1>, &sub_tile_w8<4, 2>},
    {&sub_tile_w8<5, 1>, &sub_tile_w8<5, 2>}, {&sub_tile_w8<6, 1>, &sub_tile_w8<6, 2>}};

// How block_columns runs these leaves. kTiles: one of the tables above.
template <int kBits, const GemmSubTile (&kTiles)[kIntRows][2]>
struct IntTraits {
  static constexpr int kWeightBits = kBits;
  static constexpr int kSubRows = kIntRows;
  static constexpr int kDirectRows = 0;
  static constexpr int kPrefetchRows = kBits == 8 ? kIntRows : 4;
  static constexpr int kOneRowPanels = kBits == 4 ? 1 : 2;  // widened codes serve both
  static constexpr int kUnpackedBytes = kBits == 4 ? kBlockInputs * kPanelOutputs : 0;
  RRS_MEMBER static GemmSubTile sub_tile(const GemmBlock&, int rows, int panels, bool) noexcept {
    return kTiles[rows - 1][panels - 1];
  }
};

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
