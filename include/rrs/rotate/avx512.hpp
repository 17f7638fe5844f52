// Rotate leaves, AVX-512 (F, BW, DQ, VL).
//
//   instruction              ports, latency (SPR)   used for
//   vaddps / vsubps zmm      p05, 4                 butterflies between registers
//   vpermilps, vshuff32x4    p5, 1 and 3            partner of each lane, strides 2 and 4, 8
//   vmovsldup zmm, m512      load                   stride 1, done by the load
//   vfmadd zmm               p05, 4                 partner +- x in one (x * +-1 is exact)
//   vbroadcastss zmm, m32    load                   mix: coefficients
//
// Register budget. Butterflies: 16 data (a block of 256 stays in registers), 4 sign vectors, scale
// and temporaries: 22 of 32. mix: 4 outputs x 4 (or 8 x 2) vectors = 16 accumulators, 4 inputs, 1
// coefficient.
// Bound: 16 floats through 12 stages take 8 additions, 4 fma, 3 shuffles and 1 product on two
// ports: 8 cycles, where copying them within L1 takes about 1. So n = 4096 cannot come nearer to
// memcpy than 8 times; measured 9 to 10. Tried: loads that do stride 1 (kept, load_butterflies).
#pragma once

#include <cstddef>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/rotate/scalar.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN
namespace avx512 {

RRS_ISA_WARNINGS_PUSH

RRS_TARGET_AVX512 RRS_FORCE_INLINE __mmask16 rotate_tail_mask(std::int64_t count) noexcept {
  return count >= 16 ? static_cast<__mmask16>(0xffff)
                     : static_cast<__mmask16>((1u << static_cast<unsigned>(count)) - 1u);
}

RRS_TARGET_AVX512 inline void f16_to_f32(const f16* in, float* out, std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i half_f16x16 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i));
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(half_f16x16));
  }
  if (i == n) return;
  const __mmask16 mask = rotate_tail_mask(n - i);
  const __m256i half_f16x16 = _mm256_maskz_loadu_epi16(mask, in + i);
  _mm512_mask_storeu_ps(out + i, mask, _mm512_cvtph_ps(half_f16x16));
}

RRS_TARGET_AVX512 inline void bf16_to_f32(const bf16* in, float* out, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = rotate_tail_mask(n - i);
    const __m256i half_bf16x16 = _mm256_maskz_loadu_epi16(mask, in + i);
    const __m512i bits_u32x16 = _mm512_slli_epi32(_mm512_cvtepu16_epi32(half_bf16x16), 16);
    _mm512_mask_storeu_epi32(out + i, mask, bits_u32x16);
  }
}

// Butterflies of stride 2^kFirst .. 2^(kStages - 1) inside a register: fma(x, +-1, partner) is a +
// b in the lower lane of each pair and a - b in the upper.
template <int kFirst, int kStages>
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 lane_butterflies(__m512 x_f32x16) noexcept {
  const __m512 one_f32x16 = _mm512_set1_ps(1.0f);
  const __m512 minus_f32x16 = _mm512_set1_ps(-1.0f);
  if constexpr (kFirst <= 0 && kStages > 0) {
    const __m512 sign_f32x16 = _mm512_mask_blend_ps(0xaaaa, one_f32x16, minus_f32x16);
    x_f32x16 = _mm512_fmadd_ps(x_f32x16, sign_f32x16, _mm512_permute_ps(x_f32x16, 0xb1));
  }
  if constexpr (kFirst <= 1 && kStages > 1) {
    const __m512 sign_f32x16 = _mm512_mask_blend_ps(0xcccc, one_f32x16, minus_f32x16);
    x_f32x16 = _mm512_fmadd_ps(x_f32x16, sign_f32x16, _mm512_permute_ps(x_f32x16, 0x4e));
  }
  if constexpr (kFirst <= 2 && kStages > 2) {
    const __m512 sign_f32x16 = _mm512_mask_blend_ps(0xf0f0, one_f32x16, minus_f32x16);
    const __m512 partner_f32x16 = _mm512_shuffle_f32x4(x_f32x16, x_f32x16, 0xb1);
    x_f32x16 = _mm512_fmadd_ps(x_f32x16, sign_f32x16, partner_f32x16);
  }
  if constexpr (kFirst <= 3 && kStages > 3) {
    const __m512 sign_f32x16 = _mm512_mask_blend_ps(0xff00, one_f32x16, minus_f32x16);
    const __m512 partner_f32x16 = _mm512_shuffle_f32x4(x_f32x16, x_f32x16, 0x4e);
    x_f32x16 = _mm512_fmadd_ps(x_f32x16, sign_f32x16, partner_f32x16);
  }
  return x_f32x16;
}

