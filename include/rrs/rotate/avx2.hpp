// Rotate leaves, AVX2 + FMA + F16C.
//
//   instruction              ports, latency (Skylake to Golden Cove)   used for
//   vaddps / vsubps ymm      p01 or p15, 3 to 4      butterflies between registers
//   vpermilps, vperm2f128    p5 or p15, 1 and 3      partner of each lane, strides 2 and 4
//   vmovsldup ymm, m256      load                    stride 1, done by the load
//   vfmadd ymm               p01, 4                  partner +- x in one (x * +-1 is exact)
//   vbroadcastss ymm, m32    load                    mix: coefficients
//   vcvtph2ps ymm, m128      p01 + p5                f16
//
// Register budget, of 16. Butterflies: 8 data (a block of 64 stays in registers), 3 sign vectors,
// scale, 1 temporary. mix: 4 outputs x 3 vectors = 12 accumulators, 3 inputs, 1 coefficient.
// Tried: blocks of 128 as 64 and one more pass: 15 % slower than 16 registers with a few spills.
// Full rows, n = 2048 in L1, in cycles, where additions and shuffles have ports 1 and 5 alone
// (Golden Cove): blocks of 64 are 8 operations per vector on three ports, 683; a pass of three
// strides 3 additions on two ports, 384; of two 256. That is 1323, 9.9 copies of 133; measured
// (Granite Rapids, g++, clang++) 760-840 and 765, 425 and 405, 355 and 320, all of it 1570 and
// 1510. Tried: a third of a pass's additions as fma, to relieve p5: g++ 1.00 to 1.03 of the time,
// clang++ 0.96.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/rotate/scalar.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN
namespace avx2 {

RRS_ISA_WARNINGS_PUSH

// All ones in the first `count` lanes.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i rotate_tail_mask(std::int64_t count) noexcept {
  const int lanes = count >= 8 ? 8 : static_cast<int>(count);
  const __m256i index_i32x8 = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), index_i32x8);
}

RRS_TARGET_AVX2 inline void f16_to_f32(const f16* in, float* out, std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i half_f16x8 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(half_f16x8));
  }
  scalar::f16_to_f32(in + i, out + i, n - i);
}

RRS_TARGET_AVX2 inline void bf16_to_f32(const bf16* in, float* out, std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i half_bf16x8 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    const __m256i bits_u32x8 = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half_bf16x8), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), bits_u32x8);
  }
  scalar::bf16_to_f32(in + i, out + i, n - i);
}

// Butterflies of stride 2^kFirst .. 2^(kStages - 1) inside a register: fma(x, +-1, partner) is a +
// b in the lower lane of each pair and a - b in the upper.
template <int kFirst, int kStages>
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 lane_butterflies(__m256 x_f32x8) noexcept {
  if constexpr (kFirst <= 0 && kStages > 0) {
    const __m256 sign_f32x8 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    x_f32x8 = _mm256_fmadd_ps(x_f32x8, sign_f32x8, _mm256_permute_ps(x_f32x8, 0xb1));
  }
  if constexpr (kFirst <= 1 && kStages > 1) {
    const __m256 sign_f32x8 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    x_f32x8 = _mm256_fmadd_ps(x_f32x8, sign_f32x8, _mm256_permute_ps(x_f32x8, 0x4e));
  }
  if constexpr (kFirst <= 2 && kStages > 2) {
    const __m256 sign_f32x8 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    const __m256 partner_f32x8 = _mm256_permute2f128_ps(x_f32x8, x_f32x8, 0x01);
    x_f32x8 = _mm256_fmadd_ps(x_f32x8, sign_f32x8, partner_f32x8);
  }
  return x_f32x8;
}

