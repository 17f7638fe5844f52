// What the AVX-512 integer tiles share: a tile walks K in blocks of 256 inputs. Per block the
// weights of two panels are unpacked once into L1, then sub-tiles of a few rows run over the block.
//
// Instructions (Sapphire Rapids): vpand, vpsrlw, vpmulld p0/p5; loads 2 per cycle, stores 1 per
// cycle. Why. On Intel cores only ports 0 and 5 execute 512-bit arithmetic, and unpacking nibbles
// competes with the multiplications there: 3 instructions per 64 weight bytes are 18 % of a
// sub-tile of 7 rows. Unpacked once per 56 rows they are 3 %. Loads have ports of their own: a
// sub-tile of 7 rows x 2 panels shares each broadcast activation between two panels (9 loads per 14
// multiplications).
//
// Exact conversion without cvt. |isum| < 2^22 when the group is <= 256 inputs of W4 (256*15*128 <
// 2^19) or <= 128 of W8 (128*128*255 < 2^22; 256 inputs can reach 2^22 and use cvt). The
// accumulator starts at 0x4b400000 - zero * code_sum; read as a float it ends as f = M + isum, M =
// 12582912. M * v has 2 + 11 significant bits, so c = -M*v is exact and fma(f, v, c) = round(isum *
// v): the written order in one instruction instead of two. A zero may differ in sign; adding it to
// acc (never -0) removes that.
//
// Measured loss of a tile against its sub-tiles alone: unpacking 4-5 %, preparing a block 2-3 %,
// prefetching 3-4 % (won back when weights come from L3). Tried without gain: tiles of 84 and 112
// rows (the block then leaves L1), prefetching activations too (-5 % in L2, +4 % from L3), scales
// too.
//
// Stack: GemmBlock (8 KB) and 8 KB of unpacked weights.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64

RRS_TYPES_BEGIN

inline constexpr int kBlockInputs = 256;    // K block: every group size divides it
inline constexpr int kBlockGroups = 16;     // groups of 16 inputs in a block
inline constexpr int kBlockMaxRows = 56;    // rows of a tile without VNNI; see above
inline constexpr int kBlockRowsBound = 64;  // of any tile: avx512vnni_wide.hpp
inline constexpr std::int32_t kMagicBits = 0x4b400000;
inline constexpr float kMagicValue = 12582912.0f;

enum class GemmFinish : std::uint8_t {
  kMagic,    // acc = fma(fma(f, v, -M v), s, acc)
  kConvert,  // acc = fma(float(isum) * v, s, acc)
  kCarry,    // integers to `out`: the group goes on in the next block
};

// One block of K for one pair of panels, shared by its sub-tiles.
struct GemmBlock {
  const std::uint8_t* weights[2];  // unpacked (64 bytes per 4 inputs), or the panels themselves
  const std::int8_t* activations;  // at the block's first input
  int rows;                        // of the tile: activation step is rows * 4 bytes
  int groups;                      // in the block
  int group_inputs;                // of each but the last
  int last_inputs;                 // of the last
  GemmFinish finish;
  bool row_group;                     // `out` holds integers until the last block
  bool resume;                        // integers continue from `out`
  std::int64_t out_stride;            // floats
  float* out;                         // [row][out_stride]
  const float* scales[kBlockGroups];  // activation scales of each group: [rows]
  alignas(64) float v[kBlockGroups][2][kPanelOutputs];
  alignas(64) float c[kBlockGroups][2][kPanelOutputs];              // -M * v
  alignas(64) std::int32_t starts[kBlockGroups * kBlockRowsBound];  // [group][rows]
};

using GemmSubTile = void (*)(const GemmBlock& block, int first_row) noexcept;

RRS_TYPES_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512 {

// In a register from here on: GCC 12 else reads a line of weights again for each of its uses.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void keep(__m512i& x) noexcept {
#if defined(__GNUC__) && !defined(__clang__)
  __asm__("" : "+v"(x));
#else
  static_cast<void>(x);
#endif
}

