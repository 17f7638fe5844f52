// Oracle of the KV cache: one row of K or V in double, by definition; plain dot products.
//
// Written from kv_cache/kv_scheme.hpp alone: no dispatch, no pages, no intrinsics. Allocates; tests
// and offline use only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/types.hpp"
#include "rrs/kv_cache/kv_scheme.hpp"
#include "rrs/reference/rotate.hpp"

RRS_FUNCTIONS_BEGIN
namespace reference {

// All heads of one token.
struct KvRow {
  std::vector<double> exact;   // rotated when the scheme rotates, not quantized
  std::vector<double> stored;  // dequantized
  std::vector<double> step;    // |scale| of each value; at 16 bits the spacing of f16
  std::vector<double> cut;     // how far the value lies outside of the range that codes reach
};

// Quantizes the values `members`, which share one scale.
inline void kv_quantize_group(const KvScheme& s, int bits, const std::vector<std::int64_t>& members,
                              double largest, double smallest, KvRow* row) {
  const double top = std::exp2(bits) - 1.0;
  const double qmax = std::exp2(bits - 1) - 1.0;
  const double clip = static_cast<double>(s.clip);
  const double positive = (std::max)(0.0, largest);
  const double negative = (std::max)(0.0, -smallest);
  double scale = clip * (positive + negative) / top;
  if (s.range == KvRange::kSymmetric) scale = clip * (std::max)(positive, negative) / qmax;
  if (s.range == KvRange::kFull) {
    const double e = (std::max)(positive, negative);
    const double o = (std::min)(positive, negative);
    scale = clip * (std::max)(e / (qmax + 1.0), o / qmax) * (positive >= negative ? -1.0 : 1.0);
  }
  scale = static_cast<double>(to_f32(to_f16(static_cast<float>(scale))));
  double zero = qmax + 1.0;
  if (s.range == KvRange::kAsymmetric) {
    zero = scale > 0.0 ? (std::min)(std::nearbyint(clip * negative / scale), top) : 0.0;
  }
  for (const std::int64_t i : members) {
    const auto at = static_cast<std::size_t>(i);
    const double x = row->exact[at];
    const double code = scale != 0.0 ? std::nearbyint(x / scale) + zero : zero;
    row->stored[at] = scale * ((std::min)((std::max)(code, 0.0), top) - zero);
    row->step[at] = std::abs(scale);
    const double low = (std::min)(scale * -zero, scale * (top - zero));
    const double high = (std::max)(scale * -zero, scale * (top - zero));
    row->cut[at] = (std::max)(0.0, (std::max)(low - x, x - high));
  }
}

// x [kv_heads][head_size]: one token of K (is_k) or V.
inline KvRow kv_row(const KvScheme& s, bool is_k, const float* x, std::int64_t kv_heads,
                    std::int64_t head_size) {
  const int bits = is_k ? s.bits : kv_v_bits(s);
  const int group = is_k ? s.group : kv_v_group(s);
  KvRow row;
  row.exact.assign(x, x + kv_heads * head_size);
  row.stored = row.step = row.cut = std::vector<double>(row.exact.size(), 0.0);
  const Rotation rotation{RotationKind::kFull, 32, false, 0};
  for (std::int64_t h = 0; bits != 16 && (is_k ? s.rotate_k : s.rotate_v) && h < kv_heads; ++h) {
    rotate_row(rotation, nullptr, head_size, row.exact.data() + h * head_size);
  }
  if (bits == 16) {
    for (std::size_t i = 0; i < row.exact.size(); ++i) {
      row.stored[i] = static_cast<double>(to_f32(to_f16(static_cast<float>(row.exact[i]))));
      row.step[i] = (std::max)(0x1p-24, std::abs(row.exact[i]) * 0x1p-10);
    }
    return row;
  }
  const std::int64_t values = kv_heads * head_size;
  const std::int64_t outer = group == kKvTokenGroup ? values : head_size;
  const std::int64_t size = group <= 0 ? outer : group;
  for (std::int64_t start = 0; start < values; start += outer) {
    for (std::int64_t first = start; first < start + outer; first += size) {
      const std::int64_t last = (std::min)(first + size, start + outer);
      std::vector<std::int64_t> members;
      double largest = 0.0, smallest = 0.0;
      for (std::int64_t i = first; i < last; ++i) {
        members.push_back(i);
        largest = (std::max)(largest, row.exact[static_cast<std::size_t>(i)]);
        smallest = (std::min)(smallest, row.exact[static_cast<std::size_t>(i)]);
      }
      kv_quantize_group(s, bits, members, largest, smallest, &row);
    }
  }
  return row;
}

// q . k, and in *magnitude the sum of |q k|.
inline double kv_dot(const double* q, const double* k, std::int64_t n, double* magnitude) {
  double sum = 0.0, absolute = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    sum += q[i] * k[i];
    absolute += std::abs(q[i] * k[i]);
  }
  if (magnitude != nullptr) *magnitude = absolute;
  return sum;
}

}  // namespace reference
RRS_FUNCTIONS_END
