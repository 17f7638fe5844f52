// The writing half of the cache: rows of K or V -> rotated -> scales, zeros, codes -> page bytes.
//
// Written order per group, positive and negative the largest magnitudes of either sign:
//   asymmetric: scale = f16((clip * (positive + negative)) / top),
//               zero  = clamp(rint((clip * negative) / scale), 0, top)
//   others:     scale = f16(group_scale(range, clip, qmax, ...)) of quantize/quantize.hpp
//   code = clamp(rint(x * r) + zero, 0, top), r = 1 / scale rounded once; scale 0: code = zero
// Bound, clip 1, scale s normal in f16: |x~ - s (code - zero)| <= |s| (1/2 + top 2^-10). Smaller
// clips add what they cut; scales below 2^-14 are coarse (spacing 2^-24), so that values under
// top * 2^-25 may become 0.
// A row that holds NaN or Inf, overflows in the rotation, or needs a scale beyond f16 (at 16 bits:
// a value beyond 65504) is stored as NaN: all scales of that token and head (of the token, for
// token groups), or all values at 16 bits.
//
// from: kv_cache.hpp (append).  to: pages.  Cost: one pass per row, a few ns per value.
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/types.hpp"
#include "rrs/kv_cache/kv_kernels.hpp"
#include "rrs/kv_cache/kv_page.hpp"
#include "rrs/quantize/quantize.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_TYPES_BEGIN

namespace internal {

// Memory that append needs, carved from one buffer.
struct KvScratch {
  float* row = nullptr;           // [kv_heads][head_size], rotated
  float* rotate = nullptr;        // rotation_scratch_floats
  float* positive = nullptr;      // [groups]
  float* negative = nullptr;      // [groups]
  std::uint8_t* codes = nullptr;  // [padded head]
};

// One tensor of one token on its way into a page.
struct KvWrite {
  const KernelTable* table;
  const KvKernels* kernels;
  const KvScheme* scheme;
  const KvTensorLayout* layout;
  bool is_k;
  int token;        // in the page
  std::byte* head;  // chunk of the head in the page
};

struct KvGroupCode {
  f16 scale;
  int zero;
};

inline constexpr std::uint16_t kF16NanBits = 0x7e00;

}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

RRS_FORCE_INLINE bool is_finite_kv(f16 h) noexcept { return (h.bits & 0x7c00u) != 0x7c00u; }

// Extremes of everything that shares one scale; both finite.
inline internal::KvGroupCode kv_group_code(const KvScheme& s, int bits, float positive,
                                           float negative) noexcept {
  const int top = (1 << bits) - 1;
  const int middle = 1 << (bits - 1);
  if (s.range != KvRange::kAsymmetric) {
    const Range range = s.range == KvRange::kFull ? Range::kFull : Range::kSymmetric;
    return {to_f16(group_scale(range, s.clip, middle - 1, positive, negative)), middle};
  }
  const float width = s.clip * (positive + negative);
  const f16 scale = to_f16(width / static_cast<float>(top));
  const float rounded = to_f32(scale);
  if (rounded == 0.0f || !is_finite_kv(scale)) return {scale, 0};
  const float zero = (s.clip * negative) / rounded;
  const float low = zero < static_cast<float>(top) ? zero : static_cast<float>(top);
  const std::uint32_t bits_of_zero = float_bits(low + 12582912.0f) - 0x4b400000u;
  return {scale, static_cast<int>(bits_of_zero)};
}

// Codes [head padded] of one row into the blocks of K or the rows of V.
inline void scatter_kv_codes(const internal::KvWrite& w, const std::uint8_t* codes) noexcept {
  const KvTensorLayout& t = *w.layout;
  auto* base = reinterpret_cast<std::uint8_t*>(w.head + t.codes);
  if (!w.is_k) {
    std::uint8_t* row = base + w.token * t.unit;
    if (t.bits == 8)
      return static_cast<void>(std::memcpy(row, codes, static_cast<std::size_t>(t.unit)));
    for (std::int64_t i = 0; i < t.unit; ++i) {
      const std::uint8_t* pair = codes + i / 16 * 32 + i % 16;
      row[i] = static_cast<std::uint8_t>(pair[0] | pair[16] << 4);
    }
    return;
  }
  std::uint8_t* to = base + w.token / kKvBlockTokens * t.unit + w.token % kKvBlockTokens * 4;
  if (t.bits == 8) {
    for (std::int64_t d = 0; d < t.dims; d += 4, to += 64) std::memcpy(to, codes + d, 4);
    return;
  }
  for (std::int64_t d = 0; d < t.dims; d += 8, to += 64) {
    for (int j = 0; j < 4; ++j) {
      to[j] = static_cast<std::uint8_t>(codes[d + j] | codes[d + 4 + j] << 4);
    }
  }
}

