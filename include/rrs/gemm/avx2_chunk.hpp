// AVX2 inner product of a run of whole groups: R <= 6 rows x 16 outputs, as one block of assembly.
//
// from: avx2_wide.hpp.  Ports, the float trick of the group end, why assembly: avx2_dot.hpp.
// Registers: 12 sums, weights (12, 13), product (14), code and product (15); at the group end v
// (12, 13), c of the first half (14), start value and activation scale of a row (15). A block of 6
// rows: 24 products, 12 broadcasts and 4 weight loads, so one load per cycle where 12 rows x 8
// (avx2_dot.hpp) need 1.6 of the two this machine does. Measured in L1, MAC/cycle: 42.7 without
// group ends (48 is the bound), 40 at group 128, 37.5 at 64, 34 at 32. A group end costs 19 to 20
// cycles per 12 sums: 36 uops that only ports 0 and 1 take, next to 12 vpaddd. Ideal on three full
// ports: 45.9 and 40.4 MAC/cycle, a ratio of 0.88; no order of the group end removes an operation:
// the start value folded into the int16 sums costs the vpaddw that the first product saves now, and
// vcvtdq2ps with vmulps is one more on ports 0 and 1. Tried: two blocks per loop iteration, no
// change; ones from memory, each row's vpmaddwd next to its multiply-adds, 4 % slower at group 32.
// Sums of 16 outputs x 2 inputs (no vpmaddwd, words to float by vpunpck) need the codes twice in L1
// and have the same number of operations: not built. Stored weights: vpsrlw and vpand per block and
// sub-tile; prefetcht1 4 KB ahead, then prefetcht0 1 KB ahead: prefetcht1 alone, 4 or 8 KB ahead,
// is 0 to 4 % slower from L3 and DRAM, and prefetcht0 alone, 1.5 or 4 KB ahead, holds the line fill
// buffers for the latency of L3: 5 to 15 % slower.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"
#include "rrs/gemm/avx2_dot.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_FUNCTIONS_BEGIN

namespace avx2 {

inline constexpr int kChunkBlocks = 32;
inline constexpr int kWideRows = 6;

// How a group is summed, and what its weights are.
inline constexpr int kLoopBlocks = 0;   // a loop over its blocks
inline constexpr int kPartsOfFour = 1;  // parts of 4 blocks, each added to totals
inline constexpr int kFourBlocks = 2;   // exactly 4 blocks, unrolled

// Consecutive groups of the same number of blocks. A block is 64 bytes of stored weights.
struct WideArgs {
  const std::uint8_t* weights;  // unpacked: [2 halves][kChunkBlocks][64]; stored: [block][64]
  const std::int8_t* codes;     // per block two steps of [tile rows] x 4 bytes, at the first row
  std::int64_t stride;          // bytes of a step, of `start` and of `s` per group: tile rows * 4
  std::int64_t blocks;          // of a group
  std::int64_t groups;          // >= 1
  const std::int32_t* start;    // [groups][tile rows] start values of the int32 sums
  const float* s;               // [groups][tile rows] activation scales
  const void* v;   // unpacked: [groups][v 16, -magic * v 16] floats; stored: [groups][16] f16
  float* out;      // [R] rows of 16 floats, 32-byte aligned
  float* scratch;  // [R][16], 32-byte aligned
};

struct alignas(32) WideConstants {
  std::int16_t ones[16];
  float minus_magic[8];
  std::uint16_t mask4[16];
  std::uint16_t mask8[16];
};
inline constexpr WideConstants kWideConstants = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {-12582912.0f, -12582912.0f, -12582912.0f, -12582912.0f, -12582912.0f, -12582912.0f,
     -12582912.0f, -12582912.0f},
    {0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f,
     0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f},
    {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}};

}  // namespace avx2

