// Sub-tiles of the VNNI tiles of many rows: 6 rows x 4 panels or 7 x 2 over one block of K.
//
// from: wide_columns (avx512vnni_wide.hpp), which unpacks the block and its scales.  to: the tile's
// floats, or the int32 sums of a row group.
// Instructions: avx512vnni.hpp. Registers: 6 rows x 4 panels: 24 int32 accumulators + 4 weights + 2
// broadcasts, floats in L1, one block of assembly per group (avx512vnni_four.hpp); groups of 256
// and the last panels of a matrix 7 x 2: 14 int32 + 14 float + 2 + 1.
//
// What bounds it (Emerald Rapids, sub-tile in L1, share of the rate of vpdpbusd alone):
//   ports 0 and 5, group ends counted: 0.94 at groups of 128, 0.80 at 32.
//   6x4 (as intrinsics) 0.88 (clang 0.91) at 128, 0.65-0.70 at 32. Without its stores it reaches
//   0.95 and 0.80: a 512-bit store, whatever it holds and wherever it goes in L1, costs 1.6 cycles
//   of both ports, also as two 256-bit halves; an 8-byte store costs nothing.
//
//   7x2, sums in registers over blocks of 128 / 256 / 512 inputs: 0.85 / 0.89 / 0.92 at 128, 0.75 /
//   0.77 / 0.785 at 32 (asm and C++ alike), so its blocks are 512 inputs long.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "rrs/gemm/avx512_block.hpp"
#include "rrs/gemm/avx512vnni_dot.hpp"
#include "rrs/gemm/avx512vnni_four.hpp"

#if RRS_X86_64

RRS_TYPES_BEGIN

// One block of K for P panels, shared by its sub-tiles.
struct WideBlock {
  const std::uint8_t* weights;  // 64 bytes per 4 inputs
  std::int64_t panel_step;      // from one panel to the next
  const std::int8_t* activations;
  const float* vc;             // [group][v of P panels, then c = -M * v][16]
  const std::int32_t* starts;  // [group][rows]
  const float* scales[kBlockGroups];
  int rows;
  int groups;
  int group_inputs;
  int last_inputs;
  float* out;
  std::int64_t out_stride;
};

RRS_TYPES_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512vnni {

// Sub-tile and block: see the head, and that of avx512vnni_wide.hpp.
template <unsigned kRows, unsigned kPanels, int kInputs>
struct WideShape {
  static constexpr unsigned kSubRows = kRows;
  static constexpr unsigned kSubPanels = kPanels;
  static constexpr int kBlock = kInputs;
};
using WideFour = WideShape<6, 4, 128>;
using WideTwo = WideShape<7, 2, 512>;
using WideLastPanel = WideShape<7, 1, 512>;

// acc += all products of `inputs` inputs.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void wide_dot(__m512i (&acc)[R][P], const std::uint8_t*& w,
                                                     std::int64_t panel_step, const std::int8_t*& a,
                                                     std::int64_t step, int inputs) noexcept {
  for (int k = inputs; k > 0; k -= 4) {
    __m512i w_u8x64[P];
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) w_u8x64[p] = _mm512_loadu_si512(w + p * panel_step);
    w += 64;
    RRS_UNROLL_FULL
    for (unsigned r = 0; r < R; ++r) {
      const __m512i a_i8x64 = broadcast4(a + r * 4);
      RRS_UNROLL_FULL
      for (unsigned p = 0; p < P; ++p) acc[r][p] = dot(acc[r][p], w_u8x64[p], a_i8x64);
    }
    // Two panels a block of activations outgrows L1: the rows below, which the next sub-tile reads.
    if (P == 2) _mm_prefetch(reinterpret_cast<const char*>(a) + R * 8 - 1, _MM_HINT_T0);
    a += step;
  }
}

