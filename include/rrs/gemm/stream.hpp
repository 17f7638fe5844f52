// What the leaves of few rows share that read W4 panels from memory, each panel as one stream.
//
// from: avx2_stream.hpp, avxvnni_stream.hpp, avx512vnni_stream.hpp.
//
// Where the next lines are fetched. While a block of 64 KB is read, the next one is fetched into
// L2, not line after line but in four streams of 16 KB: the hardware follows each stream by itself,
// a limited number of lines ahead of it, and no further than its page of 4 KB. One row, 4096 x
// 4096, groups of 32, avx2 / avx512vnni, GB/s over those of the fastest plain reader, of four
// streams (17 from DRAM, 28 from L3; Granite Rapids, pages of 4 KB; means of runs in turns):
//                                     DRAM          2 threads     L3
//   one stream, 4 KB ahead            0.74 / 0.73   0.69 / 0.70   0.97 / 0.96
//   the next  64 KB in 4 streams      0.84 / 0.86   0.80 / 0.83   0.93 / 0.95
//   the next  64 KB in 8              0.85 / 0.87   0.81 / 0.82   0.93 / 0.95
//   the next 128 KB in 8              0.85 / 0.88   0.77 / 0.80
//   the next 256 KB in 8              0.87 / 0.89   0.70 / 0.72
// 32 KB are 0.95 times as fast as 64, 16 KB 0.88 times. Where a weight or the work of a thread ends
// a block is fetched in vain (as a rule the scales, which lie behind), hence not more. Time over
// that of 128 KB in 8: every second line 1.3, the next 8 KB into L1 at once 1.25, 16 KB 1.05,
// streams that do not reach the ends of their pages together 1.0, scales fetched ahead 1.0. Four
// panels in turns, a line of each, are 1.04 times as fast as one stream from DRAM, 0.93 from L3.
// A loop of the same loads and prefetches without products reads 0.97 of the reader, with products
// 0.94, all of it 0.92 to 0.94.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_TYPES_BEGIN

// A walk along one panel: what is read next. A line is 64 bytes, 8 inputs of a W4 panel.
struct StreamWalk {
  std::int64_t groups;       // inner groups of the tile
  std::int64_t group_lines;  // of each but the last
  std::int64_t last_lines;
  std::int64_t line_codes;  // bytes of codes per line
  const std::uint8_t* weights;
  const std::int8_t* codes;
  const std::int32_t* code_sums;
  const f16* v;    // weight scales
  const float* s;  // activation scales
  std::int64_t groups_of_v;
  std::int64_t groups_of_s;

  // Lines of an inner group.
  RRS_MEMBER std::int64_t lines_in(std::int64_t group) const noexcept {
    return group + 1 < groups ? group_lines : last_lines;
  }
  // `count` lines on, and their codes.
  RRS_MEMBER void pass_lines(int count) noexcept {
    weights += count * 64;
    codes += count * line_codes;
  }
  // To the scales of the next inner group.
  RRS_MEMBER void pass_group(const GemmTileArgs& a) noexcept {
    code_sums += a.rows;
    if (--groups_of_v == 0) {
      groups_of_v = a.inner_per_weight;
      v += kPanelOutputs;
    }
    if (--groups_of_s == 0) {
      groups_of_s = a.inner_per_activation;
      s += a.rows;
    }
  }
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace stream {

inline constexpr int kLines = 4;  // lines per step: one of every stream
inline constexpr std::uintptr_t kBlock = 64 << 10;
inline constexpr std::uintptr_t kStreamBytes = kBlock / kLines;

// True where the streaming leaves compute tile a. Other groups than of whole steps, and offsets,
// are rare: the general leaves do them.
RRS_FORCE_INLINE bool fits(const GemmTileArgs& a, int max_rows) noexcept {
  const bool whole = a.inner_group == kRowGroup || a.inner_group % (kLines * kPackedInputs) == 0;
  return a.rows <= max_rows && whole && a.weight_offsets == nullptr && a.k_padded > 0;
}

// At the beginning of panel `panel` of tile a.
RRS_FORCE_INLINE StreamWalk walk(const GemmTileArgs& a, int panel) noexcept {
  const std::int64_t all = a.k_padded / kPackedInputs;
  const bool row_group = a.inner_group == kRowGroup;
  StreamWalk w;
  w.groups = row_group ? 1 : a.inner_groups;
  w.group_lines = row_group ? all : a.inner_group / kPackedInputs;
  w.last_lines = all - (w.groups - 1) * w.group_lines;
  w.line_codes = std::int64_t{a.rows} * kPackedInputs;
  w.weights = a.weights + panel * a.panel_bytes;
  w.codes = static_cast<const std::int8_t*>(a.activations);
  w.code_sums = a.code_sums;
  w.v = a.weight_scales + panel * a.panel_scales;
  w.s = a.activation_scales;
  w.groups_of_v = a.inner_per_weight;
  w.groups_of_s = a.inner_per_activation;
  return w;
}

// Where the first stream stands while the step at `weights` is read: in the next block, at a fourth
// of the step's place in its own.
RRS_FORCE_INLINE std::uintptr_t ahead(const std::uint8_t* weights) noexcept {
  const auto at = reinterpret_cast<std::uintptr_t>(weights);
  const std::uintptr_t line = (at % kBlock / kLines) & ~std::uintptr_t{63};
  return at / kBlock * kBlock + kBlock + line;
}

// The line that is fetched with line `i` of a step.
RRS_FORCE_INLINE std::uintptr_t line_ahead(std::uintptr_t ahead, int i) noexcept {
  return ahead + static_cast<std::uintptr_t>(i) * kStreamBytes;
}

// Line `i` of a step on its way: the one of its stream into L2, and one that is read soon into L1.
RRS_FORCE_INLINE void fetch(const std::uint8_t* weights, std::uintptr_t ahead, int i) noexcept {
  const auto soon = reinterpret_cast<std::uintptr_t>(weights) + 768 + static_cast<unsigned>(i) * 64;
  _mm_prefetch(reinterpret_cast<const char*>(line_ahead(ahead, i)), _MM_HINT_T1);
  _mm_prefetch(reinterpret_cast<const char*>(soon), _MM_HINT_T0);
}

// Start value of a sum of stored codes, code + 8 each. Wraps like the sums.
RRS_FORCE_INLINE std::int32_t start(std::int32_t code_sum) noexcept {
  return static_cast<std::int32_t>(0u - (static_cast<std::uint32_t>(code_sum) << 3));
}

}  // namespace stream

RRS_FUNCTIONS_END

#endif
