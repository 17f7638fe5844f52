// AVX2 tiles for float activations: W4A16 and W8A16, up to 48 rows x 16 outputs per panel.
//
// formula and written order: gemm.hpp (one FMA chain per group, times v at its end).
//   vfmadd231ps   ports 0 1: at most 16 MAC/cycle    vbroadcastss ymm, m32   load only
// Registers: 6 rows x 2 vectors = 12 sums, 2 weights, 1 broadcast. Weights become floats once per
// tile and chunk of 128 inputs (8 KB of L1): 3.4 uops per 8 weights, shared by all rows of the
// tile. Code to float: u | bits of 2^23 is the float 2^23 + u; minus (2^23 + zero) is exact. With
// the code s bits higher, 2^(23 - s) does the same without a shift. Up to 5 rows use weights in the
// registers in which they became floats (stream_rows); 1 and 2 rows 2 panels at a time, so that 4
// chains of fused multiply-adds and more are in flight. One row of W4: 70 uops on three ports per
// 64 bytes, 23 cycles. Through L1 4 and 5 rows took 1.30 (g++) and 1.14 to 1.18 (clang++) times as
// long, 6 rows 1.14 with g++ but 0.7 to 0.99 with clang++, which spills (Granite Rapids). Offsets
// (zero points) take the way through L1.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_a16_codes.hpp"
#include "rrs/gemm/avx2_integer.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx2 {

inline constexpr int kFloatRows = 6;
inline constexpr int kFloatTileRows = 48;  // not searched
inline constexpr int kFloatPanels = 4;
inline constexpr int kFloatChunk = 128;
inline constexpr int kFloatStreamAhead = 4096;
inline constexpr int kFloatStreamRows = 5;

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

// The inputs of a block to out[input * 16]; with offsets as fma(u, v, offset), else minus the zero.
template <int kWeightBits, bool kOffsets, int... kInputs>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void store_codes(__m256i w, const float* v, const float* offsets,
                                                  float* out,
                                                  std::integer_sequence<int, kInputs...>) noexcept {
  if constexpr (kOffsets) {
    (_mm256_store_ps(out + kInputs * 16,
                     _mm256_fmadd_ps(input_codes<kWeightBits, kInputs, 0>(w), _mm256_loadu_ps(v),
                                     _mm256_loadu_ps(offsets))),
     ...);
  } else {
    constexpr int kZero = 1 << (kWeightBits - 1);
    (_mm256_store_ps(out + kInputs * 16, input_codes<kWeightBits, kInputs, kZero>(w)), ...);
  }
}

// inputs of one group [first, first + inputs), multiples of 4 (W8) or 8 (W4), to [inputs][16].
template <int kWeightBits, bool kOffsets>
RRS_TARGET_AVX2 inline void dequantize(const std::uint8_t* in, std::int64_t inputs, const float* v,
                                       const float* offsets, float* out) noexcept {
  constexpr int kInputs = 32 / kWeightBits;
  constexpr std::make_integer_sequence<int, kInputs> kAll{};
  for (std::int64_t k = 0; k < inputs; k += kInputs, in += 64, out += kInputs * 16) {
    _mm_prefetch(reinterpret_cast<const char*>(in) + kFloatStreamAhead, _MM_HINT_T0);
    for (int half = 0; half < 16; half += 8) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 4 * half));
      store_codes<kWeightBits, kOffsets>(w, v + half, kOffsets ? offsets + half : nullptr,
                                         out + half, kAll);
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
  const std::uint8_t* in = a.weights + panel * a.panel_bytes + first * 2 * kWeightBits;
  if (offsets == nullptr) {
    dequantize<kWeightBits, false>(in, run.inputs, v, nullptr, weights);
  } else {
    dequantize<kWeightBits, true>(in, run.inputs, v, offsets, weights);
  }
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

// acc += a * b, one after the other and each in the register of its sum: Clang 14 else takes those
// of factors for the sums, ends each block with moves, and mixes the chains of a line.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void add_product(__m256& acc, __m256 a, __m256 b) noexcept {
  __asm__ volatile("{vfmadd231ps %2, %1, %0|vfmadd231ps %0, %1, %2}" : "+x"(acc) : "x"(a), "x"(b));
}

// part += codes * x for one input.
template <unsigned R>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void add_input(__m256 code_f32x8, const float* x,
                                                __m256 (&part)[R]) noexcept {
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    add_product(part[r], _mm256_broadcast_ss(x + r), code_f32x8);
  }
}

