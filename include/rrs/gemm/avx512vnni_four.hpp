// One group of R <= 6 rows x 4 panels of the VNNI tiles of many rows, as one block of assembly.
//
// from: wide_four (avx512vnni_sub.hpp).
// Instructions: vpdpbusd zmm p0/p5; loads and broadcasts of 32 bits on the load ports only.
// Registers: 24 sums (8 to 31: row r, panel p in 8 + 4 r + p), 4 weights (0 to 3), broadcast codes
// (4, 5); at the group end v and c of a panel (0, 1) and the scales of the rows (2 to 7).
// Why assembly. The compilers' loops hold the same instructions, but g++ puts them at any multiple
// of 16 bytes and finishes a group row by row: in L1 it takes 1.05, 1.06 and 1.05 times as long at
// groups of 128, 64 and 32 (Granite Rapids: 110, 98 and 76 products per cycle against 115, 104 and
// 79.5), and int32 sums alone 1.04 to 1.15 times, by placement. Group ends, same unit: row by row
// 116, 98, 76; v and c of all panels in registers first 112, 100, 76; panel by panel 114, 102, 79;
// panel by panel with the six first products before the six second ones, as here, 115, 104, 79.5.
// Sums that start as copies instead of broadcasts from memory: 0 to 3 % faster.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"

#if RRS_X86_64

RRS_TYPES_BEGIN

// Inputs of one group; pointers are at the first row.
struct FourPanels {
  const std::uint8_t* weights;  // 64 bytes per 4 inputs: 16 outputs
  std::int64_t panel_step;      // bytes from one panel to the next
  const std::int8_t* codes;     // [steps][row_step]
  std::int64_t row_step;        // bytes of a step: rows of the tile * 4
  std::int64_t steps;           // of 4 inputs, >= 1
};