// starts[i] = bias - (sums[i] << shift) for `count` sums; shift < 0: bias alone.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void fill_starts(const std::int32_t* sums, int count,
                                                    std::int32_t bias, int shift,
                                                    std::int32_t* starts) noexcept {
  const __m512i bias_i32x16 = _mm512_set1_epi32(bias);
  const __m128i shift_i32 = _mm_cvtsi32_si128(shift < 0 ? 32 : shift);  // 32 clears
  for (int i = 0; i < count; i += 16) {
    const int left = count - i;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
    const __m512i sums_i32x16 = _mm512_maskz_loadu_epi32(mask, sums + i);
    const __m512i out_i32x16 =
        _mm512_sub_epi32(bias_i32x16, _mm512_sll_epi32(sums_i32x16, shift_i32));
    _mm512_mask_storeu_epi32(starts + i, mask, out_i32x16);
  }
}

// v and c = -M v of every group of the block, for one panel.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void fill_scales(const f16* scales, std::int64_t group,
                                                    std::int64_t per_weight, int panel,
                                                    GemmBlock& b) noexcept {
  std::int64_t weight_group = group / per_weight;
  std::int64_t left = per_weight - group % per_weight;
  const __m512 minus_magic_f32x16 = _mm512_set1_ps(-kMagicValue);
  for (int g = 0; g < b.groups; ++g) {
    const auto* at = reinterpret_cast<const __m256i*>(scales + weight_group * kPanelOutputs);
    const __m512 v_f32x16 = _mm512_cvtph_ps(_mm256_loadu_si256(at));
    _mm512_store_ps(b.v[g][panel], v_f32x16);
    _mm512_store_ps(b.c[g][panel], _mm512_mul_ps(v_f32x16, minus_magic_f32x16));
    if (--left == 0) {
      ++weight_group;
      left = per_weight;
    }
  }
}

RRS_TARGET_AVX512 RRS_FORCE_INLINE void fill_activation_scales(const GemmTileArgs& a,
                                                               std::int64_t group,
                                                               GemmBlock& b) noexcept {
  std::int64_t left = a.inner_per_activation - group % a.inner_per_activation;
  const float* at = a.activation_scales + group / a.inner_per_activation * a.rows;
  for (int g = 0; g < b.groups; ++g) {
    b.scales[g] = at;
    if (--left == 0) {
      at += a.rows;
      left = a.inner_per_activation;
    }
  }
}

// Nibbles of one panel to bytes: 64 bytes become 2 * 64, inputs ascending.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void unpack_nibbles(const std::uint8_t* in, int inputs,
                                                       std::uint8_t* out) noexcept {
  const __m512i low_u8x64 = _mm512_set1_epi8(15);
  for (int k = 0; k < inputs; k += 8) {
    const __m512i w_u4x128 = _mm512_loadu_si512(in);
    _mm512_store_si512(out, _mm512_and_si512(w_u4x128, low_u8x64));
    _mm512_store_si512(out + 64, _mm512_and_si512(_mm512_srli_epi16(w_u4x128, 4), low_u8x64));
    in += 64;
    out += 128;
  }
}

// Float sums of R rows x P panels, between memory and registers; `stride` in floats.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void load_sums(const float* from, std::int64_t stride,
                                                  __m512 (&sum_f32x16)[R][P]) noexcept {
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) sum_f32x16[r][p] = _mm512_loadu_ps(from + r * stride + p * 16);
  }
}

template <unsigned R, unsigned P>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_sums(const __m512 (&sum_f32x16)[R][P],
                                                   std::int64_t stride, float* to) noexcept {
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) _mm512_storeu_ps(to + r * stride + p * 16, sum_f32x16[r][p]);
  }
}