// Loads with the butterflies of stride 1 done. Duplicating the even and the odd lanes costs nothing
// when the load does it (a load port, no shuffle); the compiler would merge the two loads into one
// and shuffle twice, so the second address is hidden from it. 10 to 15 % on blocks of 32 and 64.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 load_butterflies(const float* x) noexcept {
  const float* same = x;
  __asm__("" : "+r"(same));
  const __m256 sign_f32x8 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
  const __m256 even_f32x8 = _mm256_moveldup_ps(_mm256_loadu_ps(x));
  const __m256 odd_f32x8 = _mm256_movehdup_ps(_mm256_loadu_ps(same));
  return _mm256_fmadd_ps(odd_f32x8, sign_f32x8, even_f32x8);
}

// Butterflies between kRegisters registers, strides kStride, 2 kStride, ...
template <int kRegisters, int kStride>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void register_butterflies(__m256* x_f32x8) noexcept {
  if constexpr (kStride < kRegisters) {
#pragma GCC unroll 8
    for (int pair = 0; pair < kRegisters / 2; ++pair) {
      const int low = pair / kStride * 2 * kStride + pair % kStride;
      const __m256 a_f32x8 = x_f32x8[low];
      const __m256 b_f32x8 = x_f32x8[low + kStride];
      x_f32x8[low] = _mm256_add_ps(a_f32x8, b_f32x8);
      x_f32x8[low + kStride] = _mm256_sub_ps(a_f32x8, b_f32x8);
    }
    register_butterflies<kRegisters, 2 * kStride>(x_f32x8);
  }
}

// Blocks of 1..8 values: several per register, so only lane butterflies.
template <int kLog2>
RRS_TARGET_AVX2 inline void hadamard_lanes(float* x, std::int64_t n_blocks, float scale) noexcept {
  const __m256 scale_f32x8 = _mm256_set1_ps(scale);
  const std::int64_t n = n_blocks << kLog2;
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 x_f32x8 = lane_butterflies<0, kLog2>(_mm256_loadu_ps(x + i));
    _mm256_storeu_ps(x + i, _mm256_mul_ps(x_f32x8, scale_f32x8));
  }
  if (i == n) return;
  const __m256i mask = rotate_tail_mask(n - i);
  const __m256 x_f32x8 = lane_butterflies<0, kLog2>(_mm256_maskload_ps(x + i, mask));
  _mm256_maskstore_ps(x + i, mask, _mm256_mul_ps(x_f32x8, scale_f32x8));
}

// Blocks of 16..64 values, each wholly in registers.
template <int kLog2, bool kScale = true>
RRS_TARGET_AVX2 inline void hadamard_block(float* x, std::int64_t n_blocks, float scale) noexcept {
  constexpr int kRegisters = 1 << (kLog2 - 3);
  const __m256 scale_f32x8 = _mm256_set1_ps(scale);
  for (std::int64_t b = 0; b < n_blocks; ++b, x += 8 * kRegisters) {
    __m256 x_f32x8[std::size_t{kRegisters}];
#pragma GCC unroll 16
    for (int r = 0; r < kRegisters; ++r) {
      x_f32x8[r] = lane_butterflies<1, 3>(load_butterflies(x + 8 * r));
    }
    register_butterflies<kRegisters, 1>(x_f32x8);
#pragma GCC unroll 16
    for (int r = 0; r < kRegisters; ++r) {
      if constexpr (kScale) x_f32x8[r] = _mm256_mul_ps(x_f32x8[r], scale_f32x8);
      _mm256_storeu_ps(x + 8 * r, x_f32x8[r]);
    }
  }
}

