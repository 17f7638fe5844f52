// Oracle of pack/: the format of pack/layout.hpp, decoded element by element from its description.
//
// from: tests.  A weight becomes a dense [N,K] matrix of double: v (u - bias), or v u + offset.
#pragma once

#include <cstdint>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"
#include "rrs/pipeline/weight_view.hpp"

RRS_FUNCTIONS_BEGIN

namespace reference {

// The unsigned code of output n, input k.
inline int stored_code(const WeightView& w, std::int64_t n, std::int64_t k) {
  const std::uint8_t* panel = w.panels + n / 16 * w.panel_bytes;
  if (w.scheme.weight.bits == 8) return panel[k / 4 * 64 + n % 16 * 4 + k % 4];
  const int byte = panel[k / 8 * 64 + n % 16 * 4 + k % 4];
  return k % 8 < 4 ? byte % 16 : byte / 16;
}

// Scale of output n and weight group g: panels of 16 outputs, group by group.
inline f16 scale(const WeightView& w, std::int64_t n, std::int64_t g) {
  return w.scales[(n / 16 * w.groups + g) * 16 + n % 16];
}

// The offset of the same place; only where w.offsets is not null.
inline float offset(const WeightView& w, std::int64_t n, std::int64_t g) {
  return w.offsets[(n / 16 * w.groups + g) * 16 + n % 16];
}

// Dense [N,K], exact.
inline std::vector<double> dequantize(const WeightView& w) {
  std::vector<double> dense;
  const std::int64_t group = w.scheme.weight.group == kRowGroup ? w.k : w.scheme.weight.group;
  const int bias = w.scheme.weight.bits == 8 ? 128 : 8;
  for (std::int64_t n = 0; n < w.n; ++n) {
    for (std::int64_t k = 0; k < w.k; ++k) {
      const double v = static_cast<double>(to_f32(scale(w, n, k / group)));
      const int u = stored_code(w, n, k);
      dense.push_back(w.offsets == nullptr ? v * (u - bias)
                                           : v * u + static_cast<double>(offset(w, n, k / group)));
    }
  }
  return dense;
}

}  // namespace reference

RRS_FUNCTIONS_END