// kMagic: a group's isum to sums. v, c: [P][16]; s: scales of the rows.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void finish_magic(const float* v, const float* c, const float* s,
                                                     const __m512i (&isum)[R][P],
                                                     __m512 (&sum_f32x16)[R][P]) noexcept {
  RRS_UNROLL_FULL
  for (unsigned p = 0; p < P; ++p) {
    const __m512 v_f32x16 = _mm512_load_ps(v + p * 16);
    const __m512 c_f32x16 = _mm512_load_ps(c + p * 16);
    RRS_UNROLL_FULL
    for (unsigned r = 0; r < R; ++r) {
      const __m512 tmp_f32x16 =
          _mm512_fmadd_ps(_mm512_castsi512_ps(isum[r][p]), v_f32x16, c_f32x16);
      sum_f32x16[r][p] = _mm512_fmadd_ps(tmp_f32x16, _mm512_set1_ps(s[r]), sum_f32x16[r][p]);
    }
  }
}

// out += float(code_sum) * offset * s, for a finished group (offsets are rare: not tuned).
RRS_TARGET_AVX512 inline void add_offsets(const GemmTileArgs& a, std::int64_t group, int panel,
                                          int panels) noexcept {
  const std::int32_t* sums = a.code_sums + group * a.rows;
  const float* s = a.activation_scales + group / a.inner_per_activation * a.rows;
  for (int p = panel; p < panel + panels; ++p) {
    const float* at = a.weight_offsets + p * a.panel_scales + group / a.inner_per_weight * 16;
    const __m512 offset_f32x16 = _mm512_loadu_ps(at);
    for (int r = 0; r < a.rows; ++r) {
      float* out = a.out + (r * a.panels + p) * kPanelOutputs;
      const __m512 tmp_f32x16 =
          _mm512_mul_ps(_mm512_set1_ps(static_cast<float>(sums[r])), offset_f32x16);
      _mm512_storeu_ps(out,
                       _mm512_fmadd_ps(tmp_f32x16, _mm512_set1_ps(s[r]), _mm512_loadu_ps(out)));
    }
  }
}

// Rows of the next sub-tile: full ones, the last two balanced (a very short one is bound by
// latency).
RRS_FORCE_INLINE int next_sub_rows(int left, int sub_rows) noexcept {
  if (left >= 2 * sub_rows || left == sub_rows) return sub_rows;
  return left > sub_rows ? (left + 1) / 2 : left;
}

// What the next block will read, towards L1: a share after each sub-tile. All at once it would
// occupy the 16 line fill buffers and stall the multiplications (measured: streamed weights cost 15
// % then). Behind the last block lies the next tile's memory, or nothing: a prefetch cannot fault.
RRS_FORCE_INLINE void prefetch_share(const void* next, int bytes, int share, int shares) noexcept {
  const auto* at = static_cast<const char*>(next);
  const int size = bytes / shares + 64;
  const int first = bytes / shares * share;
  for (int i = first; i < first + size; i += 64) _mm_prefetch(at + i, _MM_HINT_T0);
}

// Everything of a block but its weights.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void prepare_block(const GemmTileArgs& a, int weight_bits,
                                                      int panel, int panels, std::int64_t first,
                                                      int inputs, GemmBlock& b) noexcept {
  const bool row_group = a.inner_group == kRowGroup;
  const std::int64_t group = row_group ? 0 : first / a.inner_group;
  b.rows = a.rows;
  b.group_inputs = row_group ? inputs : a.inner_group;
  b.groups = (inputs + b.group_inputs - 1) / b.group_inputs;
  b.last_inputs = inputs - (b.groups - 1) * b.group_inputs;
  b.row_group = row_group;
  b.resume = row_group && first > 0;
  // Rows 1 and 2: cvt and mul cost less than preparing c would save.
  const bool magic = !row_group && a.rows > 2 && a.inner_group <= (weight_bits == 8 ? 128 : 256);
  b.finish = magic ? GemmFinish::kMagic : GemmFinish::kConvert;
  if (row_group && first + inputs < a.k_padded) b.finish = GemmFinish::kCarry;
  b.activations = static_cast<const std::int8_t*>(a.activations) + first * a.rows;
  b.out_stride = std::int64_t{a.panels} * kPanelOutputs;
  b.out = a.out + panel * kPanelOutputs;
  const int shift = a.weight_offsets != nullptr ? -1 : weight_bits - 1;
  fill_starts(a.code_sums + group * a.rows, b.groups * a.rows, magic ? kMagicBits : 0, shift,
              b.starts);
  fill_activation_scales(a, group, b);
  for (int p = 0; p < panels; ++p) {
    fill_scales(a.weight_scales + (panel + p) * a.panel_scales, group, a.inner_per_weight, p, b);
  }
}

