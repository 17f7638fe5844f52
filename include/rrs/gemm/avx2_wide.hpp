// AVX2, integer activations: what a run of whole groups needs, for sub-tiles of 6 rows x 16
// outputs.
//
// formula and written order: gemm.hpp.  from: avx2_integer.hpp (unpacked weights),
// avx2_few_rows.hpp (stored weights).  to: avx2_chunk.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx2_chunk.hpp"
#include "rrs/gemm/avx2_dot.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx2 {

inline constexpr int kMaxWideRows = 60;  // of a tile

// Cache lines that are fetched while the sub-tiles of a chunk run, evenly spread over them.
struct WideFetch {
  const void* from = nullptr;
  std::int64_t lines = 0;
  std::int64_t done = 0;
};

// Whole groups of one chunk, for all rows of the tile; or parts of a row group (`carry`), whose
// int32 sums are added to `out` and finished after the last chunk (finish_row_groups).
struct WideChunk {
  std::int64_t blocks;  // of a group
  std::int64_t groups;  // 0: none, all goes the general way
  std::int64_t part_blocks;
  const std::int32_t* start;  // [groups][tile rows]
  const float* s;             // [groups][tile rows]
  const void* v;              // see WideArgs
  WideFetch weights;          // that are unpacked next
  WideFetch codes;            // a share of the next chunk's
  bool carry = false;         // then start, s and v are not read
};
using WideFunction = void (*)(const WideArgs& args) noexcept;

}  // namespace avx2

RRS_FUNCTIONS_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

template <int kWeightBits>
RRS_FORCE_INLINE std::int64_t group_blocks(const GemmTileArgs& a) noexcept {
  constexpr int kInputs = kWeightBits == 4 ? 8 : 4;
  return a.inner_group == kRowGroup ? a.k_padded / kInputs : a.inner_group / kInputs;
}

// Sums beyond 2^22 do not fit the float trick: row groups, and W8 with the raw code.
template <int kWeightBits>
RRS_FORCE_INLINE bool wide_sums(const GemmTileArgs& a) noexcept {
  return a.inner_group == kRowGroup || (kWeightBits == 8 && a.weight_offsets != nullptr);
}

// g / per without a division in the usual case. With four divisions per group and half, the loop
// below lost 2 % at group 128 and 9 % at group 32.
RRS_FORCE_INLINE std::int64_t outer_group(std::int64_t g, std::int64_t per) noexcept {
  return per == 1 ? g : g / per;
}

// Codes of one chunk to int16: per 4 inputs, rows x (k0, k2), then rows x (k1, k3).
RRS_TARGET_AVX2 inline void widen_codes(const std::int8_t* in, std::int64_t blocks, int rows,
                                        std::int8_t* out) noexcept {
  const std::int64_t stride = std::int64_t{rows} * 4;
  for (std::int64_t b = 0; b < blocks; ++b, in += stride, out += 2 * stride) {
    std::int64_t i = 0;
    for (; i + 32 <= stride; i += 32) {
      const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                          _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + stride + i), _mm256_srai_epi16(q, 8));
    }
    for (; i < stride; i += 4) {
      const __m128i q = _mm_loadu_si32(in + i);
      _mm_storeu_si32(out + i, _mm_srai_epi16(_mm_slli_epi16(q, 8), 8));
      _mm_storeu_si32(out + stride + i, _mm_srai_epi16(q, 8));
    }
  }
}

// Start values of the groups that begin in the chunk: the float trick's magic number, and the bias.
// With offsets the raw code is meant.
template <int kWeightBits>
RRS_TARGET_AVX2 inline void chunk_start(const GemmTileArgs& a, std::int64_t first_group,
                                        std::int64_t groups, std::int32_t* start) noexcept {
  const __m256i magic_i32x8 = _mm256_set1_epi32(wide_sums<kWeightBits>(a) ? 0 : kMagicBits);
  constexpr int kShift = kWeightBits == 4 ? 3 : 7;  // u - 8, u - 128
  const bool bias = a.weight_offsets == nullptr;
  const std::int32_t* sums = a.code_sums + first_group * a.rows;
  const std::int64_t n = groups * a.rows;
  std::int64_t i = 0;
  for (; bias && i + 8 <= n; i += 8) {
    const __m256i sum_i32x8 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(start + i),
                        _mm256_sub_epi32(magic_i32x8, _mm256_slli_epi32(sum_i32x8, kShift)));
  }
  const std::int32_t magic = _mm256_extract_epi32(magic_i32x8, 0);
  for (; i < n; ++i) {  // wraps like the lanes above: sums that no task wrote can be anything
    const std::uint32_t shifted = bias ? static_cast<std::uint32_t>(sums[i]) << kShift : 0u;
    start[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(magic) - shifted);
  }
}