// kStages strides at once, starting with `stride` (>= 8), over segments of 2^kStages strides.
template <int kStages, bool kScale>
RRS_TARGET_AVX2 inline void hadamard_pass(float* x, std::int64_t n, std::int64_t stride,
                                          float scale) noexcept {
  constexpr int kRegisters = 1 << kStages;
  const __m256 scale_f32x8 = _mm256_set1_ps(scale);
  for (std::int64_t segment = 0; segment < n; segment += stride * kRegisters) {
    for (std::int64_t i = segment; i < segment + stride; i += 8) {
      __m256 x_f32x8[std::size_t{kRegisters}];
#pragma GCC unroll 8
      for (int r = 0; r < kRegisters; ++r) x_f32x8[r] = _mm256_loadu_ps(x + i + r * stride);
      register_butterflies<kRegisters, 1>(x_f32x8);
#pragma GCC unroll 8
      for (int r = 0; r < kRegisters; ++r) {
        if constexpr (kScale) x_f32x8[r] = _mm256_mul_ps(x_f32x8[r], scale_f32x8);
        _mm256_storeu_ps(x + i + r * stride, x_f32x8[r]);
      }
    }
  }
}

template <bool kScale>
RRS_TARGET_AVX2 inline void hadamard_pass(int stages, float* x, std::int64_t n, std::int64_t stride,
                                          float scale) noexcept {
  switch (stages) {
    case 1: return hadamard_pass<1, kScale>(x, n, stride, scale);
    case 2: return hadamard_pass<2, kScale>(x, n, stride, scale);
    default: return hadamard_pass<3, kScale>(x, n, stride, scale);
  }
}

// Strides 2^from .. 2^(to - 1) of n values in as few passes as possible, at most 3 stages each.
RRS_TARGET_AVX2 inline void hadamard_passes(float* x, std::int64_t n, int from, int to, bool last,
                                            float scale) noexcept {
  while (from < to) {
    const int passes = (to - from + 2) / 3;
    const int stages = (to - from + passes - 1) / passes;
    const std::int64_t stride = std::int64_t{1} << from;
    from += stages;
    if (last && from == to) {
      hadamard_pass<true>(stages, x, n, stride, scale);
    } else {
      hadamard_pass<false>(stages, x, n, stride, scale);
    }
  }
}

// Blocks above 64. Chunks of 4096 (16 KiB) are finished while they are in L1; strides beyond that
// stream. Each value sees its strides in ascending order either way.
RRS_TARGET_AVX2 inline void hadamard_large(float* x, int log2, float scale) noexcept {
  constexpr int kChunkLog2 = 12;
  const int chunk_log2 = log2 < kChunkLog2 ? log2 : kChunkLog2;
  const std::int64_t n = std::int64_t{1} << log2;
  const std::int64_t chunk = std::int64_t{1} << chunk_log2;
  for (std::int64_t i = 0; i < n; i += chunk) {
    hadamard_block<6, false>(x + i, chunk / 64, 1.0f);
    hadamard_passes(x + i, chunk, 6, chunk_log2, chunk_log2 == log2, scale);
  }
  hadamard_passes(x, n, chunk_log2, log2, true, scale);
}

RRS_TARGET_AVX2 inline void hadamard(float* x, std::int64_t n_blocks, int log2_block,
                                     float scale) noexcept {
  switch (log2_block) {
    case 0: return hadamard_lanes<0>(x, n_blocks, scale);
    case 1: return hadamard_lanes<1>(x, n_blocks, scale);
    case 2: return hadamard_lanes<2>(x, n_blocks, scale);
    case 3: return hadamard_lanes<3>(x, n_blocks, scale);
    case 4: return hadamard_block<4>(x, n_blocks, scale);
    case 5: return hadamard_block<5>(x, n_blocks, scale);
    case 6: return hadamard_block<6>(x, n_blocks, scale);
    case 7: return hadamard_block<7>(x, n_blocks, scale);
    default: break;
  }
  for (std::int64_t b = 0; b < n_blocks; ++b) {
    hadamard_large(x + (b << log2_block), log2_block, scale);
  }
}

