// GEMM leaves for AVX-512 VNNI: vpdpbusd, u8 weights x s8 activations, 64 products per instruction.
// W4A4 and W4A8 are the same code; W8A8 reads its panels without unpacking. Tiles of 7 rows (W8: 5)
// and more: avx512vnni_wide.hpp; W4 of up to 3: avx512vnni_stream.hpp. Here: the rows between,
// offsets, groups beyond 256 (W8: 128) inputs.
//
// Instructions (Sapphire Rapids): vpdpbusd zmm p0/p5, latency 5, 2 per cycle; vfmadd zmm p0/p5,
// latency 4; vpbroadcastd zmm, m32 load port only, 2 per cycle. Registers, sub-tile of 7 rows x 2
// panels: 14 int32 + 14 float accumulators + 2 weights + 1 broadcast = 31 of 32; v and c come from
// memory. 14 chains cover the latency of 5 at 2 per cycle. Cost of a group of g inputs: g/4 + 2
// instructions per output pair of ports: 94 % of peak at g = 128, 80 % at 32. The zero point costs
// nothing (start value), the conversion one fma (avx512_block.hpp). Tried (GMAC/s of a sub-tile in
// L1, Sapphire Rapids, groups 32 / 64 / 128):
//   7x2, floats in registers 291 / 319 / 354;  6x2 293 / 317 / 339;  14x1 249 / 265 / 301 (one load
//   per product: load ports saturate);  12x2, floats in L1 262 / 314 / 358;  fixed trip counts for
//   the group size: no gain (296 / 314 / 350).
// Up to 6 rows prefetch 4 KB ahead into L2 and 1 KB into L1. Granite Rapids, M = 2 to 6 against 8
// KB into L2 alone: time 0.86-0.95 (W4) and 0.96-0.99 (W8) from L3, 0.90-0.98 from L2; 4 KB into L1
// alone, or 8 KB and 1 KB: no better. W8 of one row reads two panels at a time: 0.82-0.85 of the
// time of one from L2, 1.0 from L3, 0.87-0.96 from DRAM (Granite Rapids); without sums of odd steps
// it is one chain, 5 cycles per line: 1.55 (per channel) and 1.2 times as long from L2. W4 of one
// row comes here with offsets and groups of 16 only. Four sets of sums: no gain. When all of W4's
// rows did, Zen 4, groups of 128, 8 KB ahead, share of the read bandwidth from DRAM / from L3: two
// panels in turns, 4 KB ahead into L1 0.63-0.72 / 0.63-0.76; one stream 0.98-1.01 / 0.97-1.10.
#pragma once

#include "rrs/gemm/avx512_block.hpp"
#include "rrs/gemm/avx512_int.hpp"
#include "rrs/gemm/avx512vnni_dot.hpp"
#include "rrs/gemm/avx512vnni_wide.hpp"

#if RRS_X86_64

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512vnni {

inline constexpr int kSubRows = 7;
inline constexpr int kPrefetchRows = 6;  // their weights come from DRAM, or L3
inline constexpr int kDirectRows = 6;    // 2 unpacked registers and a mask more than a sub-tile

// One step of 4 inputs: acc[r][p] += w[p] . a[r].
template <unsigned R, unsigned P>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void dot_step(__m512i (&acc)[R][P], const __m512i (&w)[P],
                                                     const std::int8_t* a) noexcept {
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    const __m512i a_i8x64 = broadcast4(a + r * 4);
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) acc[r][p] = dot(acc[r][p], w[p], a_i8x64);
  }
}

// The next 64 bytes of a panel, which moves on; those behind it on their way.
template <bool kPrefetch>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE __m512i take_line(const std::uint8_t*& at) noexcept {
  const __m512i line_u8x64 = _mm512_loadu_si512(at);
  if (kPrefetch) {
    _mm_prefetch(reinterpret_cast<const char*>(at) + 4096, _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(at) + 1024, _MM_HINT_T0);
  }
  at += 64;
  return line_u8x64;
}

