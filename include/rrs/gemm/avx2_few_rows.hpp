// AVX2 tiles of 1 or 2 rows for integer activations: weights stream through registers once.
//
// formula and written order: gemm.hpp.  from: pack/.  to: avx2_integer.hpp (taller tiles).
//   per 64 bytes of W4 and row: 2 broadcasts, 4 vpmaddubsw, 4 vpaddw; unpacking 6 uops for all rows
//   per 64 bytes of W8 and row: 1 broadcast, 3 shifts, 4 vpmaddwd, 4 vpaddd; unpacking 4
// One row of W4: 14 uops on three ports = 4.7 cycles per 64 bytes (measured 9; unpacking to L1
// first, as taller tiles do, took 12.8). One panel stream, prefetched kStreamPrefetch bytes ahead.
// Registers (R = 2): 4 int16 sums, 4 int32, 4 float, 2 weights, 1 product, mask. Three and four
// rows spill and were slower (16.7, 17.1 MAC/cycle at group 128) than unpacking first (18.1, 21.0).
// Measured, N = K = 4096 from L2 and L3, MAC/cycle at group 128 / 32: M = 1 14.2 / 13.3, M = 2 23.0
// / 16.4 (unpacking first: 10 and 14.1 / 12.3). Sums: int16 for W4 (bounds in avx2_dot.hpp), moved
// to int32 after kPartBlocks blocks of 8 inputs. W8 uses the raw u8: the start value's bias -128 *
// code_sum brings the int32 sum back into range.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_dot.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

inline constexpr int kFewRows = 2;
inline constexpr int kStreamPrefetch = 4096;

RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i broadcast_codes(const std::int8_t* codes) noexcept {
  std::int32_t four;
  std::memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

// Adds one block of W4 to int16 sums [R][2 halves].
template <int R, std::size_t kSums>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void few_block_w4(__m256i (&sum)[kSums], const std::uint8_t* w,
                                                   const std::int8_t* codes) noexcept {
  const __m256i nibble_u8x32 = _mm256_set1_epi8(15);
  for (int half = 0; half < 2; ++half) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * half));
    const __m256i low_u8x32 = _mm256_and_si256(raw, nibble_u8x32);
    const __m256i high_u8x32 = _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble_u8x32);
    for (int r = 0; r < R; ++r) {
      __m256i& to = sum[static_cast<std::size_t>(2 * r + half)];
      to = _mm256_add_epi16(to, _mm256_maddubs_epi16(low_u8x32, broadcast_codes(codes + 4 * r)));
      to = _mm256_add_epi16(
          to, _mm256_maddubs_epi16(high_u8x32, broadcast_codes(codes + 4 * R + 4 * r)));
    }
  }
}

// Adds one block of W8 to int32 sums.
template <int R, std::size_t kSums>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void few_block_w8(__m256i (&sum)[kSums], const std::uint8_t* w,
                                                   const std::int8_t* codes) noexcept {
  const __m256i byte_u16x16 = _mm256_set1_epi16(255);
  for (int r = 0; r < R; ++r) {
    const __m256i q = broadcast_codes(codes + 4 * r);
    const __m256i even_i16x16 = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8);
    const __m256i odd_i16x16 = _mm256_srai_epi16(q, 8);
    for (int half = 0; half < 2; ++half) {
      const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * half));
      __m256i& to = sum[static_cast<std::size_t>(2 * r + half)];
      to = _mm256_add_epi32(to, _mm256_madd_epi16(_mm256_and_si256(raw, byte_u16x16), even_i16x16));
      to = _mm256_add_epi32(to, _mm256_madd_epi16(_mm256_srli_epi16(raw, 8), odd_i16x16));
    }
  }
}

// Sums of `blocks` blocks, widened to int32 and added to total.
template <int R, int kWeightBits, std::size_t kSums>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void few_part(__m256i (&total_i32x8)[kSums], const std::uint8_t* w,
                                               const std::int8_t* codes,
                                               std::int64_t blocks) noexcept {
  if (kWeightBits == 8) {
    for (std::int64_t b = 0; b < blocks; ++b, w += 64, codes += 4 * R) {
      _mm_prefetch(reinterpret_cast<const char*>(w) + kStreamPrefetch, _MM_HINT_T0);
      few_block_w8<R>(total_i32x8, w, codes);
    }
    return;
  }
  __m256i sum_i16x16[kSums];
  for (std::size_t i = 0; i < kSums; ++i) sum_i16x16[i] = _mm256_setzero_si256();
  for (std::int64_t b = 0; b < blocks; ++b, w += 64, codes += 8 * R) {
    _mm_prefetch(reinterpret_cast<const char*>(w) + kStreamPrefetch, _MM_HINT_T0);
    few_block_w4<R>(sum_i16x16, w, codes);
  }
  const __m256i ones_i16x16 = _mm256_set1_epi16(1);
  for (std::size_t i = 0; i < kSums; ++i) {
    total_i32x8[i] =
        _mm256_add_epi32(total_i32x8[i], _mm256_madd_epi16(sum_i16x16[i], ones_i16x16));
  }
}

