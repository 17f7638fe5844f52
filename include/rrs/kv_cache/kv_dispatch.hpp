// The KvKernels of each level, chosen by the Isa that select_kernels found: the cache obeys RRS_ISA
// and ForceIsa like every other stage, while core/kernel_table.hpp does not know it.
#pragma once

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/kv_cache/kv_kernels.hpp"
#include "rrs/kv_cache/scalar.hpp"
#if RRS_X86_64
#include "rrs/kv_cache/avx2.hpp"
#include "rrs/kv_cache/avx512.hpp"
#include "rrs/kv_cache/avx512vnni.hpp"
#endif

RRS_FUNCTIONS_BEGIN

inline constexpr KvKernels kKvScalar = scalar::kv_kernels();
#if RRS_X86_64
inline constexpr KvKernels kKvAvx2 = avx2::kv_kernels(kKvScalar);
inline constexpr KvKernels kKvAvx512 = avx512::kv_kernels(kKvAvx2);
inline constexpr KvKernels kKvAvx512Vnni = avx512vnni::kv_kernels(kKvAvx512);
// AMX has nothing for one token's dot products: the amx level uses the VNNI kernels.
inline constexpr const KvKernels* kKvTables[kIsaCount] = {
    &kKvScalar, &kKvAvx2, &kKvAvx2, &kKvAvx512, &kKvAvx512Vnni, &kKvAvx512Vnni};
#else
inline constexpr const KvKernels* kKvTables[kIsaCount] = {&kKvScalar, nullptr, nullptr, nullptr,
                                                          nullptr};
#endif

// Requires a level that select_kernels accepted.
inline const KvKernels& kv_kernels_of(Isa isa) noexcept {
  return *kKvTables[static_cast<int>(isa)];
}

RRS_FUNCTIONS_END