// Row groups; or sums within 2^22, no offsets, and chunks of whole groups.
template <int kWeightBits>
RRS_FORCE_INLINE bool wide_groups_fit(const GemmTileArgs& a, int part_blocks,
                                      int chunk_blocks) noexcept {
  if (a.inner_group == kRowGroup) return true;
  const std::int64_t per_group = group_blocks<kWeightBits>(a);
  return !wide_sums<kWeightBits>(a) && a.weight_offsets == nullptr &&
         chunk_blocks % per_group == 0 && (per_group <= part_blocks || per_group % 4 == 0);
}

// Activation scales per inner group: the caller's where they are that already.
RRS_FORCE_INLINE const float* chunk_scales(const GemmTileArgs& a, std::int64_t first_group,
                                           std::int64_t groups, float* s) noexcept {
  if (a.inner_per_activation == 1) return a.activation_scales + first_group * a.rows;
  for (std::int64_t g = 0; g < groups; ++g) {
    const float* from = a.activation_scales + (first_group + g) / a.inner_per_activation * a.rows;
    std::copy(from, from + a.rows, s + g * a.rows);
  }
  return s;
}

// v and -magic * v per inner group: shared by all rows of the tile.
RRS_TARGET_AVX2 inline void unpack_scales(const GemmTileArgs& a, int panel,
                                          std::int64_t first_group, std::int64_t groups,
                                          float* v) noexcept {
  const f16* scales = a.weight_scales + panel * a.panel_scales;
  const __m256 minus_magic_f32x8 = _mm256_load_ps(kWideConstants.minus_magic);
  for (std::int64_t g = 0; g < groups; ++g, v += 32) {
    const f16* from = scales + outer_group(first_group + g, a.inner_per_weight) * kPanelOutputs;
    for (int half = 0; half < 2; ++half) {
      const auto* f16x8 = reinterpret_cast<const __m128i*>(from + 8 * half);
      const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(f16x8));
      _mm256_store_ps(v + 8 * half, v_f32x8);
      _mm256_store_ps(v + 16 + 8 * half, _mm256_mul_ps(v_f32x8, minus_magic_f32x8));
    }
  }
}

template <int R, int kWeightBits, int kFlow, int kStored, int kCarry>
RRS_TARGET_AVX2 void wide_function(const WideArgs& args) noexcept {
  wide_groups<R, kWeightBits, kFlow, kStored, kCarry>(args);
}
struct WideFunctions {
  WideFunction rows[kWideRows + 1];
};
template <int kWeightBits, int kFlow, int kStored, int kCarry, int... kRows>
constexpr WideFunctions wide_functions(std::integer_sequence<int, kRows...>) {
  return WideFunctions{
      {nullptr, &wide_function<kRows + 1, kWeightBits, kFlow, kStored, kCarry>...}};
}
template <int kWeightBits, int kFlow, int kStored, int kCarry = 0>
inline constexpr WideFunctions kWideFunctions = wide_functions<kWeightBits, kFlow, kStored, kCarry>(
    std::make_integer_sequence<int, kWideRows>{});

template <int kWeightBits, int kStored>
RRS_FORCE_INLINE const WideFunctions& wide_functions_of(const WideChunk& c) noexcept {
  if (c.carry) {  // parts are short enough for their sums
    return kWeightBits == 4 && c.blocks == 4 ? kWideFunctions<4, kFourBlocks, kStored, 1>
                                             : kWideFunctions<kWeightBits, kLoopBlocks, kStored, 1>;
  }
  return c.blocks > c.part_blocks ? kWideFunctions<kWeightBits, kPartsOfFour, kStored>
         : c.blocks == 4          ? kWideFunctions<kWeightBits, kFourBlocks, kStored>
                                  : kWideFunctions<kWeightBits, kLoopBlocks, kStored>;
}

// What is due when sub-tile t of `tiles` starts.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void fetch_share(WideFetch& f, std::int64_t t,
                                                  std::int64_t tiles) noexcept {
  for (; f.done * tiles < (t + 1) * f.lines; ++f.done) {
    _mm_prefetch(static_cast<const char*>(f.from) + f.done * 64, _MM_HINT_T0);
  }
}

