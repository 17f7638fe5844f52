// What the CPU has and what the operating system lets us use: CPUID and XCR0.
//
// A feature is reported only if its CPUID bit is set *and* the OS saves the registers it needs
// (OSXSAVE, then XCR0): an OS may hide AVX-512 on a CPU that has it.
//
// Tile registers (AMX) need one thing more. Linux gives them to a process that asks:
// arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). The library asks once, when the amx level is
// first considered: all that it ever changes of the process beside its own memory (where only
// ForceIsa of dispatch.hpp, for tests, changes what later calls do). All threads of the process
// have the permission then, older ones and later ones, and so have children of fork, not of exec.
// It costs nothing until a thread uses tiles; the frames of its signals then grow by 8 KB, so Linux
// refuses while a thread has an alternate signal stack too small for them. Refused: the level is
// not available. A call, an RRS_ISA or a ForceIsa that names a lower level never asks.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"

#if RRS_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if RRS_X86_64
#include <cpuid.h>
#endif

RRS_TYPES_BEGIN

// Bit set of features, one bit per name in the target strings of config.hpp.
using CpuFeatures = std::uint32_t;
inline constexpr CpuFeatures kCpuAvx2 = 1u << 0;
inline constexpr CpuFeatures kCpuFma = 1u << 1;
inline constexpr CpuFeatures kCpuF16c = 1u << 2;
inline constexpr CpuFeatures kCpuAvx512f = 1u << 3;
inline constexpr CpuFeatures kCpuAvx512bw = 1u << 4;
inline constexpr CpuFeatures kCpuAvx512dq = 1u << 5;
inline constexpr CpuFeatures kCpuAvx512vl = 1u << 6;
inline constexpr CpuFeatures kCpuAvx512vnni = 1u << 7;

inline constexpr CpuFeatures kCpuAvxVnni = 1u << 10;
inline constexpr CpuFeatures kCpuAmxTile = 1u << 8;
inline constexpr CpuFeatures kCpuAmxInt8 = 1u << 9;

inline constexpr CpuFeatures kRequiredAvx2 = kCpuAvx2 | kCpuFma | kCpuF16c;
inline constexpr CpuFeatures kRequiredAvxVnni = kRequiredAvx2 | kCpuAvxVnni;
inline constexpr CpuFeatures kRequiredAvx512 =
    kRequiredAvx2 | kCpuAvx512f | kCpuAvx512bw | kCpuAvx512dq | kCpuAvx512vl;
inline constexpr CpuFeatures kRequiredAvx512Vnni = kRequiredAvx512 | kCpuAvx512vnni;
inline constexpr CpuFeatures kRequiredAmx = kRequiredAvx512Vnni | kCpuAmxTile | kCpuAmxInt8;

// Registers of CPUID leaf 1, leaf 7 (subleaf 0, and 1 where named) and XCR0: the input of
// decode_features, so that tests can ask what would be used on a CPU, or under an OS, that they do
// not have.
struct CpuidSnapshot {
  std::uint32_t leaf1_ecx = 0;
  std::uint32_t leaf7_ebx = 0;
  std::uint32_t leaf7_ecx = 0;
  std::uint32_t leaf7_1_eax = 0;
  std::uint32_t leaf7_edx = 0;
  std::uint64_t xcr0 = 0;
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

RRS_FORCE_INLINE bool bit(std::uint32_t word, int index) noexcept { return (word >> index) & 1u; }

}  // namespace detail

// What the CPU has (CPUID) and the operating system saves the registers of (XCR0); a pure function,
// so that tests can show it any machine.
inline CpuFeatures decode_features(const CpuidSnapshot& cpu) noexcept {
  constexpr std::uint64_t kYmmState = 0x6;       // XMM and YMM saved
  constexpr std::uint64_t kZmmState = 0xe6;      // and opmask, ZMM 0-15 high, ZMM 16-31
  constexpr std::uint64_t kTileState = 0x60000;  // XTILECFG and XTILEDATA
  CpuFeatures found = 0;
  const bool ymm = detail::bit(cpu.leaf1_ecx, 27) && (cpu.xcr0 & kYmmState) == kYmmState &&
                   detail::bit(cpu.leaf1_ecx, 28);
  if (!ymm) return found;
  if (detail::bit(cpu.leaf7_ebx, 5)) found |= kCpuAvx2;
  if (detail::bit(cpu.leaf1_ecx, 12)) found |= kCpuFma;
  if (detail::bit(cpu.leaf1_ecx, 29)) found |= kCpuF16c;
  if (detail::bit(cpu.leaf7_1_eax, 4)) found |= kCpuAvxVnni;
  if ((cpu.xcr0 & kZmmState) != kZmmState) return found;
  if (detail::bit(cpu.leaf7_ebx, 16)) found |= kCpuAvx512f;
  if (detail::bit(cpu.leaf7_ebx, 30)) found |= kCpuAvx512bw;
  if (detail::bit(cpu.leaf7_ebx, 17)) found |= kCpuAvx512dq;
  if (detail::bit(cpu.leaf7_ebx, 31)) found |= kCpuAvx512vl;
  if (detail::bit(cpu.leaf7_ecx, 11)) found |= kCpuAvx512vnni;
  if ((cpu.xcr0 & kTileState) != kTileState) return found;
  if (detail::bit(cpu.leaf7_edx, 24)) found |= kCpuAmxTile;
  if (detail::bit(cpu.leaf7_edx, 25)) found |= kCpuAmxInt8;
  return found;
}

// True when a level that needs `required` can run: `tiles_permitted` is asked only for AMX.
inline bool features_suffice(CpuFeatures found, CpuFeatures required,
                             bool (*tiles_permitted)() noexcept) noexcept {
  if ((found & required) != required) return false;
  return (required & kCpuAmxTile) == 0 || tiles_permitted();
}

// This machine's answers; all zero elsewhere than on x86-64.
inline CpuidSnapshot read_cpuid() noexcept {
  CpuidSnapshot cpu;
#if RRS_X86_64
  std::uint32_t max_leaf = 0, a = 0, b = 0, c = 0, d = 0;
  __cpuid(0, max_leaf, b, c, d);
  __cpuid(1, a, b, cpu.leaf1_ecx, d);
  if (max_leaf >= 7) {
    __cpuid_count(7, 0, a, cpu.leaf7_ebx, cpu.leaf7_ecx, cpu.leaf7_edx);
    if (a >= 1) __cpuid_count(7, 1, cpu.leaf7_1_eax, b, c, d);
  }
  if ((cpu.leaf1_ecx >> 27) & 1u) {  // OSXSAVE: xgetbv exists; spelled in asm, no -mxsave needed
    std::uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    cpu.xcr0 = (static_cast<std::uint64_t>(high) << 32) | low;
  }
#endif
  return cpu;
}

// Detected once per process and translation-unit flavour; thread-safe.
inline CpuFeatures cpu_features() noexcept {
  static const CpuFeatures features = decode_features(read_cpuid());
  return features;
}

// Asks Linux for tile registers, once per process and translation-unit flavour (asking again gives
// the same answer); thread-safe. See the head of this file.
inline bool tiles_permitted() noexcept {
#if RRS_HAS_AMX
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool permitted = ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
#else
  return false;
#endif
}

RRS_FUNCTIONS_END