// All of K for one or two panels. Traits: kWeightBits; kSubRows and kDirectRows (tiles of at most
// that many rows read the panels themselves); sub_tile(block, rows, panels, direct);
// kUnpackedBytes per block and panel (0: never unpacked); kPrefetchRows (tiles of at most that many
// rows get no share of the next block here: their leaf prefetches further); kOneRowPanels at a time
// for one row (1 where it only streams: one panel after another).
template <class Traits>
RRS_TARGET_AVX512 inline void block_columns(const GemmTileArgs& a, int panel, int panels) noexcept {
  alignas(64) std::uint8_t unpacked[2][Traits::kUnpackedBytes > 0 ? Traits::kUnpackedBytes : 64];
  GemmBlock b;
  const bool row_group = a.inner_group == kRowGroup;
  const bool direct = Traits::kUnpackedBytes == 0 || a.rows <= Traits::kDirectRows;
  const int step = a.weight_offsets != nullptr && !row_group ? a.inner_group : kBlockInputs;
  for (std::int64_t first = 0; first < a.k_padded; first += step) {
    const auto inputs = static_cast<int>((std::min)(std::int64_t{step}, a.k_padded - first));
    prepare_block(a, Traits::kWeightBits, panel, panels, first, inputs, b);
    for (int p = 0; p < panels; ++p) {
      const std::uint8_t* at = a.weights + (panel + p) * a.panel_bytes +
                               first * (kPanelOutputs * Traits::kWeightBits / 8);
      if (!direct) unpack_nibbles(at, inputs, unpacked[p]);
      b.weights[p] = direct ? at : unpacked[p];
    }
    if (panels == 1) b.weights[1] = b.weights[0];
    const int block_bytes = inputs * (kPanelOutputs * Traits::kWeightBits / 8);
    const bool last = first + step >= a.k_padded;
    const std::uint8_t* next = last
                                   ? a.weights + (panel + panels) * a.panel_bytes
                                   : a.weights + panel * a.panel_bytes +
                                         (first + step) * (kPanelOutputs * Traits::kWeightBits / 8);
    const int shares = (a.rows + Traits::kSubRows - 1) / Traits::kSubRows;
    int share = 0;
    for (int row = 0; row < a.rows;) {
      const int rows = next_sub_rows(a.rows - row, Traits::kSubRows);
      Traits::sub_tile(b, rows, panels, direct)(b, row);
      row += rows;
      for (int p = 0; p < panels && a.rows > Traits::kPrefetchRows; ++p) {
        prefetch_share(next + p * a.panel_bytes, block_bytes, share, shares);
      }
      ++share;
    }
    if (a.weight_offsets != nullptr && b.finish != GemmFinish::kCarry) {
      add_offsets(a, row_group ? 0 : first / a.inner_group, panel, panels);
    }
  }
}

template <class Traits>
RRS_TARGET_AVX512 inline void block_tile(const GemmTileArgs& a) noexcept {
  for (int i = 0; i < a.rows * a.panels; ++i) {
    _mm512_storeu_ps(a.out + i * kPanelOutputs, _mm512_setzero_ps());
  }
  const int width = a.rows == 1 ? Traits::kOneRowPanels : 2;
  for (int panel = 0; panel < a.panels; panel += width) {
    block_columns<Traits>(a, panel, (std::min)(width, a.panels - panel));
  }
}

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