// All sub-tiles of one panel. out: [tile rows][16].
template <int kWeightBits, int kStored>
RRS_TARGET_AVX2 inline void wide_rows(const GemmTileArgs& a, const WideChunk& c,
                                      const std::uint8_t* weights, const std::int8_t* codes,
                                      float* out) noexcept {
  alignas(32) float scratch[kWideRows * 16];
  const WideFunctions& functions = wide_functions_of<kWeightBits, kStored>(c);
  WideArgs w;
  w.weights = weights;
  w.stride = std::int64_t{a.rows} * 4;
  w.blocks = c.blocks;
  w.groups = c.groups;
  w.v = c.v;
  w.scratch = scratch;
  const RowTiles sub = make_row_tiles(a.rows, kWideRows);
  WideFetch next_weights = c.weights, next_codes = c.codes;
  for (std::int64_t t = 0; t < sub.tiles; ++t) {
    const std::int64_t row = sub.first_row(t);
    if (!kStored) {
      fetch_share(next_weights, t, sub.tiles);
      fetch_share(next_codes, t, sub.tiles);
    }
    w.codes = codes + row * 4;
    w.start = c.start + row;
    w.s = c.s + row;
    w.out = out + row * 16;
    functions.rows[sub.rows_in(t)](w);
  }
}

// `blocks` blocks of a row group, in parts of part_blocks and a shorter one.
template <int kWeightBits, int kStored>
RRS_TARGET_AVX2 inline void carry_rows(const GemmTileArgs& a, WideChunk c, std::int64_t blocks,
                                       const std::uint8_t* weights, const std::int8_t* codes,
                                       float* out) noexcept {
  c.carry = true;
  c.blocks = c.part_blocks;
  c.groups = blocks / c.blocks;
  if (c.groups != 0) wide_rows<kWeightBits, kStored>(a, c, weights, codes, out);
  const std::int64_t done = c.groups * c.blocks;
  c.blocks = blocks - done;
  c.groups = 1;
  if (c.blocks == 0) return;
  wide_rows<kWeightBits, kStored>(a, c, weights + done * 64, codes + done * 8 * a.rows, out);
}

// Row groups: int32 sums in `out` [panels][rows][16], which began at 0, to floats in the written
// order: acc = fma(float(isum) * v, s, 0), then fma(float(code_sum) * offset, s, acc). Sums may
// pass 2^22, so by conversion. The start value comes last; what wrapped on the way wraps back.
template <int kWeightBits>
RRS_TARGET_AVX2 inline void finish_row_groups(const GemmTileArgs& a, float* out) noexcept {
  std::int32_t start[kMaxWideRows];
  chunk_start<kWeightBits>(a, 0, 1, start);
  for (int half = 0; half < 2 * a.panels; ++half) {  // of a panel
    const std::int64_t scale = half / 2 * a.panel_scales + half % 2 * 8;
    const auto* f16x8 = reinterpret_cast<const __m128i*>(a.weight_scales + scale);
    const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(f16x8));
    float* at = out + half / 2 * a.rows * 16 + half % 2 * 8;
    for (int r = 0; r < a.rows; ++r, at += 16) {
      const __m256i sum_i32x8 = _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
      const __m256i isum_i32x8 = _mm256_add_epi32(sum_i32x8, _mm256_set1_epi32(start[r]));
      const __m256 tmp_f32x8 = _mm256_mul_ps(_mm256_cvtepi32_ps(isum_i32x8), v_f32x8);
      const __m256 s_f32x8 = _mm256_set1_ps(a.activation_scales[r]);
      __m256 acc_f32x8 = _mm256_fmadd_ps(tmp_f32x8, s_f32x8, _mm256_setzero_ps());
      if (a.weight_offsets != nullptr) {
        const __m256 sum_f32x8 = _mm256_set1_ps(static_cast<float>(a.code_sums[r]));
        acc_f32x8 =
            _mm256_fmadd_ps(_mm256_mul_ps(sum_f32x8, _mm256_loadu_ps(a.weight_offsets + scale)),
                            s_f32x8, acc_f32x8);
      }
      _mm256_store_ps(at, acc_f32x8);
    }
  }
}

// out [panels][rows][16] to the caller's [rows][panels][16].
RRS_TARGET_AVX2 inline void write_tile(const GemmTileArgs& a, const float* out) noexcept {
  for (int panel = 0; panel < a.panels; ++panel) {
    for (int r = 0; r < a.rows; ++r) {
      const float* from = out + (panel * a.rows + r) * 16;
      float* to = a.out + (r * a.panels + panel) * 16;
      _mm256_storeu_ps(to, _mm256_load_ps(from));
      _mm256_storeu_ps(to + 8, _mm256_load_ps(from + 8));
    }
  }
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