// 16 bits: false when a value does not fit; then the row is NaN.
inline bool write_kv_f16(const internal::KvWrite& w, const float* x,
                         std::int64_t head_size) noexcept {
  const KvTensorLayout& t = *w.layout;
  bool finite = true;
  for (std::int64_t d = 0; d < head_size; ++d) finite &= is_finite_kv(to_f16(x[d]));
  std::byte* to = w.head + t.codes;
  const std::int64_t step = w.is_k ? 2 * kKvBlockTokens : 2;
  to +=
      w.is_k ? w.token / kKvBlockTokens * t.unit + w.token % kKvBlockTokens * 2 : w.token * t.unit;
  for (std::int64_t d = 0; d < head_size; ++d, to += step) {
    const f16 value = finite ? to_f16(x[d]) : f16{internal::kF16NanBits};
    std::memcpy(to, &value, sizeof value);
  }
  return finite;
}

// scales[group] and zeros[group] of this token.
RRS_FORCE_INLINE void write_kv_scale(const internal::KvWrite& w, std::int64_t g,
                                     internal::KvGroupCode c) noexcept {
  const KvTensorLayout& t = *w.layout;
  std::memcpy(w.head + t.scales + (g * kKvPageTokens + w.token) * 2, &c.scale, sizeof c.scale);
  if (!t.has_zeros) return;
  w.head[t.zeros + g * kKvPageTokens + w.token] = static_cast<std::byte>(c.zero);
}

// 4 or 8 bits, from a row and the extremes of its groups. False: the row is stored as NaN.
inline bool write_kv_codes(const internal::KvWrite& w, const float* x, std::int64_t head_size,
                           const internal::KvScratch& scratch) noexcept {
  const KvTensorLayout& t = *w.layout;
  const int top = (1 << t.bits) - 1;
  const std::int64_t step = t.group == kRowGroup ? head_size : t.group;
  bool finite = true;
  std::memset(scratch.codes, 0, static_cast<std::size_t>(t.dims));
  for (std::int64_t g = 0; g < t.groups; ++g) {
    internal::KvGroupCode c{f16{internal::kF16NanBits}, 0};
    if (is_finite_bits(float_bits(scratch.positive[g])) &&
        is_finite_bits(float_bits(scratch.negative[g]))) {
      c = kv_group_code(*w.scheme, t.bits, scratch.positive[g], scratch.negative[g]);
    }
    finite &= is_finite_kv(c.scale);
    if (!finite) break;
    const std::int64_t first = g * step;
    const std::int64_t n = head_size - first < step ? head_size - first : step;
    w.kernels->encode(x + first, n, inverse_scale(to_f32(c.scale)), c.zero, top,
                      scratch.codes + first);
    write_kv_scale(w, g, c);
  }
  for (std::int64_t g = 0; !finite && g < t.groups; ++g) {
    write_kv_scale(w, g, {f16{internal::kF16NanBits}, 0});
  }
  scatter_kv_codes(w, scratch.codes);
  return finite;
}

// positive[0], negative[0] = those of the whole token, in every group's place.
inline void kv_token_extremes(const KernelTable& table, const float* row, std::int64_t values,
                              std::int64_t groups, const internal::KvScratch& scratch) noexcept {
  table.smooth.extremes(row, values, kRowGroup, scratch.positive, scratch.negative);
  for (std::int64_t g = 1; g < groups; ++g) {
    scratch.positive[g] = scratch.positive[0];
    scratch.negative[g] = scratch.negative[0];
  }
}

// One tensor of one token, all heads: x [kv_heads][head_size]. `first.head` is head 0 of the page,
// `head_bytes` from one head to the next. False: at least one head is stored as NaN.
inline bool write_kv_token(const internal::KvWrite& first, const float* x, std::int64_t kv_heads,
                           std::int64_t head_size, std::int64_t head_bytes,
                           const RotationPlan* rotation,
                           const internal::KvScratch& scratch) noexcept {
  const KvTensorLayout& t = *first.layout;
  const bool token_group =
      (first.is_k ? first.scheme->group : kv_v_group(*first.scheme)) == kKvTokenGroup;
  std::memcpy(scratch.row, x, static_cast<std::size_t>(kv_heads * head_size) * sizeof(float));
  for (std::int64_t h = 0; rotation != nullptr && h < kv_heads; ++h) {
    rotate_row(*first.table, *rotation, scratch.row + h * head_size, scratch.rotate);
  }
  if (token_group && t.bits != 16) {
    kv_token_extremes(*first.table, scratch.row, kv_heads * head_size, t.groups, scratch);
  }
  bool finite = true;
  internal::KvWrite w = first;
  for (std::int64_t h = 0; h < kv_heads; ++h, w.head += head_bytes) {
    const float* row = scratch.row + h * head_size;
    if (t.bits == 16) {
      finite &= write_kv_f16(w, row, head_size);
      continue;
    }
    if (!token_group) {
      first.table->smooth.extremes(row, head_size, t.group, scratch.positive, scratch.negative);
    }
    finite &= write_kv_codes(w, row, head_size, scratch);
  }
  return finite;
}

}  // namespace detail

RRS_FUNCTIONS_END
