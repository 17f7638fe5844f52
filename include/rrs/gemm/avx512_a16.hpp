// GEMM leaves for AVX-512 with float activations: W4A16 and W8A16.
//
// Instructions (Sapphire Rapids): vfmadd zmm p0/p5, latency 4; vpermps p5 (a table of 16 floats
// turns a nibble into its code: the index needs no mask); vpsrld p0; vpbroadcastss zmm, m32 load
// port only. Weights become floats once per chunk of 32 inputs, in L1 (8 KB), for all rows of the
// tile: 2 instructions per 16 weights, and many rows run at the rate of sgemm. The scale is applied
// once per group (written order in gemm.hpp). Registers: 12 rows x 2 panels = 24 parts + 2 weights
// + 1 broadcast. Stack: 8 KB of weights, 12 KB of parts (they survive from chunk to chunk within a
// group).
// Up to 10 rows use weights in the registers in which they became floats (stream_rows): storing
// them costs as much as everything else (a 512-bit store takes 1.6 cycles of both ports). 4 panels
// at a time, since a chain of fused multiply-adds needs 8 in flight; from 5 rows on 2 panels (10
// parts and more). Through L1 5 to 10 rows took 1.17 to 1.36 times as long, 11 0.83 to 1.08, 12 (24
// parts: spills) 0.94. One row of W4: 23 instructions on two ports per 64 bytes, 11.5 cycles.
// Offsets (zero points) take the way through L1.
#pragma once

#include "rrs/gemm/avx512_block.hpp"

#if RRS_X86_64

RRS_TYPES_BEGIN

inline constexpr int kFloatInputs = 32;   // inputs of a chunk; groups of 16 take 16
inline constexpr int kFloatMaxRows = 48;  // not searched
inline constexpr int kFloatMaxPanels = 4;
inline constexpr int kFloatSubRows = 12;
inline constexpr int kFloatStreamRows = 10;
inline constexpr int kFloatWideRows = 4;        // 4 panels at a time: 16 chains and more; then 2
inline constexpr int kFloatStreamAhead = 8192;  // bytes

// One chunk of K for 1, 2 or 4 panels.
struct GemmFloatBlock {
  const float* x;  // at the chunk's first input: [input][rows]
  int rows;
  int inputs;
  bool first;    // of its group: parts start at 0
  bool last;     // of its group: parts go to `out`
  bool offsets;  // weights carry v already
  std::int64_t out_stride;
  float* out;  // [row][out_stride]
  alignas(64) float v[kFloatMaxPanels][kPanelOutputs];
  alignas(64) float w[kFloatInputs * kFloatMaxPanels * kPanelOutputs];       // [input][panel][16]
  alignas(64) float parts[kFloatMaxRows * kFloatMaxPanels * kPanelOutputs];  // [row][panel][16]
};

using GemmFloatTile = void (*)(GemmFloatBlock& block, int first_row) noexcept;

RRS_TYPES_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512 {

// R rows x P panels over one chunk.
template <unsigned R, unsigned P>
RRS_TARGET_AVX512 inline void float_tile(GemmFloatBlock& b, int first_row) noexcept {
  const float* x = b.x + first_row;
  const float* w = b.w;
  float* parts = b.parts + first_row * static_cast<int>(P) * kPanelOutputs;
  __m512 part_f32x16[R][P];
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      part_f32x16[r][p] = b.first ? _mm512_setzero_ps() : _mm512_load_ps(parts + (r * P + p) * 16);
    }
  }
  for (int k = 0; k < b.inputs; ++k) {
    __m512 w_f32x16[P];
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) w_f32x16[p] = _mm512_load_ps(w + p * 16);
    RRS_UNROLL_FULL
    for (unsigned r = 0; r < R; ++r) {
      const __m512 x_f32x16 = _mm512_set1_ps(x[r]);
      RRS_UNROLL_FULL
      for (unsigned p = 0; p < P; ++p) {
        part_f32x16[r][p] = _mm512_fmadd_ps(x_f32x16, w_f32x16[p], part_f32x16[r][p]);
      }
    }
    x += b.rows;
    w += P * 16;
  }
  float* out = b.out + first_row * b.out_stride;
  RRS_UNROLL_FULL
  for (unsigned r = 0; r < R; ++r) {
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      float* o = out + r * b.out_stride + p * 16;
      if (!b.last) {
        _mm512_store_ps(parts + (r * P + p) * 16, part_f32x16[r][p]);
      } else if (b.offsets) {
        _mm512_storeu_ps(o, _mm512_add_ps(_mm512_loadu_ps(o), part_f32x16[r][p]));
      } else {
        const __m512 v_f32x16 = _mm512_load_ps(b.v[p]);
        _mm512_storeu_ps(o, _mm512_fmadd_ps(part_f32x16[r][p], v_f32x16, _mm512_loadu_ps(o)));
      }
    }
  }
}

