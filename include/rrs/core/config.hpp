// Compiler switches: target attributes, inlining, and the namespaces that keep kernels apart.
//
// Why two namespaces. A header-only library is compiled into many translation units, perhaps with
// different -m flags. Inline functions are weak symbols: the linker keeps one copy, and if that
// copy came from a file built with -march=skylake-avx512, the "scalar" code of the whole program
// would contain AVX-512. So every function lives in an inline namespace whose name encodes the
// baseline flags, and each file calls its own copy. Types stay in the plain version namespace, so
// that objects can be passed between such files.
//
//   RRS_TYPES_BEGIN ... RRS_TYPES_END          rrs::v0            types, enums, POD constants
//   RRS_FUNCTIONS_BEGIN ... RRS_FUNCTIONS_END  rrs::v0::<flags>   everything that emits code
//
// Details of types go into rrs::v0::internal, those of functions into rrs::v0::<flags>::detail: one
// name for both would mean one or two namespaces depending on the order of includes. Member
// functions of types are RRS_MEMBER (forced inline), for the same reason, and so are the
// destructors and moves of Workspace, PreparedWeight and Explanation, which the compiler would
// write. .ci/check_odd_builds compares the symbols of two such files and runs the plain one on a
// CPU without the other's instructions. What the standard library shares between the files
// (strings, in messages) is beyond us.
//
// Kernels carry RRS_TARGET_<LEVEL>; nothing in this library needs an -m flag. Lambdas do not
// inherit the attribute: do not use them inside kernels. A multiplication that feeds an addition is
// always written as an explicit fused operation, so floating-point contraction can change nothing.
#pragma once

#include "rrs/core/version.hpp"

// The x86 levels use target attributes and inline assembly of GNU C: with any other compiler, MSVC
// among them, the scalar level is all there is.
#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
#define RRS_X86_64 1
#else
#define RRS_X86_64 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define RRS_FORCE_INLINE inline __attribute__((always_inline))
#define RRS_RESTRICT __restrict__
#define RRS_TARGET(features) __attribute__((target(features)))
#else
#define RRS_FORCE_INLINE __forceinline
#define RRS_RESTRICT __restrict
#define RRS_TARGET(features)
#endif
#define RRS_MEMBER RRS_FORCE_INLINE

// AVX-VNNI needs compilers that know it, and an assembler that knows the prefix {vex}.
#if RRS_X86_64 && ((defined(__clang__) && __clang_major__ >= 12) || \
                   (!defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 11))
#define RRS_HAS_AVXVNNI 1
#else
#define RRS_HAS_AVXVNNI 0
#endif

// AMX exists where the compiler, the assembler and the operating system know it: Linux lets a
// process use tile registers only after it has asked (core/cpu.hpp). Elsewhere the level is absent.
#if RRS_X86_64 && defined(__linux__) &&               \
    ((defined(__clang__) && __clang_major__ >= 12) || \
     (!defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 11))
#define RRS_HAS_AMX 1
#else
#define RRS_HAS_AMX 0
#endif

// Each string names exactly the features that core/cpu.hpp checks for the level of the same name.
#define RRS_TARGET_AVX2 RRS_TARGET("avx2,fma,f16c")
#define RRS_TARGET_AVXVNNI RRS_TARGET("avx2,fma,f16c,avxvnni")
#define RRS_TARGET_AVX512 RRS_TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#define RRS_TARGET_AVX512VNNI \
  RRS_TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

// Register tiles are arrays; they stay in registers only if every loop over them is unrolled.
#if defined(__clang__)
#define RRS_UNROLL_FULL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define RRS_UNROLL_FULL _Pragma("GCC unroll 64")
#else
#define RRS_UNROLL_FULL
#endif

#define RRS_TARGET_AMX \
  RRS_TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8")

// GCC 12 warns about "uninitialized" variables inside its own AVX-512 intrinsics, in the user's
// build. ISA files wrap their functions in this pair.
#if defined(__GNUC__) && !defined(__clang__)
#define RRS_ISA_WARNINGS_PUSH                                                          \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wuninitialized\"") \
      _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")
#define RRS_ISA_WARNINGS_POP _Pragma("GCC diagnostic pop")
#else
#define RRS_ISA_WARNINGS_PUSH
#define RRS_ISA_WARNINGS_POP
#endif

// 1: the kernels are in rrs/kernels.cpp, compiled once, and not in every file that includes rrs.
#if !defined(RRS_EXTERNAL_KERNELS)
#define RRS_EXTERNAL_KERNELS 0
#endif

// The tag: the flags that commonly change the code of a baseline function. Flags within one level
// (VBMI, FP16, ...) share a tag: mixing those in one program needs a CPU that has them all.
#if defined(__AVX512VNNI__)
#define RRS_TAG_SIMD simd_avx512vnni
#elif defined(__AVX512F__)
#define RRS_TAG_SIMD simd_avx512
#elif defined(__AVX2__)
#define RRS_TAG_SIMD simd_avx2
#elif defined(__AVX__)
#define RRS_TAG_SIMD simd_avx
#elif defined(__SSE4_1__)
#define RRS_TAG_SIMD simd_sse4
#else
#define RRS_TAG_SIMD simd_base
#endif
#if defined(__FMA__)
#define RRS_TAG_FMA _fma
#else
#define RRS_TAG_FMA
#endif
#if defined(__FAST_MATH__)
#define RRS_TAG_MATH _fast
#else
#define RRS_TAG_MATH
#endif
#if RRS_EXTERNAL_KERNELS
#define RRS_TAG_KERNELS _external
#else
#define RRS_TAG_KERNELS
#endif
#define RRS_PASTE4_(a, b, c, d) a##b##c##d
#define RRS_PASTE4(a, b, c, d) RRS_PASTE4_(a, b, c, d)
#define RRS_BASELINE_TAG RRS_PASTE4(RRS_TAG_SIMD, RRS_TAG_FMA, RRS_TAG_MATH, RRS_TAG_KERNELS)

#define RRS_TYPES_BEGIN \
  namespace rrs {       \
  inline namespace v0 {
#define RRS_TYPES_END \
  }                   \
  }
#define RRS_FUNCTIONS_BEGIN \
  namespace rrs {           \
  inline namespace v0 {     \
  inline namespace RRS_BASELINE_TAG {
#define RRS_FUNCTIONS_END \
  }                       \
  }                       \
  }

RRS_FUNCTIONS_BEGIN

// RRS_VERSION of the headers that this file was compiled with, for what cannot see macros.
RRS_FORCE_INLINE int version() noexcept { return RRS_VERSION; }

RRS_FUNCTIONS_END
