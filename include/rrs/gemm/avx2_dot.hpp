// AVX2 inner product of one group: R rows x 8 outputs, unpacked weights, as one block of assembly.
// For what avx2_chunk.hpp does not take: parts of groups, offsets, a short last group.
//
//   instruction            Golden Cove ports   Zen 3 pipes   use
//   vpmaddubsw, vpmaddwd   0 1                 0 3           products and pairs: 1 per 32 / 16 MACs
//   vpaddw, vpaddd         0 1 5               0 1 2 3       1 per product
//   vpbroadcastd ymm, m32  load                load          1 per product, no vector port
//   vfmadd                 0 1                 0 1           2 per group end
// A product costs two uops of three ports, hence at most 1.5 products per cycle: 48 MAC/cycle (W4)
// or 24 (W8). Measured: 45 without loads, 43 with the broadcasts, 38 with group ends of 128, 32
// of 32. A group end (madd, paddd, 2 fma per vector: 36 uops on ports 0 and 1 for 12 rows) costs 25
// to 30 cycles where the port count says 17. This machine does two 256-bit loads per cycle, not
// three. Registers: R <= 12 sums, weights (13), product (14); at the group end ones (12), v (13), c
// (15).
//
// Group end without cvt and mul: the int32 sum starts at 0x4b400000 + bias, so that its bits, read
// as a float, are f = 12582912 + isum (exact for |isum| <= 2^22). c = -12582912 v is exact, since v
// has 11 bits. Hence fma(f, v, c) = isum * v rounded once: the bits of float(isum) * v.
//
// Why assembly: with intrinsics GCC 12 hoists the broadcasts of the group end and spills them (24
// MAC/cycle for 12 rows, Clang 14: 31). With the product alone as assembly: 31 and 33; both still
// copied or spilled sums. As one block GCC gives 34 at the same size, and both compilers the same
// code. AT&T syntax: not for -masm=intel.
// Tried (12 rows x 8 outputs in L1; MAC/cycle at group 128 / group 32):
//   unpacking inside the loop          36.8 / 31.3   (unpacked before: 38.2 / 32.0)
//   6 rows x 16, shared broadcasts     35.0 / 30.4   (unpacked before: 40 / 34, avx2_chunk.hpp)
//   rows 4, 6, 8, 10, 12, 13 x 8, whole GEMM, product as assembly: 26.6 28.8 29.1 30.8 30.7 31.0
//   sums to L1, the group end mixed into the next group's products: 36.5 / 28.5
//   ones from memory at the group end  37.2 / 31.5   cvt and mul instead of c: 29.2 at 32
//   four blocks unrolled               no change     two product registers: 38.5 against 39.5
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx2 {

// What one call reads and writes. A block is 64 bytes of stored weights: 8 inputs of W4, 4 of W8.
struct DotArgs {
  const std::uint8_t* weights;  // per block two vectors of 8 outputs: u4 as bytes, or int16 (W8)
  const std::int8_t* codes;     // per block two steps of [tile rows] x 4 bytes, at the first row
  std::int64_t stride;          // bytes of a step: tile rows * 4
  std::int64_t blocks;          // >= 1
  const std::int32_t* start;    // [R] start values of the int32 sums
  const float* s;               // [R] activation scales
  const f16* v;                 // [8] weight scales
  float* out;                   // [R] rows of 16 floats, 32-byte aligned
  std::int32_t* totals;         // [R][8] partial sums of a group in several calls
};

struct alignas(32) DotConstants {
  std::int16_t ones[16];
  float minus_magic[8];
};
inline constexpr DotConstants kDotConstants = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {-12582912.0f, -12582912.0f, -12582912.0f, -12582912.0f, -12582912.0f, -12582912.0f,
     -12582912.0f, -12582912.0f}};
inline constexpr std::int32_t kMagicBits = 0x4b400000;
inline constexpr int kDotRows = 12;

// Where the sums of a call come from and go to.
inline constexpr int kStartToTotals = 0;   // first part of a group
inline constexpr int kTotalsToTotals = 1;  // middle part
inline constexpr int kStartToOut = 2;      // whole group
inline constexpr int kTotalsToOut = 3;     // last part

}  // namespace avx2

