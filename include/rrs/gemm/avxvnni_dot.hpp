// AVX-VNNI (vpdpbusd on 256 bits, no AVX-512) inner product of a run of whole groups: R <= 6 rows x
// 16 outputs, as one block of assembly.
//
// from: avxvnni.hpp.  Layouts of weights, codes and scales: WideArgs in avx2_chunk.hpp.
//   instruction      Golden Cove, Gracemont   use
//   vpdpbusd         ports 0 1, latency 5     32 MACs
//   vpbroadcastd     load                     1 per 2 vpdpbusd
//   vfmadd           ports 0 1                2 per 8 sums and group
// Bound 64 MAC/cycle. A step of 6 rows is 12 vpdpbusd = 6 cycles, so the latency of 5 is covered;
// up to 3 rows have a second set of sums for odd steps. A group end is two fused multiply-adds (the
// start value and the float trick: avx2_dot.hpp): 12 cycles per 12 sums, so groups of 32 reach at
// most 0.85 of groups of 128. Stored weights of W4: vpsrlw and vpand in registers; W8 are read as
// they are. Registers: 12 sums, weights (12, 13), mask and, at the group end, c (14), code (15).
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/gemm/avx2_chunk.hpp"

#if RRS_HAS_AVXVNNI

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avxvnni {

// Sums of a row for even and odd steps; the same registers from 4 rows on.
#define RRS_VNNI_ROW(r, text) ".if " #r " < %c[rows]\n" text ".endif\n"
#define RRS_VNNI_ROWS(M)                                                                          \
  ".if %c[rows] <= 3\n" RRS_VNNI_ROW(0, M("0", "%%ymm0", "%%ymm1", "%%ymm6", "%%ymm7"))           \
      RRS_VNNI_ROW(1, M("1", "%%ymm2", "%%ymm3", "%%ymm8", "%%ymm9")) RRS_VNNI_ROW(               \
          2, M("2", "%%ymm4", "%%ymm5", "%%ymm10",                                                \
               "%%ymm11")) ".else\n" RRS_VNNI_ROW(0,                                              \
                                                  M("0", "%%ymm0", "%%ymm1", "%%ymm0", "%%ymm1")) \
          RRS_VNNI_ROW(1, M("1", "%%ymm2", "%%ymm3", "%%ymm2", "%%ymm3"))                         \
              RRS_VNNI_ROW(2, M("2", "%%ymm4", "%%ymm5", "%%ymm4", "%%ymm5"))                     \
                  RRS_VNNI_ROW(3, M("3", "%%ymm6", "%%ymm7", "%%ymm6", "%%ymm7"))                 \
                      RRS_VNNI_ROW(4, M("4", "%%ymm8", "%%ymm9", "%%ymm8", "%%ymm9"))             \
                          RRS_VNNI_ROW(                                                           \
                              5, M("5", "%%ymm10", "%%ymm11", "%%ymm10", "%%ymm11")) ".endif\n"
#define RRS_VNNI_MAC(a, b)                \
  "%{vex%} vpdpbusd %%ymm15, %%ymm12, " a \
  "\n"                                    \
  "%{vex%} vpdpbusd %%ymm15, %%ymm13, " b "\n"
#define RRS_VNNI_EVEN(r, a, b, c, d) "vpbroadcastd 4*" r "(%[a]), %%ymm15\n" RRS_VNNI_MAC(a, b)
#define RRS_VNNI_ODD(r, a, b, c, d) \
  "vpbroadcastd 4*" r "(%[a],%[stride]), %%ymm15\n" RRS_VNNI_MAC(c, d)
#define RRS_VNNI_START(r, a, b, c, d)                        \
  "vpbroadcastd 4*" r "(%[start]), " a "\nvmovdqa " a ", " b \
  "\n"                                                       \
  ".if %c[rows] <= 3\nvpxor " c ", " c ", " c "\nvpxor " d ", " d ", " d "\n.endif\n"
// tmp = isum * v, rounded once; out = fma(tmp, s, out). Row sums may pass 2^22: conversion there.
#define RRS_VNNI_END(r, a, b, c, d)                                                            \
  ".if %c[rows] <= 3\nvpaddd " c ", " a ", " a "\nvpaddd " d ", " b ", " b                     \
  "\n.endif\n"                                                                                 \
  ".if %c[row_sums]\n"                                                                         \
  "vcvtdq2ps " a ", " a "\nvcvtdq2ps " b ", " b                                                \
  "\n"                                                                                         \
  "vmulps %%ymm12, " a ", " a "\nvmulps %%ymm13, " b ", " b                                    \
  "\n"                                                                                         \
  ".else\n"                                                                                    \
  "vfmadd213ps %%ymm14, %%ymm12, " a "\nvfmadd213ps 32(%[c]), %%ymm13, " b                     \
  "\n"                                                                                         \
  ".endif\n"                                                                                   \
  "vbroadcastss 4*" r                                                                          \
  "(%[s]), %%ymm15\n"                                                                          \
  "vfmadd213ps 64*" r "(%[out]), %%ymm15, " a "\nvfmadd213ps 64*" r "+32(%[out]), %%ymm15, " b \
  "\nvmovaps " a ", 64*" r "(%[out])\nvmovaps " b ", 64*" r "+32(%[out])\n"
// One block: two steps of W4, two blocks of 4 inputs of W8.
#define RRS_VNNI_BLOCK \
  ".if %c[bits] == 8\n"                                                                    \
  "vmovdqu (%[w]), %%ymm12\nvmovdqu 32(%[w]), %%ymm13\n"                                   \
  ".elseif %c[stored]\n"                                                                   \
  "vpand (%[w]), %%ymm14, %%ymm12\nvpand 32(%[w]), %%ymm14, %%ymm13\n"                     \
  ".else\n"                                                                                \
  "vmovdqa (%[w]), %%ymm12\nvmovdqa 2048(%[w]), %%ymm13\n"                                 \
  ".endif\n" RRS_VNNI_ROWS(RRS_VNNI_EVEN)                                                  \
  ".if %c[stored]\nprefetcht1 4096(%[w])\nprefetcht0 1024(%[w])\n.endif\n"                 \
  ".if %c[bits] == 8\n"                                                                    \
  "vmovdqu 64(%[w]), %%ymm12\nvmovdqu 96(%[w]), %%ymm13\n"                                 \
  "prefetcht1 4160(%[w])\nprefetcht0 1088(%[w])\n"                                         \
  ".elseif %c[stored]\n"                                                                   \
  "vmovdqu (%[w]), %%ymm12\nvmovdqu 32(%[w]), %%ymm13\n"                                   \
  "vpsrlw $4, %%ymm12, %%ymm12\nvpsrlw $4, %%ymm13, %%ymm13\n"                             \
  "vpand %%ymm14, %%ymm12, %%ymm12\nvpand %%ymm14, %%ymm13, %%ymm13\n"                     \
  ".else\n"                                                                                \
  "vmovdqa 32(%[w]), %%ymm12\nvmovdqa 2080(%[w]), %%ymm13\n"                               \
  ".endif\n" RRS_VNNI_ROWS(RRS_VNNI_ODD)                                                   \
  "lea (%[a],%[stride],2), %[a]\nadd $%c[block_bytes], %[w]\n"

// args.blocks counts 8 inputs here, for W8 too. kRowSums: one group without the float trick.
template <int R, int kWeightBits, int kStored, int kRowSums>
RRS_TARGET_AVXVNNI RRS_FORCE_INLINE void dot_groups(const avx2::WideArgs& args) noexcept {
  const std::uint8_t* weights = args.weights;
  const std::int8_t* codes = args.codes;
  const std::int32_t* start = args.start;
  const float* s = args.s;
  const void* v = args.v;
  const void* c = args.scratch;
  std::int64_t groups = args.groups;
  std::int64_t n = 0;
  __asm__ volatile(
      ".if %c[stored] == 0\nlea 64(%[v]), %[c]\n.endif\n"
      "3:\n"
      "mov %[blocks], %[n]\n"
      ".if %c[stored] && %c[bits] == 4\nvmovdqa 64(%[constants]), %%ymm14\n.endif\n"
      RRS_VNNI_ROWS(RRS_VNNI_START)
      "1:\n"
      RRS_VNNI_BLOCK
      "sub $1, %[n]\n"
      "jnz 1b\n"
      ".if %c[stored]\n"
      "vcvtph2ps (%[v]), %%ymm12\nvcvtph2ps 16(%[v]), %%ymm13\n"
      "vmulps 32(%[constants]), %%ymm13, %%ymm14\nvmovaps %%ymm14, 32(%[c])\n"
      "vmulps 32(%[constants]), %%ymm12, %%ymm14\n"
      ".else\n"
      "vmovaps (%[v]), %%ymm12\nvmovaps 32(%[v]), %%ymm13\nvmovaps 64(%[v]), %%ymm14\n"
      ".endif\n"
      RRS_VNNI_ROWS(RRS_VNNI_END)
      "add %[stride], %[start]\n"
      "add %[stride], %[s]\n"
      "add $%c[vstep], %[v]\n"
      ".if %c[stored] == 0\nadd $128, %[c]\n.endif\n"
      "sub $1, %[groups]\n"
      "jnz 3b\n"
      : [w] "+r"(weights), [a] "+r"(codes), [n] "+r"(n), [start] "+r"(start), [s] "+r"(s),
        [v] "+r"(v), [groups] "+r"(groups), [c] "+r"(c)
      : [stride] "r"(args.stride), [blocks] "rm"(args.blocks), [out] "r"(args.out),
        [constants] "r"(&avx2::kWideConstants), [rows] "i"(R), [bits] "i"(kWeightBits),
        [stored] "i"(kStored), [row_sums] "i"(kRowSums),
        [block_bytes] "i"(kWeightBits == 8 ? 128 : 64), [vstep] "i"(kStored ? 32 : 128)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

#undef RRS_VNNI_ROW
#undef RRS_VNNI_ROWS
#undef RRS_VNNI_MAC
#undef RRS_VNNI_EVEN
#undef RRS_VNNI_ODD
#undef RRS_VNNI_START
#undef RRS_VNNI_END
#undef RRS_VNNI_BLOCK

}  // namespace avxvnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