// R rows x P <= 2 panels over one block, the float sums of its groups in registers.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512VNNI __attribute__((noinline)) inline void wide_sub(const WideBlock& b,
                                                                     int first_row) noexcept {
  const std::int64_t step = std::int64_t{b.rows} * 4;
  const std::int8_t* a = b.activations + first_row * 4;
  const std::uint8_t* w = b.weights;
  const std::int32_t* starts = b.starts + first_row;
  const float* vc = b.vc;
  const int groups = b.groups;
  float* out = b.out + first_row * b.out_stride;
  __m512 sum_f32x16[R][P];
  avx512::load_sums(out, b.out_stride, sum_f32x16);
  for (int g = 0; g < groups; ++g) {
    __m512i acc_i32x16[R][P];
    RRS_UNROLL_FULL
    for (unsigned r = 0; r < R; ++r) {
      RRS_UNROLL_FULL
      for (unsigned p = 0; p < P; ++p) acc_i32x16[r][p] = _mm512_set1_epi32(starts[r]);
    }
    starts += b.rows;
    wide_dot<R, P>(acc_i32x16, w, b.panel_step, a, step,
                   g + 1 == groups ? b.last_inputs : b.group_inputs);
    avx512::finish_magic(vc, vc + P * 16, b.scales[g] + first_row, acc_i32x16, sum_f32x16);
    vc += 2 * P * 16;
  }
  avx512::store_sums(sum_f32x16, b.out_stride, out);
}

// R rows x P <= 2 panels of a row group: int32 sums, to and from `out`.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512VNNI __attribute__((noinline)) inline void wide_carry(const WideBlock& b,
                                                                       int first_row) noexcept {
  const std::int8_t* a = b.activations + first_row * 4;
  const std::uint8_t* w = b.weights;
  float* out = b.out + first_row * b.out_stride;
  __m512i acc_i32x16[R][P];
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      acc_i32x16[r][p] = _mm512_loadu_si512(out + r * b.out_stride + p * 16);
    }
  }
  wide_dot<R, P>(acc_i32x16, w, b.panel_step, a, std::int64_t{b.rows} * 4, b.last_inputs);
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      _mm512_storeu_si512(out + r * b.out_stride + p * 16, acc_i32x16[r][p]);
    }
  }
}

// Both for four panels, whose groups are assembly. Rows of `out` lie 4 x 16 floats apart.
template <unsigned R, bool kCarry>
RRS_TARGET_AVX512VNNI __attribute__((noinline)) inline void wide_four(const WideBlock& b,
                                                                      int first_row) noexcept {
  FourPanels f{b.weights, b.panel_step, b.activations + first_row * 4, std::int64_t{b.rows} * 4,
               b.last_inputs / 4};
  float* out = b.out + first_row * 4 * kPanelOutputs;
  if constexpr (kCarry) return four_carry<R>(f, out);
  const std::int32_t* starts = b.starts + first_row;
  const float* vc = b.vc;
  for (int g = 0; g < b.groups; ++g) {
    f.steps = (g + 1 == b.groups ? b.last_inputs : b.group_inputs) / 4;
    four_group<R>(f, starts, vc, b.scales[g] + first_row, out);
    f.weights += 64 * f.steps;
    f.codes += f.row_step * f.steps;
    starts += b.rows;
    vc += 8 * kPanelOutputs;
  }
}

template <unsigned R, class Shape, bool kCarry>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void wide_part(const WideBlock& b, int row) noexcept {
  if constexpr (Shape::kSubPanels == 4) {
    wide_four<R, kCarry>(b, row);
  } else if constexpr (kCarry) {
    wide_carry<R, Shape::kSubPanels>(b, row);
  } else {
    wide_sub<R, Shape::kSubPanels>(b, row);
  }
}

template <class Shape, bool kCarry>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void wide_rows(const WideBlock& b, int row,
                                                      int rows) noexcept {
  switch (rows) {
    case 1: return wide_part<1, Shape, kCarry>(b, row);
    case 2: return wide_part<2, Shape, kCarry>(b, row);
    case 3: return wide_part<3, Shape, kCarry>(b, row);
    case 4: return wide_part<4, Shape, kCarry>(b, row);
    case 5: return wide_part<5, Shape, kCarry>(b, row);
    case 6: return wide_part<6, Shape, kCarry>(b, row);
    default: return wide_part<Shape::kSubRows, Shape, kCarry>(b, row);
  }
}

}  // namespace avx512vnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
