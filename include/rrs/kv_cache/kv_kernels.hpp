// KvKernels: the leaves of the cache at one ISA level, as data. Tables: kv_dispatch.hpp.
//
// A leaf handles one kv head of one page (64 tokens; layout: kv_page.hpp). The drivers in
// kv_cache.hpp walk over pages, cut ranges and pad. Contract as in core/kernel_table.hpp: noexcept,
// no allocation, valid pointers, and the same bits on every level, in the written orders below.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"

RRS_TYPES_BEGIN

// Scores of blocks [first_block, last_block) of 16 tokens each.
struct KvScoreArgs {
  const std::uint8_t* codes;       // K of this head and page
  std::int64_t block_bytes;        // from one block of 16 tokens to the next
  const f16* scales;               // [group][64]; unused at 16 bits
  const std::uint8_t* zeros;       // [group][64], or null: `zero` for all
  int zero;                        // 8 or 128
  const std::int8_t* query;        // [dims] codes, zero in the padding
  const std::int32_t* query_sums;  // [groups] sums of the query's codes
  float query_scale;
  const float* query_f32;  // [dims], for 16 bits
  std::int64_t dims;       // multiple of 8; the head size itself at 16 bits
  std::int64_t group;      // multiple of 8; dims when there is one group
  std::int64_t groups;
  int first_block;
  int last_block;
  float* out;  // [64], written at the tokens of the blocks
};

// out[d] += p[t] V[t][d] for a slab of at most kKvSlab dims, tokens [first, last) of the page.
struct KvAccumulateArgs {
  const std::uint8_t* codes;  // V of this head and page, at the first dim of the slab
  std::int64_t row_bytes;     // from one token to the next
  const f16* scales;          // [group][64] from the slab's first group; unused at 16 bits
  const std::uint8_t* zeros;  // [group][64], or null: `zero` for all
  int zero;
  int dims;   // multiple of 16, of 32 at 4 bits
  int group;  // dims per group inside the slab: 16, 32, 64 or kKvSlab
  int first;  // tokens of the page
  int last;
  const float* p;  // p[0] belongs to token `first`
  float* out;      // [dims]
};

inline constexpr int kKvSlab = 128;

struct KvKernels {
  // 4 and 8 bits: I = sum over the group of query * code, minus zero * query_sum, exact in int32;
  // acc = fma(float(I), scale, acc) over groups ascending from 0; out = acc * query_scale.
  void (*scores4)(const KvScoreArgs& args) noexcept;
  void (*scores8)(const KvScoreArgs& args) noexcept;
  // acc = fma(query_f32[d], k[d], acc) over d ascending from 0.
  void (*scores16)(const KvScoreArgs& args) noexcept;
  // Tokens ascending: a = p[t] * scale; out[d] = fma(a, float(code - zero), out[d]).
  void (*accumulate4)(const KvAccumulateArgs& args) noexcept;
  void (*accumulate8)(const KvAccumulateArgs& args) noexcept;
  // out[d] = fma(p[t], v, out[d]).
  void (*accumulate16)(const KvAccumulateArgs& args) noexcept;
  // codes[i] = clamp(rint(clamp(x[i] * inverse, -limit, limit)) + zero, 0, top), half to even,
  // limit 2^20 (any value beyond +-top ends in the same code).
  void (*encode)(const float* x, std::int64_t n, float inverse, int zero, int top,
                 std::uint8_t* codes) noexcept;
};

RRS_TYPES_END