// 16 codes of byte `byte` (W4: nibble `byte`) of each output, as floats; W4: `table` maps them.
template <int kWeightBits>
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 code_floats(__m512i w, unsigned at, __m512 table_f32x16,
                                                      __m512i zero_i32x16) noexcept {
  if (kWeightBits == 4) return _mm512_permutexvar_ps(_mm512_srli_epi32(w, at), table_f32x16);
  const __m512i u_i32x16 = _mm512_and_si512(_mm512_srli_epi32(w, at), _mm512_set1_epi32(255));
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(u_i32x16, zero_i32x16));
}

// Where the code of input j begins in its dword: nibble 2j below 4, nibble 2(j-4)+1 above.
template <int kWeightBits>
constexpr unsigned code_shift(unsigned j) {
  return kWeightBits == 8 || j < 4 ? 8 * j : 8 * (j - 4) + 4;
}

// The floats u - zero, u = 0..15.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 code_table(__m512i zero_i32x16) noexcept {
  const __m512i lane_i32x16 =
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(lane_i32x16, zero_i32x16));
}

// One panel of a chunk to floats, at out[input * stride]. offset: null, or weights are v*u +
// offset.
template <int kWeightBits>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void unpack_floats(const std::uint8_t* in, int inputs,
                                                      const float* v, const float* offset,
                                                      float* out, int stride) noexcept {
  const __m512i zero_i32x16 = _mm512_set1_epi32(offset != nullptr ? 0 : 1 << (kWeightBits - 1));
  const __m512 table_f32x16 = code_table(zero_i32x16);
  const __m512 v_f32x16 = _mm512_load_ps(v);
  const __m512 offset_f32x16 = offset != nullptr ? _mm512_loadu_ps(offset) : _mm512_setzero_ps();
  constexpr int kPerLine = 32 / kWeightBits;
  for (int k = 0; k < inputs; k += kPerLine) {
    const __m512i w = _mm512_loadu_si512(in);
    _mm_prefetch(reinterpret_cast<const char*>(in) + 4096, _MM_HINT_T0);
    in += 64;
    RRS_UNROLL_FULL
    for (unsigned j = 0; j < 32u / kWeightBits; ++j) {
      __m512 code_f32x16 =
          code_floats<kWeightBits>(w, code_shift<kWeightBits>(j), table_f32x16, zero_i32x16);
      if (offset != nullptr) code_f32x16 = _mm512_fmadd_ps(code_f32x16, v_f32x16, offset_f32x16);
      _mm512_store_ps(out, code_f32x16);
      out += stride;
    }
  }
}

// The codes of one input of four panels, all before their multiply-adds. Left to order them GCC 12
// took 1.06 and Clang 14 0.97 of this at one row (both as one block of assembly: 1.03 to 1.08).
template <unsigned P>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void keep_codes(__m512 (&x)[P]) noexcept {
  if constexpr (P == 4) {
    __asm__ volatile("" : "+v"(x[0]), "+v"(x[1]), "+v"(x[2]), "+v"(x[3]));
  }
}