// Loads with the butterflies of stride 1 done. Duplicating the even and the odd lanes costs nothing
// when the load does it (a load port, no shuffle); the compiler would merge the two loads into one
// and shuffle twice, so the second address is hidden from it. 10 to 15 % on blocks of 32 and 64.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 load_butterflies(const float* x) noexcept {
  const __m512 one_f32x16 = _mm512_set1_ps(1.0f);
  const __m512 minus_f32x16 = _mm512_set1_ps(-1.0f);
  const float* same = x;
  __asm__("" : "+r"(same));
  const __m512 sign_f32x16 = _mm512_mask_blend_ps(0xaaaa, one_f32x16, minus_f32x16);
  const __m512 even_f32x16 = _mm512_moveldup_ps(_mm512_loadu_ps(x));
  const __m512 odd_f32x16 = _mm512_movehdup_ps(_mm512_loadu_ps(same));
  return _mm512_fmadd_ps(odd_f32x16, sign_f32x16, even_f32x16);
}

// Butterflies between kRegisters registers, strides kStride, 2 kStride, ...
template <int kRegisters, int kStride>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void register_butterflies(__m512* x_f32x16) noexcept {
  if constexpr (kStride < kRegisters) {
#pragma GCC unroll 8
    for (int pair = 0; pair < kRegisters / 2; ++pair) {
      const int low = pair / kStride * 2 * kStride + pair % kStride;
      const __m512 a_f32x16 = x_f32x16[low];
      const __m512 b_f32x16 = x_f32x16[low + kStride];
      x_f32x16[low] = _mm512_add_ps(a_f32x16, b_f32x16);
      x_f32x16[low + kStride] = _mm512_sub_ps(a_f32x16, b_f32x16);
    }
    register_butterflies<kRegisters, 2 * kStride>(x_f32x16);
  }
}

// Blocks of 1..8 values: several per register, so only lane butterflies.
template <int kLog2>
RRS_TARGET_AVX512 inline void hadamard_lanes(float* x, std::int64_t n_blocks,
                                             float scale) noexcept {
  const __m512 scale_f32x16 = _mm512_set1_ps(scale);
  const std::int64_t n = n_blocks << kLog2;
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 x_f32x16 = lane_butterflies<0, kLog2>(_mm512_loadu_ps(x + i));
    _mm512_storeu_ps(x + i, _mm512_mul_ps(x_f32x16, scale_f32x16));
  }
  if (i == n) return;
  const __mmask16 mask = rotate_tail_mask(n - i);
  const __m512 x_f32x16 = lane_butterflies<0, kLog2>(_mm512_maskz_loadu_ps(mask, x + i));
  _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(x_f32x16, scale_f32x16));
}

// Blocks of 16..256 values, each wholly in registers.
template <int kLog2, bool kScale = true>
RRS_TARGET_AVX512 inline void hadamard_block(float* x, std::int64_t n_blocks,
                                             float scale) noexcept {
  constexpr int kRegisters = 1 << (kLog2 - 4);
  const __m512 scale_f32x16 = _mm512_set1_ps(scale);
  for (std::int64_t b = 0; b < n_blocks; ++b, x += 16 * kRegisters) {
    __m512 x_f32x16[std::size_t{kRegisters}];
#pragma GCC unroll 16
    for (int r = 0; r < kRegisters; ++r) {
      x_f32x16[r] = lane_butterflies<1, 4>(load_butterflies(x + 16 * r));
    }
    register_butterflies<kRegisters, 1>(x_f32x16);
#pragma GCC unroll 16
    for (int r = 0; r < kRegisters; ++r) {
      if constexpr (kScale) x_f32x16[r] = _mm512_mul_ps(x_f32x16[r], scale_f32x16);
      _mm512_storeu_ps(x + 16 * r, x_f32x16[r]);
    }
  }
}