RRS_FUNCTIONS_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// Rows of a sub-tile: sums 2r (outputs 0-7) and 2r + 1 (outputs 8-15). 12, 13: weights.
#define RRS_WIDE_IF(r, text) ".if " #r " < %c[rows]\n" text ".endif\n"
#define RRS_WIDE_ROWS(M)                     \
  RRS_WIDE_IF(0, M("0", "%%ymm0", "%%ymm1")) \
  RRS_WIDE_IF(1, M("1", "%%ymm2", "%%ymm3")) \
  RRS_WIDE_IF(2, M("2", "%%ymm4", "%%ymm5")) \
  RRS_WIDE_IF(3, M("3", "%%ymm6", "%%ymm7")) \
  RRS_WIDE_IF(4, M("4", "%%ymm8", "%%ymm9")) \
  RRS_WIDE_IF(5, M("5", "%%ymm10", "%%ymm11"))
#define RRS_WIDE_W4(w4, w8) ".if %c[bits] == 4\n" w4 "\n.else\n" w8 "\n.endif\n"
#define RRS_WIDE_PRODUCT(w, q, to) \
  RRS_WIDE_W4("vpmaddubsw " q ", " w ", " to, "vpmaddwd " q ", " w ", " to)
#define RRS_WIDE_SUM(x, to) RRS_WIDE_W4("vpaddw " x ", " to ", " to, "vpaddd " x ", " to ", " to)
#define RRS_WIDE_SET(r, a, b)                                                       \
  "vpbroadcastd 4*" r "(%[a]), %%ymm15\n" RRS_WIDE_PRODUCT("%%ymm12", "%%ymm15", a) \
      RRS_WIDE_PRODUCT("%%ymm13", "%%ymm15", b)
#define RRS_WIDE_MAC(a, b)                          \
  RRS_WIDE_PRODUCT("%%ymm12", "%%ymm15", "%%ymm14") \
  RRS_WIDE_PRODUCT("%%ymm13", "%%ymm15", "%%ymm15") \
  RRS_WIDE_SUM("%%ymm14", a) RRS_WIDE_SUM("%%ymm15", b)
#define RRS_WIDE_LOW(r, a, b) "vpbroadcastd 4*" r "(%[a]), %%ymm15\n" RRS_WIDE_MAC(a, b)
#define RRS_WIDE_HIGH(r, a, b) "vpbroadcastd 4*" r "(%[a],%[stride]), %%ymm15\n" RRS_WIDE_MAC(a, b)
// Weights of the even and of the odd step of a block. Stored weights: the mask lies in register 11
// where the rows leave it free.
#define RRS_WIDE_EVEN                                                  \
  ".if %c[stored] == 0\n"                                              \
  "vmovdqa (%[w]), %%ymm12\nvmovdqa 2048(%[w]), %%ymm13\n"             \
  ".elseif %c[rows] < 6\n"                                             \
  "vpand (%[w]), %%ymm11, %%ymm12\nvpand 32(%[w]), %%ymm11, %%ymm13\n" \
  ".else\n"                                                            \
  "vmovdqa %c[mask](%[constants]), %%ymm13\n"                          \
  "vpand (%[w]), %%ymm13, %%ymm12\nvpand 32(%[w]), %%ymm13, %%ymm13\n" \
  ".endif\n"
#define RRS_WIDE_ODD                                                         \
  ".if %c[stored] == 0\n"                                                    \
  "vmovdqa 32(%[w]), %%ymm12\nvmovdqa 2080(%[w]), %%ymm13\n"                 \
  ".else\n"                                                                  \
  "vmovdqu (%[w]), %%ymm12\nvmovdqu 32(%[w]), %%ymm13\n"                     \
  "prefetcht1 4096(%[w])\nprefetcht0 1024(%[w])\n"                           \
  "vpsrlw $%c[bits], %%ymm12, %%ymm12\nvpsrlw $%c[bits], %%ymm13, %%ymm13\n" \
  ".if %c[bits] == 4\n"                                                      \
  ".if %c[rows] < 6\n"                                                       \
  "vpand %%ymm11, %%ymm12, %%ymm12\nvpand %%ymm11, %%ymm13, %%ymm13\n"       \
  ".else\n"                                                                  \
  "vpand %c[mask](%[constants]), %%ymm12, %%ymm12\n"                         \
  "vpand %c[mask](%[constants]), %%ymm13, %%ymm13\n"                         \
  ".endif\n.endif\n.endif\n"