// One panel, all groups. Only sums within 2^22 (no row groups) and no offsets: see avx2_dot.hpp.
template <int R, int kWeightBits, int kPartBlocks>
RRS_TARGET_AVX2 void few_rows(const GemmTileArgs& a, int panel) noexcept {
  constexpr std::size_t kSums = 2 * R;
  constexpr int kInputs = kWeightBits == 4 ? 8 : 4;
  constexpr int kBias = kWeightBits == 4 ? 8 : 128;
  const std::int64_t per_group = a.inner_group / kInputs;
  const std::uint8_t* w = a.weights + panel * a.panel_bytes;
  const f16* scales = a.weight_scales + panel * a.panel_scales;
  const auto* codes = static_cast<const std::int8_t*>(a.activations);
  std::int64_t left = a.k_padded / kInputs;
  __m256 out_f32x8[kSums];
  for (std::size_t i = 0; i < kSums; ++i) out_f32x8[i] = _mm256_setzero_ps();
  for (std::int64_t g = 0; g < a.inner_groups; ++g) {
    const std::int64_t blocks = (std::min)(per_group, left);
    left -= blocks;
    __m256i total_i32x8[kSums];
    for (int r = 0; r < R; ++r) {
      const __m256i start_i32x8 = _mm256_set1_epi32(kMagicBits - kBias * a.code_sums[g * R + r]);
      total_i32x8[static_cast<std::size_t>(2 * r)] = start_i32x8;
      total_i32x8[static_cast<std::size_t>(2 * r + 1)] = start_i32x8;
    }
    for (std::int64_t done = 0; done < blocks; done += kPartBlocks) {
      const std::int64_t part = (std::min)(std::int64_t{kPartBlocks}, blocks - done);
      few_part<R, kWeightBits>(total_i32x8, w, codes, part);
      w += part * 64;
      codes += part * kInputs * R;
    }
    const std::int64_t wg = a.inner_per_weight == 1 ? g : g / a.inner_per_weight;
    const std::int64_t ag = a.inner_per_activation == 1 ? g : g / a.inner_per_activation;
    for (int half = 0; half < 2; ++half) {
      const auto* f16x8 = reinterpret_cast<const __m128i*>(scales + wg * kPanelOutputs + half * 8);
      const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(f16x8));
      const __m256 c_f32x8 = _mm256_mul_ps(v_f32x8, _mm256_set1_ps(-12582912.0f));
      for (int r = 0; r < R; ++r) {
        const auto i = static_cast<std::size_t>(2 * r + half);
        const __m256 f_f32x8 = _mm256_castsi256_ps(total_i32x8[i]);
        const __m256 tmp_f32x8 = _mm256_fmadd_ps(f_f32x8, v_f32x8, c_f32x8);
        const __m256 s_f32x8 = _mm256_set1_ps(a.activation_scales[ag * R + r]);
        out_f32x8[i] = _mm256_fmadd_ps(tmp_f32x8, s_f32x8, out_f32x8[i]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    float* to = a.out + (r * a.panels + panel) * kPanelOutputs;
    _mm256_storeu_ps(to, out_f32x8[static_cast<std::size_t>(2 * r)]);
    _mm256_storeu_ps(to + 8, out_f32x8[static_cast<std::size_t>(2 * r + 1)]);
  }
}

// True when it did the tile.
template <int kWeightBits, int kPartBlocks>
inline bool few_rows_tile(const GemmTileArgs& a) noexcept {
  if (a.rows > kFewRows || a.inner_group == kRowGroup || a.weight_offsets != nullptr) return false;
  for (int panel = 0; panel < a.panels; ++panel) {
    if (a.rows == 1) {
      few_rows<1, kWeightBits, kPartBlocks>(a, panel);
    } else {
      few_rows<2, kWeightBits, kPartBlocks>(a, panel);
    }
  }
  return true;
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