// R rows (all of the tile) x P panels over all of K; no offsets.
template <int kWeightBits, unsigned R, unsigned P>
RRS_TARGET_AVX512 inline void stream_rows(const GemmTileArgs& a, int panel) noexcept {
  constexpr unsigned kPerLine = 32 / kWeightBits;
  const __m512i zero_i32x16 = _mm512_set1_epi32(1 << (kWeightBits - 1));
  const __m512 table_f32x16 = code_table(zero_i32x16);
  const std::int64_t group_inputs = a.inner_group == kRowGroup ? a.k_padded : a.inner_group;
  const std::uint8_t* weights = a.weights + panel * a.panel_bytes;
  const f16* v = a.weight_scales + panel * a.panel_scales;
  const auto* x = static_cast<const float*>(a.activations);
  __m512 sum_f32x16[R][P];
  RRS_UNROLL_FULL
  for (unsigned i = 0; i < R * P; ++i) sum_f32x16[i / P][i % P] = _mm512_setzero_ps();
  for (std::int64_t first = 0; first < a.k_padded; first += group_inputs, v += kPanelOutputs) {
    const std::int64_t end = (std::min)(first + group_inputs, a.k_padded);
    __m512 part_f32x16[R][P];
    RRS_UNROLL_FULL
    for (unsigned i = 0; i < R * P; ++i) part_f32x16[i / P][i % P] = _mm512_setzero_ps();
    for (std::int64_t k = first; k < end; k += kPerLine, weights += 64, x += kPerLine * R) {
      __m512i w_u8x64[P];
      RRS_UNROLL_FULL
      for (unsigned p = 0; p < P; ++p) {
        const std::uint8_t* at = weights + p * a.panel_bytes;
        w_u8x64[p] = _mm512_loadu_si512(at);
        if (R < kFloatStreamRows) keep(w_u8x64[p]);  // 10 rows: spills, 1.03 to 1.2 times as long
        _mm_prefetch(reinterpret_cast<const char*>(at) + kFloatStreamAhead, _MM_HINT_T1);
      }
      RRS_UNROLL_FULL
      for (unsigned j = 0; j < kPerLine; ++j) {
        __m512 code_f32x16[P];
        RRS_UNROLL_FULL
        for (unsigned p = 0; p < P; ++p) {
          code_f32x16[p] = code_floats<kWeightBits>(w_u8x64[p], code_shift<kWeightBits>(j),
                                                    table_f32x16, zero_i32x16);
        }
        keep_codes(code_f32x16);
        RRS_UNROLL_FULL
        for (unsigned r = 0; r < R; ++r) {
          const __m512 x_f32x16 = _mm512_set1_ps(x[j * R + r]);
          RRS_UNROLL_FULL
          for (unsigned p = 0; p < P; ++p) {
            part_f32x16[r][p] = _mm512_fmadd_ps(x_f32x16, code_f32x16[p], part_f32x16[r][p]);
          }
        }
      }
    }
    RRS_UNROLL_FULL
    for (unsigned p = 0; p < P; ++p) {
      const auto* v_f16x16 = reinterpret_cast<const __m256i*>(v + p * a.panel_scales);
      const __m512 v_f32x16 = _mm512_cvtph_ps(_mm256_loadu_si256(v_f16x16));
      RRS_UNROLL_FULL
      for (unsigned r = 0; r < R; ++r) {
        sum_f32x16[r][p] = _mm512_fmadd_ps(part_f32x16[r][p], v_f32x16, sum_f32x16[r][p]);
      }
    }
  }
  float* out = a.out + panel * kPanelOutputs;
  RRS_UNROLL_FULL
  for (unsigned i = 0; i < R * P; ++i) {
    _mm512_storeu_ps(out + (i / P * static_cast<unsigned>(a.panels) + i % P) * kPanelOutputs,
                     sum_f32x16[i / P][i % P]);
  }
}

using GemmStream = void (*)(const GemmTileArgs& args, int panel) noexcept;

template <int kWeightBits, unsigned P, unsigned... kRows>
RRS_FORCE_INLINE GemmStream pick_stream(int rows,
                                        std::integer_sequence<unsigned, kRows...>) noexcept {
  constexpr GemmStream kStreams[] = {&stream_rows<kWeightBits, kRows + 1, P>...};
  return kStreams[rows - 1];
}

template <unsigned kRows>
using RowCounts = std::make_integer_sequence<unsigned, kRows>;

