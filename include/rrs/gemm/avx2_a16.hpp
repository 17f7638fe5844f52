// AVX2 tiles for float activations: W4A16 and W8A16, up to 48 rows x 16 outputs per panel.
//
// formula and written order: gemm.hpp (one FMA chain per group, times v at its end).
//   vfmadd231ps   ports 0 1: at most 16 MAC/cycle    vbroadcastss ymm, m32   load only
// Registers: 6 rows x 2 vectors = 12 sums, 2 weights, 1 broadcast. Weights become floats once per
// tile and chunk of 128 inputs (8 KB of L1): 4 uops per 8 weights, shared by all rows of the tile.
// Code to float: u | bits of 2^23 is the float 2^23 + u; minus (2^23 + zero) is exact.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_integer.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx2 {

inline constexpr int kFloatRows = 6;
inline constexpr int kFloatTileRows = 48;
inline constexpr int kFloatPanels = 4;
inline constexpr int kFloatChunk = 128;
inline constexpr int kStreamPrefetch = 4096;

// One run of inputs inside one group, for one sub-tile and panel.
struct FloatRun {
  const float* weights;  // [inputs][16]
  const float* x;        // [inputs][tile rows], first row of the sub-tile
  std::int64_t x_stride;
  std::int64_t inputs;
  float* part;     // [rows][16]: the chain of the group
  float* out;      // [rows][16]
  const float* v;  // [16], or null: acc + part
  bool first;      // of its group
  bool last;
};
using FloatFunction = void (*)(const FloatRun& run) noexcept;

}  // namespace avx2

RRS_FUNCTIONS_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

template <int... I>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void fma_rows(__m256* sum_f32x8, const float* w, const float* x,
                                               std::integer_sequence<int, I...>) noexcept {
  const __m256 w0_f32x8 = _mm256_load_ps(w);
  const __m256 w1_f32x8 = _mm256_load_ps(w + 8);
  ((sum_f32x8[2 * I] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + I), w0_f32x8, sum_f32x8[2 * I]),
    sum_f32x8[2 * I + 1] =
        _mm256_fmadd_ps(_mm256_broadcast_ss(x + I), w1_f32x8, sum_f32x8[2 * I + 1])),
   ...);
}

template <int... I>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void load_part(__m256* sum_f32x8, const float* part,
                                                std::integer_sequence<int, I...>) noexcept {
  ((sum_f32x8[I] = part == nullptr ? _mm256_setzero_ps() : _mm256_load_ps(part + 8 * I)), ...);
}

template <int... I>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void store_part(const __m256* sum_f32x8, const FloatRun& run,
                                                 std::integer_sequence<int, I...>) noexcept {
  if (!run.last) {
    (_mm256_store_ps(run.part + 8 * I, sum_f32x8[I]), ...);
  } else if (run.v == nullptr) {
    (_mm256_store_ps(run.out + 8 * I, _mm256_add_ps(_mm256_load_ps(run.out + 8 * I), sum_f32x8[I])),
     ...);
  } else {
    const __m256 v0_f32x8 = _mm256_loadu_ps(run.v);
    const __m256 v1_f32x8 = _mm256_loadu_ps(run.v + 8);
    (_mm256_store_ps(run.out + 8 * I,
                     _mm256_fmadd_ps(sum_f32x8[I], I % 2 == 0 ? v0_f32x8 : v1_f32x8,
                                     _mm256_load_ps(run.out + 8 * I))),
     ...);
  }
}

template <int R>
RRS_TARGET_AVX2 void float_run(const FloatRun& run) noexcept {
  constexpr std::make_integer_sequence<int, R> kRows{};
  constexpr std::make_integer_sequence<int, 2 * R> kVectors{};
  constexpr std::size_t kSums = 2 * R;
  __m256 sum_f32x8[kSums];
  load_part(sum_f32x8, run.first ? nullptr : run.part, kVectors);
  const float* x = run.x;
  const float* w = run.weights;
  for (std::int64_t k = 0; k < run.inputs; ++k, x += run.x_stride, w += 16) {
    fma_rows(sum_f32x8, w, x, kRows);
  }
  store_part(sum_f32x8, run, kVectors);
}

struct FloatFunctions {
  FloatFunction rows[kFloatRows + 1];
};
inline constexpr FloatFunctions kFloatFunctions = {{nullptr, &float_run<1>, &float_run<2>,
                                                    &float_run<3>, &float_run<4>, &float_run<5>,
                                                    &float_run<6>}};

