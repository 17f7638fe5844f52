// The scalar level has no fused row: the separate stages already stream through L1.
#pragma once

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"

RRS_FUNCTIONS_BEGIN

namespace scalar {

inline bool fused_supports(const FusedArgs&) noexcept { return false; }
inline bool fused_prepare_row(const FusedArgs&) noexcept { return false; }

constexpr FusedKernels fused_kernels() {
  FusedKernels kernels{};
  kernels.supports = &fused_supports;
  kernels.prepare_row = &fused_prepare_row;
  return kernels;
}

}  // namespace scalar

RRS_FUNCTIONS_END
