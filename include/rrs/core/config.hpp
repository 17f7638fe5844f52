// Compiler switches: target attributes, inlining, and the namespaces that keep kernels apart.
//
// Why two namespaces. A header-only library is compiled into many translation units, perhaps with
// different -m flags. Inline functions are weak symbols: the linker keeps one copy, and if that
// copy came from a file built with -march=skylake-avx512, the "scalar" code of the whole program
// would contain AVX-512. So every function lives in an inline namespace whose name encodes the
// baseline flags, and each file calls its own copy. Types stay in the plain version namespace, so
// that objects can be passed between such files.
//
//   RRS_TYPES_BEGIN ... RRS_TYPES_END          rrs::v0_1            types, enums, POD constants
//   RRS_FUNCTIONS_BEGIN ... RRS_FUNCTIONS_END  rrs::v0_1::<flags>   everything that emits code
//
// Details of types go into rrs::v0_1::internal, those of functions into rrs::v0_1::<flags>::detail:
// one name for both would mean one or two namespaces depending on the order of includes. Member
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

// The tag: the flags that let a compiler put other instructions into a baseline function, or other
// arithmetic, as far as its macros tell. The highest of the sets that contain each other, then a
// code for each other set and for each part of -ffast-math. g++ 12 tells of all parts, except of
// -fassociative-math alone; clang++ 14 only of -ffast-math itself and -ffinite-math-only.
// -fno-math-errno and -fno-trapping-math change no result, so such files share functions and link
// with kernels compiled once. Flags without a macro (clang's -freciprocal-math, -ffp-contract,
// -fwrapv, ...) are not seen: files that differ in these share functions, which is unsupported.
// Give them to all files of a program or to none.
#if defined(__AVX512F__)
#define RRS_TAG_SIMD simd_avx512_
#elif defined(__AVX2__)
#define RRS_TAG_SIMD simd_avx2_
#elif defined(__AVX__)
#define RRS_TAG_SIMD simd_avx_
#elif defined(__SSE4_2__)
#define RRS_TAG_SIMD simd_sse42_
#elif defined(__SSE4_1__)
#define RRS_TAG_SIMD simd_sse4_
#elif defined(__SSSE3__)
#define RRS_TAG_SIMD simd_ssse3_
#elif defined(__SSE3__)
#define RRS_TAG_SIMD simd_sse3_
#else
#define RRS_TAG_SIMD simd_base_
#endif
#define RRS_PASTE2_(a, b) a##b
#define RRS_PASTE2(a, b) RRS_PASTE2_(a, b)
#define RRS_PASTE4_(a, b, c, d) a##b##c##d
#define RRS_PASTE4(a, b, c, d) RRS_PASTE4_(a, b, c, d)
#define RRS_PASTE8_(a, b, c, d, e, f, g, h) a##b##c##d##e##f##g##h
#define RRS_PASTE8(a, b, c, d, e, f, g, h) RRS_PASTE8_(a, b, c, d, e, f, g, h)
#if defined(__GNUC__) || defined(__clang__)
// The code if the macro is 1, nothing if it is 0 or there is no such macro: RRS_ONE_1 alone brings
// a comma. A code starts with a digit, so that no macro of the user can have its name.
#define RRS_ONE_1 0,
#define RRS_SECOND(first, second, ...) second
#define RRS_CODE_2(one, code) RRS_SECOND(one code, , )
#define RRS_CODE_1(macro, code) RRS_CODE_2(RRS_ONE_##macro, code)
#define RRS_CODE(macro, code) RRS_CODE_1(macro, code)
#define RRS_TAG_MATH                                                                 \
  RRS_PASTE8(RRS_CODE(__FAST_MATH__, 8f), RRS_CODE(__RECIPROCAL_MATH__, 8r),         \
             RRS_CODE(__ASSOCIATIVE_MATH__, 8a), RRS_CODE(__FINITE_MATH_ONLY__, 8i), \
             RRS_CODE(__NO_SIGNED_ZEROS__, 8z), RRS_CODE(__ROUNDING_MATH__, 8d), , )