template <int kWeightBits>
RRS_TARGET_AVX512 inline void stream_tile(const GemmTileArgs& a) noexcept {
  for (int panel = 0; panel < a.panels;) {
    const int left = a.panels - panel;
    const int panels = left >= 4 && a.rows <= kFloatWideRows ? 4 : (std::min)(left, 2);
    const GemmStream stream =
        panels == 4   ? pick_stream<kWeightBits, 4>(a.rows, RowCounts<kFloatWideRows>{})
        : panels == 2 ? pick_stream<kWeightBits, 2>(a.rows, RowCounts<kFloatStreamRows>{})
                      : pick_stream<kWeightBits, 1>(a.rows, RowCounts<kFloatStreamRows>{});
    stream(a, panel);
    panel += panels;
  }
}

template <unsigned P>
inline constexpr GemmFloatTile kFloatTiles[kFloatSubRows] = {
    &float_tile<1, P>, &float_tile<2, P>,  &float_tile<3, P>,  &float_tile<4, P>,
    &float_tile<5, P>, &float_tile<6, P>,  &float_tile<7, P>,  &float_tile<8, P>,
    &float_tile<9, P>, &float_tile<10, P>, &float_tile<11, P>, &float_tile<12, P>};
inline constexpr GemmFloatTile kFloatTiles4[4] = {&float_tile<1, 4>, &float_tile<2, 4>,
                                                  &float_tile<3, 4>, &float_tile<4, 4>};

RRS_FORCE_INLINE GemmFloatTile float_tile_of(int rows, int panels) noexcept {
  if (panels == 4) return kFloatTiles4[rows - 1];
  return panels == 2 ? kFloatTiles<2>[rows - 1] : kFloatTiles<1>[rows - 1];
}

// All of K for `panels` panels.
template <int kWeightBits>
RRS_TARGET_AVX512 inline void float_columns(const GemmTileArgs& a, int panel, int panels) noexcept {
  GemmFloatBlock b;
  b.rows = a.rows;
  b.out_stride = std::int64_t{a.panels} * kPanelOutputs;
  b.out = a.out + panel * kPanelOutputs;
  b.offsets = a.weight_offsets != nullptr;
  const std::int64_t group_inputs = a.inner_group == kRowGroup ? a.k_padded : a.inner_group;
  const int stride = panels * kPanelOutputs;
  for (std::int64_t first = 0; first < a.k_padded; first += b.inputs) {
    const std::int64_t group = first / group_inputs;
    const std::int64_t end = (std::min)((group + 1) * group_inputs, a.k_padded);
    b.inputs = static_cast<int>((std::min)(std::int64_t{kFloatInputs}, end - first));
    b.first = first == group * group_inputs;
    b.last = first + b.inputs == end;
    b.x = static_cast<const float*>(a.activations) + first * a.rows;
    for (int p = 0; p < panels; ++p) {
      const std::int64_t scale = (panel + p) * a.panel_scales + group * kPanelOutputs;
      const auto* v = reinterpret_cast<const __m256i*>(a.weight_scales + scale);
      _mm512_store_ps(b.v[p], _mm512_cvtph_ps(_mm256_loadu_si256(v)));
      const std::uint8_t* at = a.weights + (panel + p) * a.panel_bytes + first * 2 * kWeightBits;
      const float* offset = b.offsets ? a.weight_offsets + scale : nullptr;
      unpack_floats<kWeightBits>(at, b.inputs, b.v[p], offset, b.w + p * kPanelOutputs, stride);
    }
    for (int row = 0; row < a.rows;) {
      const int rows = next_sub_rows(a.rows - row, panels == 4 ? 4 : kFloatSubRows);
      float_tile_of(rows, panels)(b, row);
      row += rows;
    }
  }
}

template <int kWeightBits>
RRS_TARGET_AVX512 inline void float_gemm_tile(const GemmTileArgs& a) noexcept {
  if (a.rows <= kFloatStreamRows && a.weight_offsets == nullptr) return stream_tile<kWeightBits>(a);
  for (int i = 0; i < a.rows * a.panels; ++i) {
    _mm512_storeu_ps(a.out + i * kPanelOutputs, _mm512_setzero_ps());
  }
  for (int panel = 0; panel < a.panels;) {
    const int left = a.panels - panel;
    const int panels = left >= 4 && a.rows <= 4 ? 4 : (std::min)(left, 2);
    float_columns<kWeightBits>(a, panel, panels);
    panel += panels;
  }
}

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
