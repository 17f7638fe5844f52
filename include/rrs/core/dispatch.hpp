// Dispatch: which kernel table a call uses. One binary, no -m flag, nothing to configure.
//
// By default the highest level that the CPU and the OS support. RRS_ISA=<name> in the environment
// (scalar, avx2, avxvnni, avx512, avx512vnni, amx; read once) forces a level;
// ActivationOptions::isa overrides it for one call; ForceIsa for a scope (tests). An unknown or
// unsupported level is an error that every entry point returns: never a silent fallback.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "rrs/core/config.hpp"
#include "rrs/core/cpu.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/status.hpp"
#if !RRS_EXTERNAL_KERNELS
#include "rrs/core/kernel_tables.hpp"
#endif

RRS_TYPES_BEGIN

namespace internal {
// -1: no scope forces a level. Shared by all translation units; the library's only mutable global,
// and only ForceIsa writes it. What is asked of the machine (CPUID, tiles, RRS_ISA) is asked once.
inline std::atomic<int> forced_isa{-1};
}  // namespace internal

RRS_TYPES_END

#if RRS_EXTERNAL_KERNELS
RRS_KERNELS_BEGIN
extern const KernelTable* const* const kTables;  // of rrs/kernels.cpp
RRS_KERNELS_END
#endif

RRS_FUNCTIONS_BEGIN

// By level; nullptr: the compiler does not know it. Scalar is always there.
#if !RRS_EXTERNAL_KERNELS
inline constexpr const KernelTable* const* kTables = kCompiledTables;
#endif
inline constexpr const char* kIsaNames[kIsaCount] = {"scalar", "avx2",       "avxvnni",
                                                     "avx512", "avx512vnni", "amx"};

// True when this machine can run the level.
inline bool isa_supported(Isa isa) noexcept {
  const KernelTable* table = kTables[static_cast<int>(isa)];
  return table != nullptr && features_suffice(cpu_features(), table->required, &tiles_permitted);
}

// The highest supported level; scalar always is.
inline Isa best_isa() noexcept {
  for (int i = kIsaCount - 1; i > 0; --i) {
    if (isa_supported(static_cast<Isa>(i))) return static_cast<Isa>(i);
  }
  return Isa::kScalar;
}

// Level of that name, if there is one.
inline std::optional<Isa> isa_by_name(const char* name) noexcept {
  for (int i = 0; i < kIsaCount; ++i) {
    if (std::strcmp(name, kIsaNames[i]) == 0) return static_cast<Isa>(i);
  }
  return std::nullopt;
}

namespace detail {

// RRS_ISA as it was when first asked; a copy, since the environment may change.
struct EnvironmentIsa {
  char name[32] = {0};  // empty: not set
  EnvironmentIsa() noexcept {
    const char* value = std::getenv("RRS_ISA");
    if (value != nullptr) std::strncpy(name, value, sizeof name - 1);
  }
};

inline const EnvironmentIsa& environment_isa() noexcept {
  static const EnvironmentIsa value;
  return value;
}

inline Status unsupported_isa(const char* source, const char* rule, const char* name) noexcept {
  return Status{StatusCode::kUnsupportedIsa, source, rule, 0, 0, name};
}

}  // namespace detail

// The table for a call. `requested` (per call) beats ForceIsa, which beats RRS_ISA, which beats the
// best level. On error *table is untouched.
inline Status select_kernels(std::optional<Isa> requested, const KernelTable** table) noexcept {
  Isa isa = Isa::kScalar;
  const char* source = "isa";
  const int forced = internal::forced_isa.load(std::memory_order_relaxed);
  const char* environment = detail::environment_isa().name;
  if (requested.has_value()) {
    isa = *requested;
  } else if (forced >= 0) {
    isa = static_cast<Isa>(forced);
  } else if (environment[0] != 0) {
    source = "RRS_ISA";
    const std::optional<Isa> named = isa_by_name(environment);
    if (!named.has_value()) {
      return detail::unsupported_isa(
          source, "must be scalar, avx2, avxvnni, avx512, avx512vnni or amx", environment);
    }
    isa = *named;
  } else {
    isa = best_isa();
  }
  if (static_cast<int>(isa) >= kIsaCount) {
    return invalid_argument(source, "must be a known level", static_cast<int>(isa), kIsaCount - 1);
  }
  if (!isa_supported(isa)) {
    return detail::unsupported_isa(source, "is not supported by this CPU or operating system",
                                   kIsaNames[static_cast<int>(isa)]);
  }
  *table = kTables[static_cast<int>(isa)];
  return Status{};
}

RRS_FUNCTIONS_END

RRS_TYPES_BEGIN

// Forces a level for all calls of the process while alive (tests, benchmarks). Not for servers.
class ForceIsa {
 public:
  RRS_MEMBER explicit ForceIsa(Isa isa) noexcept
      : previous_(internal::forced_isa.exchange(static_cast<int>(isa))) {}
  RRS_MEMBER ~ForceIsa() { internal::forced_isa.store(previous_); }
  ForceIsa(const ForceIsa&) = delete;
  ForceIsa& operator=(const ForceIsa&) = delete;

 private:
  int previous_;
};

RRS_TYPES_END