// 32 bytes of a block (8 outputs) against its inputs.
template <int kWeightBits, unsigned R, int... kInputs>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void add_block(const std::uint8_t* in, const float* x,
                                                __m256 (&part)[R],
                                                std::integer_sequence<int, kInputs...>) noexcept {
  // GCC 12 else keeps what it broadcasts for the next block, on the stack.
  __asm__ volatile("" : "+r"(x));
  constexpr int kZero = 1 << (kWeightBits - 1);
  const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  (add_input(stream_codes<kWeightBits, R, kInputs, kZero>(w), x + kInputs * static_cast<int>(R),
             part),
   ...);
}

// R rows (all of the tile) x P panels over all of K; no offsets.
template <int kWeightBits, unsigned R, unsigned P>
RRS_TARGET_AVX2 void stream_rows(const GemmTileArgs& a, int panel) noexcept {
  constexpr int kInputs = 32 / kWeightBits;
  constexpr std::make_integer_sequence<int, kInputs> kAll{};
  alignas(32) float sums[P * 2][R][8] = {};
  const std::int64_t group = a.inner_group == kRowGroup ? a.k_padded : a.inner_group;
  const std::uint8_t* weights = a.weights + panel * a.panel_bytes;
  const f16* v = a.weight_scales + panel * a.panel_scales;
  const auto* x = static_cast<const float*>(a.activations);
  for (std::int64_t first = 0; first < a.k_padded; first += group, v += kPanelOutputs) {
    const std::int64_t end = (std::min)(first + group, a.k_padded);
    __m256 part_f32x8[P * 2][R];
    RRS_UNROLL_FULL
    for (unsigned i = 0; i < P * 2 * R; ++i) part_f32x8[i / R][i % R] = _mm256_setzero_ps();
    for (std::int64_t k = first; k < end; k += kInputs, weights += 64, x += kInputs * R) {
      RRS_UNROLL_FULL
      for (unsigned p = 0; p < P; ++p) {
        const std::uint8_t* at = weights + p * a.panel_bytes;
        _mm_prefetch(reinterpret_cast<const char*>(at) + kFloatStreamAhead, _MM_HINT_T0);
        add_block<kWeightBits>(at, x, part_f32x8[2 * p], kAll);
        add_block<kWeightBits>(at + 32, x, part_f32x8[2 * p + 1], kAll);
      }
    }
    RRS_UNROLL_FULL
    for (unsigned i = 0; i < P * 2; ++i) {
      const auto* f16x8 = reinterpret_cast<const __m128i*>(v + i / 2 * a.panel_scales + i % 2 * 8);
      const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(f16x8));
      RRS_UNROLL_FULL
      for (unsigned r = 0; r < R; ++r) {
        const __m256 sum_f32x8 = _mm256_load_ps(sums[i][r]);
        _mm256_store_ps(sums[i][r], _mm256_fmadd_ps(part_f32x8[i][r], v_f32x8, sum_f32x8));
      }
    }
  }
  for (unsigned row = 0; row < R; ++row) {
    float* out = a.out + (std::int64_t{row} * a.panels + panel) * kPanelOutputs;
    for (unsigned i = 0; i < P * 2; ++i) {
      _mm256_storeu_ps(out + i * 8, _mm256_load_ps(sums[i][row]));
    }
  }
}

using GemmStream = void (*)(const GemmTileArgs& args, int panel) noexcept;
template <int kWeightBits>
inline constexpr GemmStream kStreams[2][kFloatStreamRows] = {
    {&stream_rows<kWeightBits, 1, 1>, &stream_rows<kWeightBits, 2, 1>,
     &stream_rows<kWeightBits, 3, 1>, &stream_rows<kWeightBits, 4, 1>,
     &stream_rows<kWeightBits, 5, 1>},
    {&stream_rows<kWeightBits, 1, 2>, &stream_rows<kWeightBits, 2, 2>}};

template <int kWeightBits>
RRS_TARGET_AVX2 inline void stream_tile(const GemmTileArgs& a) noexcept {
  const int step = a.rows <= 2 ? 2 : 1;
  for (int panel = 0; panel < a.panels; panel += step) {
    const int panels = (std::min)(step, a.panels - panel);
    kStreams<kWeightBits>[panels - 1][a.rows - 1](a, panel);
  }
}

template <int kWeightBits>
RRS_TARGET_AVX2 void float_tile(const GemmTileArgs& a) noexcept {
  if (a.rows <= kFloatStreamRows && a.weight_offsets == nullptr) return stream_tile<kWeightBits>(a);
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