RRS_TYPES_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512vnni {

#define RRS_FOUR_IF(r, text) ".if " #r " < %c[rows]\n" text ".endif\n"
// M(offset of the row's code, its broadcast, its four sums)
#define RRS_FOUR_ROWS(M)                                                        \
  RRS_FOUR_IF(0, M("0", "%%zmm4", "%%zmm8", "%%zmm9", "%%zmm10", "%%zmm11"))    \
  RRS_FOUR_IF(1, M("4", "%%zmm5", "%%zmm12", "%%zmm13", "%%zmm14", "%%zmm15"))  \
  RRS_FOUR_IF(2, M("8", "%%zmm4", "%%zmm16", "%%zmm17", "%%zmm18", "%%zmm19"))  \
  RRS_FOUR_IF(3, M("12", "%%zmm5", "%%zmm20", "%%zmm21", "%%zmm22", "%%zmm23")) \
  RRS_FOUR_IF(4, M("16", "%%zmm4", "%%zmm24", "%%zmm25", "%%zmm26", "%%zmm27")) \
  RRS_FOUR_IF(5, M("20", "%%zmm5", "%%zmm28", "%%zmm29", "%%zmm30", "%%zmm31"))
#define RRS_FOUR_START(at, q, a, b, c, d) \
  "vpbroadcastd " at "(%[start]), " a     \
  "\n"                                    \
  "vmovdqa64 " a ", " b "\nvmovdqa64 " a ", " c "\nvmovdqa64 " a ", " d "\n"
#define RRS_FOUR_DOT(at, q, a, b, c, d) \
  "vpbroadcastd " at "(%[codes]), " q   \
  "\n"                                  \
  "vpdpbusd " q ", %%zmm0, " a          \
  "\n"                                  \
  "vpdpbusd " q ", %%zmm1, " b          \
  "\n"                                  \
  "vpdpbusd " q ", %%zmm2, " c          \
  "\n"                                  \
  "vpdpbusd " q ", %%zmm3, " d "\n"
// Sums of the row at byte 64 * `at` (256 bytes per 4) of `out`.
#define RRS_FOUR_LOAD(at, q, a, b, c, d)                                   \
  "vmovdqu64 64*" at "(%[out]), " a "\nvmovdqu64 64*" at "+64(%[out]), " b \
  "\n"                                                                     \
  "vmovdqu64 64*" at "+128(%[out]), " c "\nvmovdqu64 64*" at "+192(%[out]), " d "\n"
#define RRS_FOUR_STORE(at, q, a, b, c, d)                       \
  "vmovdqu64 " a ", 64*" at "(%[out])\nvmovdqu64 " b ", 64*" at \
  "+64(%[out])"                                                 \
  "\n"                                                          \
  "vmovdqu64 " c ", 64*" at "+128(%[out])\nvmovdqu64 " d ", 64*" at "+192(%[out])\n"
#define RRS_FOUR_LOOP \
  ".p2align 6\n"                                                             \
  "1:\n"                                                                     \
  "vmovdqu64 (%[w]), %%zmm0\n"                                               \
  "vmovdqu64 (%[w],%[step]), %%zmm1\n"                                       \
  "vmovdqu64 (%[w],%[step],2), %%zmm2\n"                                     \
  "vmovdqu64 (%[w],%[step3]), %%zmm3\n" RRS_FOUR_ROWS(RRS_FOUR_DOT)          \
  "add $64, %[w]\n"                                                          \
  "add %[row_step], %[codes]\n"                                              \
  "sub $1, %[n]\n"                                                           \
  "jnz 1b\n"
// Panel at byte p of a row: acc = fma(fma(f, v, c), s, acc).
#define RRS_FOUR_PANEL(p, r0, r1, r2, r3, r4, r5)                              \
  "vmovaps " p "(%[vc]), %%zmm0\nvmovaps 256+" p                               \
  "(%[vc]), %%zmm1\n" RRS_FOUR_EACH(RRS_FOUR_SCALE, p, r0, r1, r2, r3, r4, r5) \
      RRS_FOUR_EACH(RRS_FOUR_ADD, p, r0, r1, r2, r3, r4, r5)                   \
          RRS_FOUR_EACH(RRS_FOUR_KEEP, p, r0, r1, r2, r3, r4, r5)
#define RRS_FOUR_EACH(M, p, r0, r1, r2, r3, r4, r5) \
  RRS_FOUR_IF(0, M(p, "0", "%%zmm2", r0))           \
  RRS_FOUR_IF(1, M(p, "256", "%%zmm3", r1))         \
  RRS_FOUR_IF(2, M(p, "512", "%%zmm4", r2))         \
  RRS_FOUR_IF(3, M(p, "768", "%%zmm5", r3))         \
  RRS_FOUR_IF(4, M(p, "1024", "%%zmm6", r4)) RRS_FOUR_IF(5, M(p, "1280", "%%zmm7", r5))
#define RRS_FOUR_SCALE(p, row, s, acc) "vfmadd213ps %%zmm1, %%zmm0, " acc "\n"
#define RRS_FOUR_ADD(p, row, s, acc) "vfmadd213ps " row "+" p "(%[out]), " s ", " acc "\n"
#define RRS_FOUR_KEEP(p, row, s, acc) "vmovups " acc ", " row "+" p "(%[out])\n"
#define RRS_FOUR_S(r, at, to) RRS_FOUR_IF(r, "vbroadcastss " at "(%[s]), " to "\n")
#define RRS_FOUR_CLOBBERS                                                                         \
  "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
      "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19",   \
      "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29",   \
      "xmm30", "xmm31"

// out [R][4][16] floats += one group: start [R] with the magic number of avx512_block.hpp, vc [v of
// four panels, then -magic * v], s [R].
template <unsigned R>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void four_group(const FourPanels& f,
                                                       const std::int32_t* start, const float* vc,
                                                       const float* s, float* out) noexcept {
  const std::uint8_t* w = f.weights;
  const std::int8_t* codes = f.codes;
  std::int64_t n = f.steps;
  __asm__ volatile(
      RRS_FOUR_ROWS(RRS_FOUR_START) RRS_FOUR_LOOP RRS_FOUR_S(0, "0", "%%zmm2") RRS_FOUR_S(
          1, "4", "%%zmm3") RRS_FOUR_S(2, "8", "%%zmm4") RRS_FOUR_S(3, "12", "%%zmm5")
          RRS_FOUR_S(4, "16", "%%zmm6") RRS_FOUR_S(5, "20", "%%zmm7") RRS_FOUR_PANEL(
              "0", "%%zmm8", "%%zmm12", "%%zmm16", "%%zmm20", "%%zmm24", "%%zmm28")
              RRS_FOUR_PANEL("64", "%%zmm9", "%%zmm13", "%%zmm17", "%%zmm21", "%%zmm25", "%%zmm29")
                  RRS_FOUR_PANEL("128", "%%zmm10", "%%zmm14", "%%zmm18", "%%zmm22", "%%zmm26",
                                 "%%zmm30") RRS_FOUR_PANEL("192", "%%zmm11", "%%zmm15", "%%zmm19",
                                                           "%%zmm23", "%%zmm27", "%%zmm31")
      : [w] "+&r"(w), [codes] "+&r"(codes), [n] "+&r"(n)
      : [step] "r"(f.panel_step), [step3] "r"(3 * f.panel_step), [row_step] "r"(f.row_step),
        [start] "r"(start), [vc] "r"(vc), [s] "r"(s), [out] "r"(out), [rows] "i"(R)
      : RRS_FOUR_CLOBBERS);
}

// out [R][4][16] int32 += all products.
template <unsigned R>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void four_carry(const FourPanels& f, float* out) noexcept {
  const std::uint8_t* w = f.weights;
  const std::int8_t* codes = f.codes;
  std::int64_t n = f.steps;
  __asm__ volatile(RRS_FOUR_ROWS(RRS_FOUR_LOAD) RRS_FOUR_LOOP RRS_FOUR_ROWS(RRS_FOUR_STORE)
                   : [w] "+&r"(w), [codes] "+&r"(codes), [n] "+&r"(n)
                   : [step] "r"(f.panel_step), [step3] "r"(3 * f.panel_step),
                     [row_step] "r"(f.row_step), [out] "r"(out), [rows] "i"(R)
                   : RRS_FOUR_CLOBBERS);
}

#undef RRS_FOUR_IF
#undef RRS_FOUR_ROWS
#undef RRS_FOUR_START
#undef RRS_FOUR_DOT
#undef RRS_FOUR_LOAD
#undef RRS_FOUR_STORE
#undef RRS_FOUR_LOOP
#undef RRS_FOUR_PANEL
#undef RRS_FOUR_EACH
#undef RRS_FOUR_SCALE
#undef RRS_FOUR_ADD
#undef RRS_FOUR_KEEP
#undef RRS_FOUR_S
#undef RRS_FOUR_CLOBBERS

}  // namespace avx512vnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