// kStages strides at once, starting with `stride` (>= 16), over segments of 2^kStages strides.
template <int kStages, bool kScale>
RRS_TARGET_AVX512 inline void hadamard_pass(float* x, std::int64_t n, std::int64_t stride,
                                            float scale) noexcept {
  constexpr int kRegisters = 1 << kStages;
  const __m512 scale_f32x16 = _mm512_set1_ps(scale);
  for (std::int64_t segment = 0; segment < n; segment += stride * kRegisters) {
    for (std::int64_t i = segment; i < segment + stride; i += 16) {
      __m512 x_f32x16[std::size_t{kRegisters}];
#pragma GCC unroll 16
      for (int r = 0; r < kRegisters; ++r) x_f32x16[r] = _mm512_loadu_ps(x + i + r * stride);
      register_butterflies<kRegisters, 1>(x_f32x16);
#pragma GCC unroll 16
      for (int r = 0; r < kRegisters; ++r) {
        if constexpr (kScale) x_f32x16[r] = _mm512_mul_ps(x_f32x16[r], scale_f32x16);
        _mm512_storeu_ps(x + i + r * stride, x_f32x16[r]);
      }
    }
  }
}

template <bool kScale>
RRS_TARGET_AVX512 inline void hadamard_pass(int stages, float* x, std::int64_t n,
                                            std::int64_t stride, float scale) noexcept {
  switch (stages) {
    case 1: return hadamard_pass<1, kScale>(x, n, stride, scale);
    case 2: return hadamard_pass<2, kScale>(x, n, stride, scale);
    case 3: return hadamard_pass<3, kScale>(x, n, stride, scale);
    default: return hadamard_pass<4, kScale>(x, n, stride, scale);
  }
}

// Strides 2^from .. 2^(to - 1) of n values in as few passes as possible, at most 4 stages each.
RRS_TARGET_AVX512 inline void hadamard_passes(float* x, std::int64_t n, int from, int to, bool last,
                                              float scale) noexcept {
  while (from < to) {
    const int passes = (to - from + 3) / 4;
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

// Blocks above 256. Chunks of 4096 (16 KiB) are finished while they are in L1; strides beyond that
// stream. Each value sees its strides in ascending order either way.
RRS_TARGET_AVX512 inline void hadamard_large(float* x, int log2, float scale) noexcept {
  constexpr int kChunkLog2 = 12;
  const int chunk_log2 = log2 < kChunkLog2 ? log2 : kChunkLog2;
  const std::int64_t n = std::int64_t{1} << log2;
  const std::int64_t chunk = std::int64_t{1} << chunk_log2;
  for (std::int64_t i = 0; i < n; i += chunk) {
    hadamard_block<8, false>(x + i, chunk / 256, 1.0f);
    hadamard_passes(x + i, chunk, 8, chunk_log2, chunk_log2 == log2, scale);
  }
  hadamard_passes(x, n, chunk_log2, log2, true, scale);
}

RRS_TARGET_AVX512 inline void hadamard(float* x, std::int64_t n_blocks, int log2_block,
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
    case 8: return hadamard_block<8>(x, n_blocks, scale);
    default: break;
  }
  for (std::int64_t b = 0; b < n_blocks; ++b) {
    hadamard_large(x + (b << log2_block), log2_block, scale);
  }
}

// One input row: the first one starts the sums.
template <int kRows, int kVectors, bool kFirst>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void mix_step(
    const float* in, const float* coefficients, std::int64_t order, __mmask16 mask,
    __m512 (*sum_f32x16)[std::size_t{kVectors}]) noexcept {
  __m512 in_f32x16[std::size_t{kVectors}];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors - 1; ++v) in_f32x16[v] = _mm512_loadu_ps(in + 16 * v);
  in_f32x16[kVectors - 1] = _mm512_maskz_loadu_ps(mask, in + 16 * (kVectors - 1));
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const __m512 c_f32x16 = _mm512_set1_ps(coefficients[i * order]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (kFirst) {
        sum_f32x16[i][v] = _mm512_mul_ps(c_f32x16, in_f32x16[v]);
      } else {
        sum_f32x16[i][v] = _mm512_fmadd_ps(c_f32x16, in_f32x16[v], sum_f32x16[i][v]);
      }
    }
  }
}

