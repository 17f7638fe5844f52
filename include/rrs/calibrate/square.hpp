// validate_square: a vector that must hold a K x K matrix.
//
// from: callers' vectors and K.  to: hessian_basis, hessian_factor, gptq, aser. Offline. K comes
// from a caller, too, so its square is checked before it is compared: 2^32 squared is 0 in 64 bits,
// the size of an empty vector.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

inline constexpr std::int64_t kLargestSquared = 3037000499;  // its square fits int64

inline Status validate_square(std::size_t elements, std::int64_t k, const char* name) noexcept {
  if (k < 1) return invalid_argument("K", "must be at least 1", k, 1);
  std::int64_t needed = 0;
  if (!checked_product(k, k, &needed)) {
    return invalid_argument("K", "squared must fit 63 bits", k, kLargestSquared);
  }
  const auto found = static_cast<std::int64_t>(elements);
  if (found == needed) return Status{};
  return invalid_argument(name, "must have K x K elements", found, needed);
}

}  // namespace detail

RRS_FUNCTIONS_END