#define RRS_WIDE_NEXT "lea (%[a],%[stride],2), %[a]\nadd $64, %[w]\n"
#define RRS_WIDE_FIRST_BLOCK                \
  RRS_WIDE_EVEN RRS_WIDE_ROWS(RRS_WIDE_SET) \
  RRS_WIDE_ODD RRS_WIDE_ROWS(RRS_WIDE_HIGH) RRS_WIDE_NEXT
#define RRS_WIDE_BLOCK                      \
  RRS_WIDE_EVEN RRS_WIDE_ROWS(RRS_WIDE_LOW) \
  RRS_WIDE_ODD RRS_WIDE_ROWS(RRS_WIDE_HIGH) RRS_WIDE_NEXT
#define RRS_WIDE_INT32(r, a, b) "vpmaddwd %%ymm12, " a ", " a "\nvpmaddwd %%ymm12, " b ", " b "\n"
#define RRS_WIDE_START(r, a, b) \
  "vpbroadcastd 4*" r           \
  "(%[start]), %%ymm15\n"       \
  "vmovdqa %%ymm15, 64*" r "(%[scratch])\nvmovdqa %%ymm15, 64*" r "+32(%[scratch])\n"
#define RRS_WIDE_TOTAL(r, a, b)            \
  "vpaddd 64*" r "(%[scratch]), " a ", " a \
  "\n"                                     \
  "vpaddd 64*" r "+32(%[scratch]), " b ", " b "\n"
#define RRS_WIDE_KEEP(r, a, b) \
  "vmovdqa " a ", 64*" r "(%[scratch])\nvmovdqa " b ", 64*" r "+32(%[scratch])\n"
#define RRS_WIDE_CARRY(r, a, b)                                                  \
  "vpaddd 64*" r "(%[out]), " a ", " a "\nvpaddd 64*" r "+32(%[out]), " b ", " b \
  "\n"                                                                           \
  "vmovdqa " a ", 64*" r "(%[out])\nvmovdqa " b ", 64*" r "+32(%[out])\n"
#define RRS_WIDE_END(r, a, b)                               \
  ".if %c[flow] != 1\n"                                     \
  "vpbroadcastd 4*" r                                       \
  "(%[start]), %%ymm15\n"                                   \
  "vpaddd %%ymm15, " a ", " a "\nvpaddd %%ymm15, " b ", " b \
  "\n"                                                      \
  ".endif\n"                                                \
  "vfmadd213ps %%ymm14, %%ymm12, " a                        \
  "\n"                                                      \
  ".if %c[stored] == 0\nvfmadd213ps 96(%[v]), %%ymm13, " b  \
  "\n"                                                      \
  ".elseif %c[rows] < 6\nvfmadd213ps %%ymm10, %%ymm13, " b  \
  "\n"                                                      \
  ".else\nvfmadd213ps (%[scratch]), %%ymm13, " b            \
  "\n.endif\n"                                              \
  "vbroadcastss 4*" r                                       \
  "(%[s]), %%ymm15\n"                                       \
  "vfmadd213ps 64*" r "(%[out]), %%ymm15, " a               \
  "\n"                                                      \
  "vfmadd213ps 64*" r "+32(%[out]), %%ymm15, " b            \
  "\n"                                                      \
  "vmovaps " a ", 64*" r "(%[out])\nvmovaps " b ", 64*" r "+32(%[out])\n"