// kRows outputs x kVectors vectors of columns, the last vector masked.
template <int kRows, int kVectors>
RRS_TARGET_AVX512 inline void mix_tile(const float* in, float* out, std::int64_t columns,
                                       const float* coefficients, int order, float scale,
                                       __mmask16 mask) noexcept {
  __m512 sum_f32x16[std::size_t{kRows}][std::size_t{kVectors}];
  mix_step<kRows, kVectors, true>(in, coefficients, order, mask, sum_f32x16);
  for (int j = 1; j < order; ++j) {
    mix_step<kRows, kVectors, false>(in + j * columns, coefficients + j, order, mask, sum_f32x16);
  }
  const __m512 scale_f32x16 = _mm512_set1_ps(scale);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i, out += columns) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors - 1; ++v) {
      _mm512_storeu_ps(out + 16 * v, _mm512_mul_ps(sum_f32x16[i][v], scale_f32x16));
    }
    _mm512_mask_storeu_ps(out + 16 * (kVectors - 1), mask,
                          _mm512_mul_ps(sum_f32x16[i][kVectors - 1], scale_f32x16));
  }
}

// All outputs of one tile of columns. Four or eight at a time: Paley orders are multiples of four.
template <int kVectors>
// NOLINTNEXTLINE(readability-function-size): mix, for one mask
RRS_TARGET_AVX512 inline void mix_columns(const float* in, float* out, std::int64_t columns,
                                          const float* coefficients, int outputs, int order,
                                          float scale, __mmask16 mask) noexcept {
  int i = 0;
  // Four would be 8 chains, which just cover the latency: n = 11008 took 1.07 to 1.11 times as
  // long.
  if constexpr (kVectors <= 2) {
    for (; i + 8 <= outputs; i += 8) {
      mix_tile<8, kVectors>(in, out + i * columns, columns, coefficients + std::int64_t{i} * order,
                            order, scale, mask);
    }
  }
  for (; i + 4 <= outputs; i += 4) {
    mix_tile<4, kVectors>(in, out + i * columns, columns, coefficients + std::int64_t{i} * order,
                          order, scale, mask);
  }
  for (; i < outputs; ++i) {
    mix_tile<1, kVectors>(in, out + i * columns, columns, coefficients + std::int64_t{i} * order,
                          order, scale, mask);
  }
}

RRS_TARGET_AVX512 inline void mix(const float* in, float* out, std::int64_t columns,
                                  const float* coefficients, int outputs, int order,
                                  float scale) noexcept {
  for (std::int64_t c = 0; c < columns; c += 64, in += 64, out += 64) {
    const std::int64_t rest = columns - c < 64 ? columns - c : 64;
    const std::int64_t vectors = (rest + 15) / 16;
    const __mmask16 mask = rotate_tail_mask(rest - 16 * (vectors - 1));
    switch (vectors) {
      case 1: mix_columns<1>(in, out, columns, coefficients, outputs, order, scale, mask); break;
      case 2: mix_columns<2>(in, out, columns, coefficients, outputs, order, scale, mask); break;
      case 3: mix_columns<3>(in, out, columns, coefficients, outputs, order, scale, mask); break;
      default: mix_columns<4>(in, out, columns, coefficients, outputs, order, scale, mask); break;
    }
  }
}

RRS_ISA_WARNINGS_POP

constexpr RotateKernels rotate_kernels(RotateKernels) noexcept {
  return RotateKernels{&f16_to_f32, &bf16_to_f32, &hadamard, &mix};
}

}  // namespace avx512
RRS_FUNCTIONS_END
#endif  // RRS_X86_64
