// The kernel tables of all levels: the only header that includes every kernel.
//
// dispatch.hpp includes it, so each file that calls the library compiles all kernels: about 15 s
// with g++ 12 -O3. A program of many files defines RRS_EXTERNAL_KERNELS=1 everywhere and compiles
// rrs/kernels.cpp once; its other files then take about 2 s and link to those tables.
#pragma once

#include "rrs/core/config.hpp"
#include "rrs/core/cpu.hpp"
#include "rrs/core/kernel_table.hpp"
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
inline constexpr const KernelTable* kCompiledTables[kIsaCount] = {
    &kScalarTable, &kAvx2Table, kAvxVnniLevel, &kAvx512Table, &kAvx512VnniTable, kAmxLevel};
#else
inline constexpr const KernelTable* kCompiledTables[kIsaCount] = {&kScalarTable, nullptr, nullptr,
                                                                  nullptr,       nullptr, nullptr};
#endif

namespace detail {

// A slot of the scratch holds the rows of the tallest tile. Each table by its name: under g++'s
// -fsanitize=undefined an address of a table compared with nullptr is no constant expression.
constexpr bool tiles_fit_scratch(const KernelTable& t) noexcept {
  for (const GemmKernel& k : {t.gemm.w4a4, t.gemm.w4a8, t.gemm.w8a8, t.gemm.w4a16, t.gemm.w8a16}) {
    if (k.max_rows > internal::kMaxTileRows) return false;
  }
  return true;
}
static_assert(tiles_fit_scratch(kScalarTable), "kMaxTileRows");
#if RRS_X86_64
static_assert(tiles_fit_scratch(kAvx2Table), "kMaxTileRows");
#if RRS_HAS_AVXVNNI
static_assert(tiles_fit_scratch(kAvxVnniTable), "kMaxTileRows");
#endif
static_assert(tiles_fit_scratch(kAvx512Table), "kMaxTileRows");
static_assert(tiles_fit_scratch(kAvx512VnniTable), "kMaxTileRows");
#if RRS_HAS_AMX
static_assert(tiles_fit_scratch(kAmxTable), "kMaxTileRows");
#endif
#endif

}  // namespace detail

RRS_FUNCTIONS_END