// kCarry: groups are parts of a row; their int32 sums are added to `out`, nothing else is read.
template <int R, int kWeightBits, int kFlow, int kStored, int kCarry>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void wide_groups(  // NOLINT(readability-function-size): the tile
    const WideArgs& args) noexcept {
  const std::uint8_t* weights = args.weights;
  const std::int8_t* codes = args.codes;
  const std::int32_t* start = args.start;
  const float* s = args.s;
  const void* v = args.v;
  std::int64_t groups = args.groups;
  std::int64_t n = 0;
  __asm__ volatile(
      ".if %c[stored] && %c[rows] < 6\nvmovdqa %c[mask](%[constants]), %%ymm11\n.endif\n"
      "3:\n"
      ".if %c[flow] != 2\nmov %[blocks], %[n]\n.endif\n"
      ".if %c[flow] == 1\n" RRS_WIDE_ROWS(RRS_WIDE_START) ".endif\n"
      "4:\n"
      RRS_WIDE_FIRST_BLOCK
      ".if %c[flow] == 0\n"
      "sub $1, %[n]\n"
      "jz 2f\n"
      ".endif\n"
      "1:\n"
      ".rept %c[repeat]\n" RRS_WIDE_BLOCK ".endr\n"
      ".if %c[flow] == 0\n"
      "sub $1, %[n]\n"
      "jnz 1b\n"
      ".endif\n"
      ".if %c[flow] == 1\n"
      "vmovdqa (%[constants]), %%ymm12\n"
      RRS_WIDE_ROWS(RRS_WIDE_INT32) RRS_WIDE_ROWS(RRS_WIDE_TOTAL)
      "sub $4, %[n]\n"
      "jz 2f\n"
      RRS_WIDE_ROWS(RRS_WIDE_KEEP)
      "jmp 4b\n"
      ".endif\n"
      "2:\n"
      ".if %c[bits] == 4 && %c[flow] != 1\n"
      "vmovdqa (%[constants]), %%ymm12\n"
      RRS_WIDE_ROWS(RRS_WIDE_INT32)
      ".endif\n"
      ".if %c[carry]\n" RRS_WIDE_ROWS(RRS_WIDE_CARRY)
      ".else\n"
      ".if %c[stored]\n"
      "vcvtph2ps (%[v]), %%ymm12\n"
      "vcvtph2ps 16(%[v]), %%ymm13\n"
      "vmulps 32(%[constants]), %%ymm12, %%ymm14\n"
      ".if %c[rows] < 6\n"
      "vmulps 32(%[constants]), %%ymm13, %%ymm10\n"
      ".else\n"
      "vmulps 32(%[constants]), %%ymm13, %%ymm15\nvmovaps %%ymm15, (%[scratch])\n"
      ".endif\n"
      ".else\n"
      "vmovaps (%[v]), %%ymm12\n"
      "vmovaps 32(%[v]), %%ymm13\n"
      "vmovaps 64(%[v]), %%ymm14\n"
      ".endif\n"
      RRS_WIDE_ROWS(RRS_WIDE_END)
      "add %[stride], %[start]\n"
      "add %[stride], %[s]\n"
      "add $%c[vstep], %[v]\n"
      ".endif\n"
      "sub $1, %[groups]\n"
      "jnz 3b\n"
      : [w] "+r"(weights), [a] "+r"(codes), [n] "+r"(n), [start] "+r"(start), [s] "+r"(s),
        [v] "+r"(v), [groups] "+r"(groups)
      : [stride] "r"(args.stride), [blocks] "r"(args.blocks), [out] "r"(args.out),
        [scratch] "r"(args.scratch), [constants] "r"(&kWideConstants), [rows] "i"(R),
        [bits] "i"(kWeightBits), [flow] "i"(kFlow), [stored] "i"(kStored),
        [carry] "i"(kCarry), [repeat] "i"(kFlow == kLoopBlocks ? 1 : 3),
        [mask] "i"(kWeightBits == 4 ? 64 : 96), [vstep] "i"(kStored ? 32 : 128)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

#undef RRS_WIDE_IF
#undef RRS_WIDE_ROWS
#undef RRS_WIDE_W4
#undef RRS_WIDE_PRODUCT
#undef RRS_WIDE_SUM
#undef RRS_WIDE_SET
#undef RRS_WIDE_MAC
#undef RRS_WIDE_LOW
#undef RRS_WIDE_HIGH
#undef RRS_WIDE_EVEN
#undef RRS_WIDE_ODD
#undef RRS_WIDE_NEXT
#undef RRS_WIDE_FIRST_BLOCK
#undef RRS_WIDE_BLOCK
#undef RRS_WIDE_INT32
#undef RRS_WIDE_START
#undef RRS_WIDE_TOTAL
#undef RRS_WIDE_KEEP
#undef RRS_WIDE_CARRY
#undef RRS_WIDE_END

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