// acc += all products of `inputs` inputs; weights and a move on. kNibbles: weights are W4 panels.
template <unsigned R, unsigned P, bool kNibbles>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void dot_inputs(__m512i (&acc)[R][P],
                                                       const std::uint8_t* (&weights)[P],
                                                       const std::int8_t*& a, std::int64_t step,
                                                       int inputs) noexcept {
  // 5 and 6 rows of W4 without it: 1.21 to 1.29 times as long.
  constexpr bool kPrefetch = R <= kPrefetchRows;
  constexpr bool kSplit = R <= 2;              // few chains: odd steps have sums of their own
  constexpr bool kPairs = kNibbles || kSplit;  // two steps at a time
  const __m512i low_u8x64 = _mm512_set1_epi8(15);
  __m512i odd_i32x16[R][P];
  RRS_UNROLL_FULL
  for (unsigned r = 0; kSplit && r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) odd_i32x16[r][p] = _mm512_setzero_si512();
  }
  for (int k = 0; k < inputs; k += kPairs ? 8 : 4) {
    __m512i w_u8x64[P];
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) w_u8x64[p] = take_line<kPrefetch>(weights[p]);
    if (!kPairs) {
      dot_step<R, P>(acc, w_u8x64, a);
      a += step;
      continue;
    }
    __m512i even_u8x64[P], odd_u8x64[P];  // steps of 4 inputs
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      even_u8x64[p] = kNibbles ? _mm512_and_si512(w_u8x64[p], low_u8x64) : w_u8x64[p];
      odd_u8x64[p] = kNibbles ? _mm512_and_si512(_mm512_srli_epi16(w_u8x64[p], 4), low_u8x64)
                              : take_line<kPrefetch>(weights[p]);
    }
    dot_step<R, P>(acc, even_u8x64, a);
    if (kSplit) {
      dot_step<R, P>(odd_i32x16, odd_u8x64, a + step);
    } else {
      dot_step<R, P>(acc, odd_u8x64, a + step);
    }
    a += 2 * step;
  }
  RRS_UNROLL_FULL
  for (unsigned r = 0; kSplit && r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) acc[r][p] = _mm512_add_epi32(acc[r][p], odd_i32x16[r][p]);
  }
}

// R rows x P panels over one block, GemmFinish::kMagic. Nothing else is in this function: with the
// other finishes beside it GCC spills 5 of the 28 accumulators.
template <unsigned R, unsigned P, bool kNibbles>
RRS_TARGET_AVX512VNNI inline void magic_tile(const GemmBlock& b, int first_row) noexcept {
  const std::int64_t step = std::int64_t{b.rows} * 4;
  const std::int8_t* a = b.activations + first_row * 4;
  const std::int32_t* starts = b.starts + first_row;
  const std::uint8_t* weights[P];
  RRS_UNROLL_FULL
  for (unsigned p = 0; p < P; ++p) weights[p] = b.weights[p];
  float* out = b.out + first_row * b.out_stride;
  __m512 sum_f32x16[R][P];
  avx512::load_sums(out, b.out_stride, sum_f32x16);
  for (int g = 0; g < b.groups; ++g) {
    __m512i acc_i32x16[R][P];
    RRS_UNROLL_FULL
    for (unsigned r = 0; r < R; ++r) {
      RRS_UNROLL_FULL
      for (unsigned p = 0; p < P; ++p) acc_i32x16[r][p] = _mm512_set1_epi32(starts[r]);
    }
    starts += b.rows;
    dot_inputs<R, P, kNibbles>(acc_i32x16, weights, a, step,
                               g + 1 == b.groups ? b.last_inputs : b.group_inputs);
    avx512::finish_magic(b.v[g][0], b.c[g][0], b.scales[g] + first_row, acc_i32x16, sum_f32x16);
  }
  avx512::store_sums(sum_f32x16, b.out_stride, out);
}

