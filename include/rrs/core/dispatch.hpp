// Dispatch: which kernel table a call uses. One binary, no -m flag, nothing to configure.
//
// By default the highest level that the CPU and the OS support. RRS_ISA=<name> in the environment
// (scalar, avx2, avxvnni, avx512, avx512vnni, amx; read once) forces a level; CallOptions::isa
// overrides it for one call; ForceIsa for a scope (tests). An unknown or unsupported level is an
// error that every entry point returns: never a silent fallback.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "rrs/core/config.hpp"
#include "rrs/core/cpu.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/status.hpp"
#include "rrs/gemm/scalar.hpp"
#include "rrs/pack/scalar.hpp"
#include "rrs/quantize/scalar.hpp"
#include "rrs/pipeline/fused_scalar.hpp"
#include "rrs/rotate/scalar.hpp"
#include "rrs/smooth/scalar.hpp"
#if RRS_X86_64
#include "rrs/gemm/amx.hpp"
#include "rrs/gemm/avx2.hpp"
#include "rrs/gemm/avx512.hpp"
#include "rrs/gemm/avx512vnni.hpp"
#include "rrs/gemm/avxvnni.hpp"
#include "rrs/pack/amx.hpp"
#include "rrs/pack/avx2.hpp"
#include "rrs/pack/avx512.hpp"
#include "rrs/pipeline/fused_avx2.hpp"
#include "rrs/pipeline/fused_avx512.hpp"
#include "rrs/quantize/avx2.hpp"
#include "rrs/quantize/avx512.hpp"
#include "rrs/rotate/avx2.hpp"
#include "rrs/rotate/avx512.hpp"
#include "rrs/smooth/avx2.hpp"
#include "rrs/smooth/avx512.hpp"
#endif

RRS_TYPES_BEGIN

namespace internal {
// -1: no scope forces a level. Shared by all translation units.
inline std::atomic<int> forced_isa{-1};
}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

inline constexpr KernelTable kScalarTable{"scalar",
                                          Isa::kScalar,
                                          0,
                                          scalar::rotate_kernels(),
                                          scalar::smooth_kernels(),
                                          scalar::quantize_kernels(),
                                          scalar::pack_kernels(),
                                          scalar::fused_kernels(),
                                          scalar::gemm_kernels()};
#if RRS_X86_64
inline constexpr KernelTable kAvx2Table{"avx2",
                                        Isa::kAvx2,
                                        kRequiredAvx2,
                                        avx2::rotate_kernels(kScalarTable.rotate),
                                        avx2::smooth_kernels(kScalarTable.smooth),
                                        avx2::quantize_kernels(kScalarTable.quantize),
                                        avx2::pack_kernels(kScalarTable.pack),
                                        avx2::fused_kernels(kScalarTable.fused),
                                        avx2::gemm_kernels(kScalarTable.gemm)};
#if RRS_HAS_AVXVNNI
inline constexpr KernelTable kAvxVnniTable{
    "avxvnni",         Isa::kAvxVnni,     kRequiredAvxVnni,
    kAvx2Table.rotate, kAvx2Table.smooth, kAvx2Table.quantize,
    kAvx2Table.pack,   kAvx2Table.fused,  avxvnni::gemm_kernels(kAvx2Table.gemm)};
inline constexpr const KernelTable* kAvxVnniLevel = &kAvxVnniTable;
#else
inline constexpr const KernelTable* kAvxVnniLevel = nullptr;
#endif
inline constexpr KernelTable kAvx512Table{"avx512",
                                          Isa::kAvx512,
                                          kRequiredAvx512,
                                          avx512::rotate_kernels(kAvx2Table.rotate),
                                          avx512::smooth_kernels(kAvx2Table.smooth),
                                          avx512::quantize_kernels(kAvx2Table.quantize),
                                          avx512::pack_kernels(kAvx2Table.pack),
                                          avx512::fused_kernels(kAvx2Table.fused),
                                          avx512::gemm_kernels(kAvx2Table.gemm)};
inline constexpr KernelTable kAvx512VnniTable{"avx512vnni",
                                              Isa::kAvx512Vnni,
                                              kRequiredAvx512Vnni,
                                              kAvx512Table.rotate,
                                              kAvx512Table.smooth,
                                              kAvx512Table.quantize,
                                              avx512vnni::pack_kernels(kAvx512Table.pack),
                                              kAvx512Table.fused,
                                              avx512vnni::gemm_kernels(kAvx512Table.gemm)};
#if RRS_HAS_AMX
inline constexpr KernelTable kAmxTable{"amx",
                                       Isa::kAmx,
                                       kRequiredAmx,
                                       kAvx512VnniTable.rotate,
                                       kAvx512VnniTable.smooth,
                                       kAvx512VnniTable.quantize,
                                       amx::pack_kernels(kAvx512VnniTable.pack),
                                       kAvx512VnniTable.fused,
                                       amx::gemm_kernels(kAvx512VnniTable.gemm)};
inline constexpr const KernelTable* kAmxLevel = &kAmxTable;
#else
inline constexpr const KernelTable* kAmxLevel = nullptr;
#endif
inline constexpr const KernelTable* kTables[kIsaCount] = {
    &kScalarTable, &kAvx2Table, kAvxVnniLevel, &kAvx512Table, &kAvx512VnniTable, kAmxLevel};
#else
inline constexpr const KernelTable* kTables[kIsaCount] = {&kScalarTable, nullptr, nullptr,
                                                          nullptr,       nullptr, nullptr};
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
  explicit ForceIsa(Isa isa) noexcept
      : previous_(internal::forced_isa.exchange(static_cast<int>(isa))) {}
  ~ForceIsa() { internal::forced_isa.store(previous_); }
  ForceIsa(const ForceIsa&) = delete;
  ForceIsa& operator=(const ForceIsa&) = delete;

 private:
  int previous_;
};

RRS_TYPES_END