RRS_FUNCTIONS_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// Assembler loops over the rows; %c[...] are template constants, .if drops what does not apply.
#define RRS_DOT_ROWS(text) \
  ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n.if \\r < %c[rows]\n" text ".endif\n.endr\n"
#define RRS_DOT_PRODUCT(out)                             \
  ".if %c[bits] == 4\nvpmaddubsw %%ymm14, %%ymm13, " out \
  "\n.else\nvpmaddwd %%ymm14, %%ymm13, " out "\n.endif\n"
#define RRS_DOT_SET(address) \
  RRS_DOT_ROWS("vpbroadcastd 4*\\r" address ", %%ymm14\n" RRS_DOT_PRODUCT("%%ymm\\r"))
#define RRS_DOT_ADD(address)                                               \
  RRS_DOT_ROWS("vpbroadcastd 4*\\r" address ", %%ymm14\n" RRS_DOT_PRODUCT( \
      "%%ymm14") ".if %c[bits] == 4\nvpaddw %%ymm14, %%ymm\\r, %%ymm\\r\n" \
                 ".else\nvpaddd %%ymm14, %%ymm\\r, %%ymm\\r\n.endif\n")

// int16 bound (W4): a step adds at most 15 * 8 * 2 = 240 per lane for A4: 128 steps; 15 * 128 * 2 =
// 3840 for A8: 8 steps. The caller keeps `blocks` (two steps each) below that.
template <int R, int kWeightBits, int kFlow>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void dot_group(const DotArgs& args) noexcept {
  const std::uint8_t* weights = args.weights;
  const std::int8_t* codes = args.codes;
  std::int64_t blocks = args.blocks;
  __asm__ volatile(
      "vmovdqa (%[w]), %%ymm13\n" RRS_DOT_SET("(%[a])")
      "vmovdqa 32(%[w]), %%ymm13\n" RRS_DOT_ADD("(%[a],%[stride])")
      "sub $1, %[n]\n"
      "jz 2f\n"
      "1:\n"
      "lea (%[a],%[stride],2), %[a]\n"
      "add $64, %[w]\n"
      "vmovdqa (%[w]), %%ymm13\n" RRS_DOT_ADD("(%[a])")
      "vmovdqa 32(%[w]), %%ymm13\n" RRS_DOT_ADD("(%[a],%[stride])")
      "sub $1, %[n]\n"
      "jnz 1b\n"
      "2:\n"
      ".if %c[flow] >= 2\n"
      "vcvtph2ps (%[v]), %%ymm13\n"
      "vmulps 32(%[constants]), %%ymm13, %%ymm15\n"
      ".endif\n"
      "vmovdqa (%[constants]), %%ymm12\n"
      RRS_DOT_ROWS(
          ".if %c[bits] == 4\nvpmaddwd %%ymm12, %%ymm\\r, %%ymm\\r\n.endif\n"
          ".if %c[flow] & 1\n"
          "vpaddd 32*\\r(%[totals]), %%ymm\\r, %%ymm\\r\n"
          ".else\n"
          "vpbroadcastd 4*\\r(%[start]), %%ymm14\n"
          "vpaddd %%ymm14, %%ymm\\r, %%ymm\\r\n"
          ".endif\n"
          ".if %c[flow] < 2\n"
          "vmovdqa %%ymm\\r, 32*\\r(%[totals])\n"
          ".else\n"
          "vfmadd132ps %%ymm13, %%ymm15, %%ymm\\r\n"
          "vbroadcastss 4*\\r(%[s]), %%ymm14\n"
          "vfmadd213ps 64*\\r(%[out]), %%ymm14, %%ymm\\r\n"
          "vmovaps %%ymm\\r, 64*\\r(%[out])\n"
          ".endif\n")
      : [w] "+r"(weights), [a] "+r"(codes), [n] "+r"(blocks)
      : [stride] "r"(args.stride), [start] "r"(args.start), [s] "r"(args.s), [v] "r"(args.v),
        [out] "r"(args.out), [totals] "r"(args.totals), [constants] "r"(&kDotConstants),
        [rows] "i"(R), [bits] "i"(kWeightBits), [flow] "i"(kFlow)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

#undef RRS_DOT_ROWS
#undef RRS_DOT_PRODUCT
#undef RRS_DOT_SET
#undef RRS_DOT_ADD

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