#else
#define RRS_TAG_MATH
#endif
#if RRS_X86_64
#define RRS_TAG_SCALAR                                                                \
  RRS_PASTE8(RRS_CODE(__POPCNT__, 1p), RRS_CODE(__BMI__, 1b), RRS_CODE(__BMI2__, 2b), \
             RRS_CODE(__LZCNT__, 1l), RRS_CODE(__MOVBE__, 1m), RRS_CODE(__ADX__, 1a), \
             RRS_CODE(__TBM__, 1t), RRS_CODE(__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16, 1s))
#define RRS_TAG_VECTOR                                                                 \
  RRS_PASTE8(RRS_CODE(__FMA__, 3f), RRS_CODE(__F16C__, 3h), RRS_CODE(__AVXVNNI__, 3v), \
             RRS_CODE(__GFNI__, 3g), RRS_CODE(__VAES__, 3e), RRS_CODE(__XOP__, 3x),    \
             RRS_CODE(__FMA4__, 4f), RRS_CODE(__SSE4A__, 4a))
#define RRS_TAG_AVX512                                                                           \
  RRS_PASTE8(RRS_CODE(__AVX512BW__, 5b), RRS_CODE(__AVX512DQ__, 5d), RRS_CODE(__AVX512VL__, 5l), \
             RRS_CODE(__AVX512CD__, 5c), RRS_CODE(__AVX512VNNI__, 5n),                           \
             RRS_CODE(__AVX512VBMI__, 5v), RRS_CODE(__AVX512VBMI2__, 6v),                        \
             RRS_CODE(__AVX512IFMA__, 5i))
#define RRS_TAG_LATER                                                           \
  RRS_PASTE8(RRS_CODE(__AVX512BITALG__, 5a), RRS_CODE(__AVX512VPOPCNTDQ__, 5p), \
             RRS_CODE(__AVX512BF16__, 5f), RRS_CODE(__AVX512FP16__, 5h),        \
             RRS_CODE(__AVX512ER__, 5e), RRS_CODE(__AVX5124FMAPS__, 5m),        \
             RRS_CODE(__AMX_TILE__, 7t), RRS_CODE(__AMXTILE__, 7t)) /* g++, clang++ */
#define RRS_TAG_SETS RRS_PASTE4(RRS_TAG_SCALAR, RRS_TAG_VECTOR, RRS_TAG_AVX512, RRS_TAG_LATER)
#else
#define RRS_TAG_SETS
#endif
#if RRS_EXTERNAL_KERNELS
#define RRS_TAG_KERNELS external_
#else
#define RRS_TAG_KERNELS
#endif
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define RRS_TAG_EXCEPTIONS
#else
#define RRS_TAG_EXCEPTIONS no_throw
#endif
// Kernels have no exceptions to lose: rrs/kernels.cpp serves files with and without.
#define RRS_KERNELS_TAG RRS_PASTE4(RRS_TAG_SIMD, RRS_TAG_SETS, RRS_TAG_MATH, RRS_TAG_KERNELS)
#define RRS_BASELINE_TAG RRS_PASTE2(RRS_KERNELS_TAG, RRS_TAG_EXCEPTIONS)

// Before 1.0 a minor version may change a type.
#define RRS_VERSION_TAG_2(major, minor) v##major##_##minor
#define RRS_VERSION_TAG_1(major, minor) RRS_VERSION_TAG_2(major, minor)
#define RRS_VERSION_TAG RRS_VERSION_TAG_1(RRS_VERSION_MAJOR, RRS_VERSION_MINOR)

#define RRS_TYPES_BEGIN \
  namespace rrs {       \
  inline namespace RRS_VERSION_TAG {
#define RRS_TYPES_END \
  }                   \
  }
#define RRS_FUNCTIONS_BEGIN          \
  namespace rrs {                    \
  inline namespace RRS_VERSION_TAG { \
  inline namespace RRS_BASELINE_TAG {
#define RRS_FUNCTIONS_END \
  }                       \
  }                       \
  }
// The table of rrs/kernels.cpp.
#define RRS_KERNELS_BEGIN            \
  namespace rrs {                    \
  inline namespace RRS_VERSION_TAG { \
  inline namespace RRS_KERNELS_TAG {
#define RRS_KERNELS_END RRS_FUNCTIONS_END

RRS_FUNCTIONS_BEGIN

// RRS_VERSION of the headers that this file was compiled with, for what cannot see macros.
RRS_FORCE_INLINE int version() noexcept { return RRS_VERSION; }

RRS_FUNCTIONS_END