// One input row: the first one starts the sums. kMasked: one vector of columns under `mask`.
template <int kRows, int kVectors, bool kMasked, bool kFirst>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void mix_step(
    const float* in, const float* coefficients, std::int64_t order, __m256i mask,
    __m256 (*sum_f32x8)[std::size_t{kVectors}]) noexcept {
  __m256 in_f32x8[std::size_t{kVectors}];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    in_f32x8[v] = kMasked ? _mm256_maskload_ps(in, mask) : _mm256_loadu_ps(in + 8 * v);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    const __m256 c_f32x8 = _mm256_broadcast_ss(coefficients + i * order);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (kFirst) {
        sum_f32x8[i][v] = _mm256_mul_ps(c_f32x8, in_f32x8[v]);
      } else {
        sum_f32x8[i][v] = _mm256_fmadd_ps(c_f32x8, in_f32x8[v], sum_f32x8[i][v]);
      }
    }
  }
}

// kRows outputs x kVectors vectors of columns.
template <int kRows, int kVectors, bool kMasked>
RRS_TARGET_AVX2 inline void mix_tile(const float* in, float* out, std::int64_t columns,
                                     const float* coefficients, int order, float scale,
                                     __m256i mask) noexcept {
  __m256 sum_f32x8[std::size_t{kRows}][std::size_t{kVectors}];
  mix_step<kRows, kVectors, kMasked, true>(in, coefficients, order, mask, sum_f32x8);
  for (int j = 1; j < order; ++j) {
    mix_step<kRows, kVectors, kMasked, false>(in + j * columns, coefficients + j, order, mask,
                                              sum_f32x8);
  }
  const __m256 scale_f32x8 = _mm256_set1_ps(scale);
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i, out += columns) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const __m256 result_f32x8 = _mm256_mul_ps(sum_f32x8[i][v], scale_f32x8);
      if constexpr (kMasked) {
        _mm256_maskstore_ps(out, mask, result_f32x8);
      } else {
        _mm256_storeu_ps(out + 8 * v, result_f32x8);
      }
    }
  }
}

// All outputs of one tile of columns. Four at a time: Paley orders are multiples of four.
template <int kVectors, bool kMasked>
// NOLINTNEXTLINE(readability-function-size): mix, for one mask
RRS_TARGET_AVX2 inline void mix_columns(const float* in, float* out, std::int64_t columns,
                                        const float* coefficients, int outputs, int order,
                                        float scale, __m256i mask) noexcept {
  int i = 0;
  for (; i + 4 <= outputs; i += 4) {
    mix_tile<4, kVectors, kMasked>(in, out + i * columns, columns,
                                   coefficients + std::int64_t{i} * order, order, scale, mask);
  }
  for (; i < outputs; ++i) {
    mix_tile<1, kVectors, kMasked>(in, out + i * columns, columns,
                                   coefficients + std::int64_t{i} * order, order, scale, mask);
  }
}

RRS_TARGET_AVX2 inline void mix(const float* in, float* out, std::int64_t columns,
                                const float* coefficients, int outputs, int order,
                                float scale) noexcept {
  const __m256i mask = rotate_tail_mask(columns % 8);
  for (std::int64_t vectors = columns / 8; vectors > 0;) {
    if (vectors == 1) {
      mix_columns<1, false>(in, out, columns, coefficients, outputs, order, scale, mask);
      vectors = 0, in += 8, out += 8;
    } else if (vectors == 2 || vectors == 4) {  // 4 = 2 + 2: a lone vector is bound by latency
      mix_columns<2, false>(in, out, columns, coefficients, outputs, order, scale, mask);
      vectors -= 2, in += 16, out += 16;
    } else {
      mix_columns<3, false>(in, out, columns, coefficients, outputs, order, scale, mask);
      vectors -= 3, in += 24, out += 24;
    }
  }
  if (columns % 8 != 0) {
    mix_columns<1, true>(in, out, columns, coefficients, outputs, order, scale, mask);
  }
}

RRS_ISA_WARNINGS_POP

constexpr RotateKernels rotate_kernels(RotateKernels) noexcept {
  return RotateKernels{&f16_to_f32, &bf16_to_f32, &hadamard, &mix};
}

}  // namespace avx2
RRS_FUNCTIONS_END
#endif  // RRS_X86_64