// The same for kConvert and kCarry; floats live in `out`.
template <unsigned R, unsigned P, bool kNibbles>
RRS_TARGET_AVX512VNNI inline void convert_tile(const GemmBlock& b, int first_row) noexcept {
  const std::int8_t* a = b.activations + first_row * 4;
  const std::uint8_t* weights[P];
  RRS_UNROLL_FULL
  for (unsigned p = 0; p < P; ++p) weights[p] = b.weights[p];
  float* out = b.out + first_row * b.out_stride;
  for (int g = 0; g < b.groups; ++g) {
    __m512i acc_i32x16[R][P];
    avx512::start_group(b, g, first_row, out, acc_i32x16);
    dot_inputs<R, P, kNibbles>(acc_i32x16, weights, a, std::int64_t{b.rows} * 4,
                               g + 1 == b.groups ? b.last_inputs : b.group_inputs);
    avx512::leave_group<R, P>(b, g, first_row, acc_i32x16, out);
  }
}

// [rows - 1][panels - 1][kMagic]
template <bool kNibbles, unsigned R>
inline constexpr GemmSubTile kRow[2][2] = {
    {&convert_tile<R, 1, kNibbles>, &magic_tile<R, 1, kNibbles>},
    {&convert_tile<R, 2, kNibbles>, &magic_tile<R, 2, kNibbles>}};

template <bool kNibbles>
RRS_FORCE_INLINE GemmSubTile pick_tile(int rows, int panels, bool magic) noexcept {
  const int p = panels - 1, m = magic ? 1 : 0;
  switch (rows) {
    case 1: return kRow<kNibbles, 1>[p][m];
    case 2: return kRow<kNibbles, 2>[p][m];
    case 3: return kRow<kNibbles, 3>[p][m];
    case 4: return kRow<kNibbles, 4>[p][m];
    case 5: return kRow<kNibbles, 5>[p][m];
    case 6: return kRow<kNibbles, 6>[p][m];
    default: return kRow<false, 7>[p][m];
  }
}

// How avx512::block_columns runs these leaves.
template <int kBits>
struct VnniTraits {
  static constexpr int kWeightBits = kBits;
  static constexpr int kSubRows = avx512vnni::kSubRows;
  static constexpr int kDirectRows = kBits == 4 ? avx512vnni::kDirectRows : 0;
  static constexpr int kPrefetchRows = avx512vnni::kPrefetchRows;
  static constexpr int kOneRowPanels = kBits == 4 ? 1 : 2;  // see the head
  static constexpr int kUnpackedBytes = kBits == 4 ? kBlockInputs * kPanelOutputs : 0;
  RRS_MEMBER static GemmSubTile sub_tile(const GemmBlock& b, int rows, int panels,
                                         bool direct) noexcept {
    const bool magic = b.finish == GemmFinish::kMagic;
    return direct && kBits == 4 ? pick_tile<true>(rows, panels, magic)
                                : pick_tile<false>(rows, panels, magic);
  }
};

constexpr GemmKernels gemm_kernels(GemmKernels lower) {
  lower.w4a4 = {&wide_tile<4, VnniTraits<4>>, kWideMaxRows, kWidePanels,
                "avx512vnni w4a4 6x64 of 64x64"};
  lower.w4a8 = {&wide_tile<4, VnniTraits<4>>, kWideMaxRows, kWidePanels,
                "avx512vnni w4a8 6x64 of 64x64"};
  lower.w8a8 = {&wide_tile<8, VnniTraits<8>>, kWideMaxRows, kWidePanels,
                "avx512vnni w8a8 6x64 of 64x64"};
  return lower;
}

// Activation codes stay as they are: unpacking once per 64 rows leaves nothing to save.
constexpr PackKernels pack_kernels(PackKernels lower) { return lower; }

}  // namespace avx512vnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