// 8 codes (low bits of each lane, shifted by `shift` and masked) to exact floats.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 codes_to_float(__m256i w, int shift, int mask,
                                                       __m256 zero_f32x8) noexcept {
  const __m256i u_i32x8 =
      _mm256_and_si256(_mm256_srl_epi32(w, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32(mask));
  const __m256i bits_i32x8 = _mm256_or_si256(u_i32x8, _mm256_set1_epi32(0x4b000000));
  return _mm256_sub_ps(_mm256_castsi256_ps(bits_i32x8), zero_f32x8);
}

// inputs of one group [first, first + inputs), multiples of 4 (W8) or 8 (W4), to [inputs][16]. With
// offsets w = fma(u, v, offset), without the code itself.
template <int kWeightBits>
RRS_TARGET_AVX2 inline void dequantize(const std::uint8_t* in, std::int64_t inputs, const float* v,
                                       const float* offsets, float* out) noexcept {
  constexpr int kInputs = kWeightBits == 4 ? 8 : 4;
  constexpr int kMask = kWeightBits == 4 ? 15 : 255;
  const float zero = offsets != nullptr ? 0.0f : kWeightBits == 4 ? 8.0f : 128.0f;
  const __m256 zero_f32x8 = _mm256_set1_ps(8388608.0f + zero);
  for (std::int64_t k = 0; k < inputs; k += kInputs, in += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(in) + kStreamPrefetch, _MM_HINT_T0);
    for (int half = 0; half < 2; ++half) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 32 * half));
      for (int j = 0; j < kInputs; ++j) {
        const int shift = kWeightBits == 4 ? j % 4 * 8 + j / 4 * 4 : j * 8;
        __m256 w_f32x8 = codes_to_float(w, shift, kMask, zero_f32x8);
        if (offsets != nullptr) {
          w_f32x8 = _mm256_fmadd_ps(w_f32x8, _mm256_loadu_ps(v + 8 * half),
                                    _mm256_loadu_ps(offsets + 8 * half));
        }
        _mm256_store_ps(out + (k + j) * 16 + 8 * half, w_f32x8);
      }
    }
  }
}

// One panel, inputs [first, first + inputs) of group g: weights to floats, then all sub-tiles.
template <int kWeightBits>
RRS_TARGET_AVX2 inline void float_chunk(const GemmTileArgs& a, int panel, std::int64_t g,
                                        FloatRun run, std::int64_t first, float* out,
                                        float* part) noexcept {
  alignas(64) float weights[kFloatChunk * 16];
  alignas(64) float v[16];
  const std::int64_t scales = panel * a.panel_scales + g * kPanelOutputs;
  for (int half = 0; half < 16; half += 8) {
    const auto* f16x8 = reinterpret_cast<const __m128i*>(a.weight_scales + scales + half);
    _mm256_store_ps(v + half, _mm256_cvtph_ps(_mm_loadu_si128(f16x8)));
  }
  const float* offsets = a.weight_offsets == nullptr ? nullptr : a.weight_offsets + scales;
  dequantize<kWeightBits>(a.weights + panel * a.panel_bytes + first * 2 * kWeightBits, run.inputs,
                          v, offsets, weights);
  const RowTiles sub = make_row_tiles(a.rows, kFloatRows);
  run.weights = weights;
  run.v = offsets == nullptr ? v : nullptr;
  run.x_stride = a.rows;
  for (std::int64_t t = 0; t < sub.tiles; ++t) {
    const std::int64_t row = sub.first_row(t);
    run.x = static_cast<const float*>(a.activations) + first * a.rows + row;
    run.out = out + row * 16;
    run.part = part + row * 16;
    kFloatFunctions.rows[sub.rows_in(t)](run);
  }
}

template <int kWeightBits>
RRS_TARGET_AVX2 void float_tile(const GemmTileArgs& a) noexcept {
  alignas(64) float out[kFloatPanels * kFloatTileRows * 16];
  alignas(64) float part[kFloatPanels * kFloatTileRows * 16];
  const std::int64_t group = a.inner_group == kRowGroup ? a.k_padded : a.inner_group;
  const std::int64_t panel_floats = std::int64_t{a.rows} * 16;
  for (std::int64_t i = 0; i < a.panels * panel_floats; ++i) out[i] = 0.0f;
  for (std::int64_t g = 0; g < a.inner_groups; ++g) {
    const std::int64_t first = g * group;
    const std::int64_t last = (std::min)(first + group, a.k_padded);
    FloatRun run{};
    for (std::int64_t k = first; k < last; k += run.inputs) {
      run.inputs = (std::min)(std::int64_t{kFloatChunk}, last - k);
      run.first = k == first;
      run.last = k + run.inputs == last;
      for (int panel = 0; panel < a.panels; ++panel) {  // share the chunk of x in L1
        float_chunk<kWeightBits>(a, panel, g, run, k, out + panel * panel_floats,
                                 part + panel * panel_floats);
      }
    }
  }
  write_tile(a, out);
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
