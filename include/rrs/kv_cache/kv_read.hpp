// Reading a KvCache: queries, scores and weighted sums of values. ISA-free drivers over pages.
//
// Written orders: kv_kernels.hpp. from: kv_cache.hpp (documentation and contracts there).
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>

#include "rrs/core/aligned_buffer.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/dispatch.hpp"
#include "rrs/kv_cache/kv_dispatch.hpp"
#include "rrs/kv_cache/kv_page.hpp"
#include "rrs/kv_cache/kv_state.hpp"
#include "rrs/quantize/quantize.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_TYPES_BEGIN

// A prepared query of one head; reusable, allocates at its first use only. Valid for every cache of
// the same head size, group and rotation.
struct KvQuery {
  std::int64_t head_size = 0;  // 0: not prepared
  int group = kRowGroup;
  bool rotated = false;
  float scale = 0.0f;                  // of the codes; NaN when the query was not finite
  const float* values = nullptr;       // [head_size], rotated
  const std::int8_t* codes = nullptr;  // [head_size padded to 8]
  const std::int32_t* sums = nullptr;  // [groups] of codes
  AlignedBuffer memory;
};

namespace internal {

// A part of a page: tokens [first, last) of it.
struct KvSegment {
  const KvSection* section;
  std::int64_t page;
  int first;
  int last;
};

// Stack space of a rotation in a const call: enough for every head size with dense factors, and for
// large Hartley factors of head sizes up to kKvMaxHeadSize.
inline constexpr std::int64_t kKvSmallScratch = kKvMaxHeadSize;
inline constexpr std::int64_t kKvLargeScratch = kKvMaxHeadSize + kHartleyRows * kKvMaxHeadSize;

}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// x (f32, head_size) rotated in place with scratch on the stack. Two functions, so that the large
// frame exists only where a Hartley factor needs it.
template <std::int64_t kFloats>
void rotate_head_in(const KernelTable& table, const RotationPlan& plan, float* x) noexcept {
  alignas(kBufferAlignment) float scratch[static_cast<std::size_t>(kFloats)];
  rotate_row(table, plan, x, scratch);
}
inline void rotate_head(const KernelTable& table, const RotationPlan& plan, float* x) noexcept {
  if (rotation_scratch_floats(plan) <= internal::kKvSmallScratch) {
    rotate_head_in<internal::kKvSmallScratch>(table, plan, x);
  } else {
    rotate_head_in<internal::kKvLargeScratch>(table, plan, x);
  }
}

inline Status prepare_kv_query(const internal::KvState& s, const float* q_head,
                               KvQuery* query) noexcept {
  const KernelTable* table = nullptr;
  if (Status e = select_kernels(std::nullopt, &table); !e) return e;
  if (Status e = validate_kv_alive(s); !e) return e;
  if (q_head == nullptr) return invalid_argument("q_head", "must not be null", 0, 1);
  if (query == nullptr) return invalid_argument("query", "must not be null", 0, 1);
  const KvTensorLayout& k = s.main.layout.k;
  const std::int64_t padded = round_up(s.head_size, 16);
  const std::int64_t bytes = padded * 4 + padded + (k.groups + 1) * 4;
  if (query->memory.size() < bytes) {
    if (Status e = query->memory.allocate(bytes); !e) return e;
  }
  auto* values = reinterpret_cast<float*>(query->memory.data());
  auto* sums = reinterpret_cast<std::int32_t*>(values + padded);
  auto* codes = reinterpret_cast<std::int8_t*>(sums + k.groups + 1);
  std::memcpy(values, q_head, static_cast<std::size_t>(s.head_size) * sizeof(float));
  if (s.rotate_k) rotate_head(*table, s.rotation, values);
  float positive = 0.0f, negative = 0.0f;
  table->smooth.extremes(values, s.head_size, kRowGroup, &positive, &negative);
  const bool finite = is_finite_bits(float_bits(positive)) && is_finite_bits(float_bits(negative));
  const float scale =
      group_scale(Range::kSymmetric, 1.0f, 127, finite ? positive : 0.0f, finite ? negative : 0.0f);
  const float inverse = inverse_scale(scale);
  std::memset(codes, 0, static_cast<std::size_t>(padded));
  if (finite) table->quantize.quantize(values, s.head_size, kRowGroup, &inverse, 127, codes);
  if (k.groups > 0) table->quantize.sum_codes(codes, s.head_size, k.group, sums);
  const float nan = float_from_bits(kQuietNanBits);
  for (std::int64_t d = 0; !finite && d < s.head_size; ++d) values[d] = nan;
  query->head_size = s.head_size;
  query->group = k.group;
  query->rotated = s.rotate_k;
  query->scale = finite ? scale : nan;
  query->values = values;
  query->codes = codes;
  query->sums = sums;
  if (finite) return Status{};
  return Status{
      StatusCode::kNonFinite, "q_head", "must be finite, also when rotated", 0, 0, nullptr};
}

inline Status validate_kv_range(const internal::KvState& s, std::int64_t kv_head,
                                std::int64_t first, std::int64_t last) noexcept {
  if (Status e = validate_kv_alive(s); !e) return e;
  const std::int64_t held = s.exact.tokens + s.main.tokens;
  if (kv_head < 0 || kv_head >= s.kv_heads) {
    return invalid_argument("kv_head", "must be in [0, kv_heads)", kv_head, s.kv_heads);
  }
  if (first < 0 || first > last) {
    return invalid_argument("first", "must be in [0, last]", first, last);
  }
  if (last > held) return invalid_argument("last", "must be at most tokens()", last, held);
  return Status{};
}

// The part of the cache at token t, up to token `last` or the end of its page.
inline internal::KvSegment kv_segment(const internal::KvState& s, std::int64_t t,
                                      std::int64_t last) noexcept {
  const bool exact = t < s.exact.tokens;
  const internal::KvSection& section = exact ? s.exact : s.main;
  const std::int64_t base = exact ? 0 : s.exact.tokens;
  const std::int64_t end = (last - base < section.tokens ? last - base : section.tokens);
  const std::int64_t page = (t - base) / kKvPageTokens;
  const std::int64_t start = page * kKvPageTokens;
  const std::int64_t stop = end - start < kKvPageTokens ? end - start : kKvPageTokens;
  return {&section, page, static_cast<int>(t - base - start), static_cast<int>(stop)};
}

inline const std::uint8_t* kv_head_bytes(const internal::KvSegment& at,
                                         std::int64_t kv_head) noexcept {
  const std::byte* page = at.section->pages.bytes(at.page) + kKvPageHeader;
  return reinterpret_cast<const std::uint8_t*>(page + kv_head * at.section->layout.head_bytes);
}

inline void score_segment(const KvKernels& kernels, const internal::KvSegment& at,
                          const KvQuery& query, std::int64_t kv_head, float* out) noexcept {
  const KvTensorLayout& k = at.section->layout.k;
  const std::uint8_t* head = kv_head_bytes(at, kv_head);
  alignas(kBufferAlignment) float scores[kKvPageTokens];
  KvScoreArgs a{};
  a.codes = head + k.codes;
  a.block_bytes = k.unit;
  a.scales = reinterpret_cast<const f16*>(head + k.scales);
  a.zeros = k.has_zeros ? head + k.zeros : nullptr;
  a.zero = 1 << (k.bits - 1);
  a.query = query.codes;
  a.query_sums = query.sums;
  a.query_scale = query.scale;
  a.query_f32 = query.values;
  a.dims = k.dims;
  a.group = k.group == kRowGroup ? k.dims : k.group;
  a.groups = k.groups;
  a.first_block = at.first / kKvBlockTokens;
  a.last_block = (at.last + kKvBlockTokens - 1) / kKvBlockTokens;
  a.out = scores;
  (k.bits == 4 ? kernels.scores4 : k.bits == 8 ? kernels.scores8 : kernels.scores16)(a);
  std::memcpy(out, scores + at.first, static_cast<std::size_t>(at.last - at.first) * sizeof(float));
}

inline Status scores_kv(const internal::KvState& s, const KvQuery& query, std::int64_t kv_head,
                        std::int64_t first, std::int64_t last, float* out) noexcept {
  const KernelTable* table = nullptr;
  if (Status e = select_kernels(std::nullopt, &table); !e) return e;
  if (Status e = validate_kv_range(s, kv_head, first, last); !e) return e;
  if (query.head_size != s.head_size || query.group != s.main.layout.k.group ||
      query.rotated != s.rotate_k) {
    return invalid_argument("query", "must come from prepare_query of such a cache",
                            query.head_size, s.head_size);
  }
  if (first == last) return Status{};
  if (out == nullptr) return invalid_argument("out", "must not be null", 0, 1);
  const KvKernels& kernels = kv_kernels_of(table->isa);
  for (std::int64_t t = first; t < last;) {
    const internal::KvSegment at = kv_segment(s, t, last);
    score_segment(kernels, at, query, kv_head, out + (t - first));
    t += at.last - at.first;
  }
  return Status{};
}

inline void accumulate_segment(const KvKernels& kernels, const internal::KvSegment& at,
                               const float* p, std::int64_t kv_head, std::int64_t slab, int dims,
                               float* out) noexcept {
  const KvTensorLayout& v = at.section->layout.v;
  const std::uint8_t* head = kv_head_bytes(at, kv_head);
  const std::int64_t group = v.group == kRowGroup ? 0 : slab / v.group;
  KvAccumulateArgs a{};
  a.codes = head + v.codes + slab * v.bits / 8;
  a.row_bytes = v.unit;
  a.scales = reinterpret_cast<const f16*>(head + v.scales) + group * kKvPageTokens;
  a.zeros = v.has_zeros ? head + v.zeros + group * kKvPageTokens : nullptr;
  a.zero = 1 << (v.bits - 1);
  a.dims = dims;
  a.group = v.group == kRowGroup || v.group > kKvSlab ? kKvSlab : v.group;
  a.first = at.first;
  a.last = at.last;
  a.p = p;
  a.out = out;
  (v.bits == 4 ? kernels.accumulate4 : v.bits == 8 ? kernels.accumulate8 : kernels.accumulate16)(a);
}

inline Status accumulate_kv(const internal::KvState& s, const float* p, std::int64_t kv_head,
                            std::int64_t first, std::int64_t last, float* out_head) noexcept {
  const KernelTable* table = nullptr;
  if (Status e = select_kernels(std::nullopt, &table); !e) return e;
  if (Status e = validate_kv_range(s, kv_head, first, last); !e) return e;
  if (first == last) return Status{};
  if (p == nullptr) return invalid_argument("p", "must not be null", 0, 1);
  if (out_head == nullptr) return invalid_argument("out_head", "must not be null", 0, 1);
  const KvKernels& kernels = kv_kernels_of(table->isa);
  alignas(kBufferAlignment) float sum[kKvSlab];
  for (std::int64_t slab = 0; slab < s.head_size; slab += kKvSlab) {
    const std::int64_t left = s.head_size - slab;
    const auto bytes = static_cast<std::size_t>(left < kKvSlab ? left : kKvSlab) * sizeof(float);
    std::memset(sum, 0, sizeof sum);
    std::memcpy(sum, out_head + slab, bytes);
    for (std::int64_t t = first; t < last;) {
      const internal::KvSegment at = kv_segment(s, t, last);
      const std::int64_t padded = at.section->layout.v.dims - slab;
      accumulate_segment(kernels, at, p + (t - first), kv_head, slab,
                         static_cast<int>(padded < kKvSlab ? padded : kKvSlab), sum);
      t += at.last - at.first;
    }
    std::memcpy(out_head + slab, sum, bytes);
  }
  return Status{};
}

inline Status finish_kv_output(const internal::KvState& s, float* out_head) noexcept {
  const KernelTable* table = nullptr;
  if (Status e = select_kernels(std::nullopt, &table); !e) return e;
  if (Status e = validate_kv_alive(s); !e) return e;
  if (out_head == nullptr) return invalid_argument("out_head", "must not be null", 0, 1);
  if (s.rotate_v) rotate_head(*table, s.rotation, out_head);
  return Status{};
}

// scale * (code - zero), or the f16 value, of one head of token `t` of a page.
inline void decode_kv(const KvTensorLayout& layout, bool is_k, const std::uint8_t* head, int t,
                      std::int64_t head_size, float* out) noexcept {
  const std::uint8_t* unit = head + layout.codes + (is_k ? t / kKvBlockTokens : t) * layout.unit;
  const int n = t % kKvBlockTokens;
  for (std::int64_t d = 0; d < head_size; ++d) {
    if (layout.bits == 16) {
      out[d] = to_f32(scalar::load_f16(unit, is_k ? d * kKvBlockTokens + n : d));
      continue;
    }
    const std::int64_t g = layout.group == kRowGroup ? 0 : d / layout.group;
    const std::int64_t at = g * kKvPageTokens + t;
    const int zero = layout.has_zeros ? head[layout.zeros + at] : 1 << (layout.bits - 1);
    const int code =
        layout.bits == 4
            ? (is_k ? scalar::kv_k_code<4>(unit, n, d) : scalar::kv_v_code<4>(unit, d))
            : (is_k ? scalar::kv_k_code<8>(unit, n, d) : scalar::kv_v_code<8>(unit, d));
    out[d] = to_f32(scalar::load_f16(head + layout.scales, at)) * static_cast<float>(code - zero);
  }
}

inline Status stored_kv(const internal::KvState& s, std::int64_t token, std::int64_t kv_head,
                        float* k, float* v) noexcept {
  if (Status e = validate_kv_range(s, kv_head, token, token + 1); !e) return e;
  const internal::KvSegment at = kv_segment(s, token, token + 1);
  const std::uint8_t* head = kv_head_bytes(at, kv_head);
  const KvPageLayout& layout = at.section->layout;
  if (k != nullptr) decode_kv(layout.k, true, head, at.first, s.head_size, k);
  if (v != nullptr) decode_kv(layout.v, false, head, at.first, s.head_size, v);
  return Status{};
}

}  // namespace detail

RRS_FUNCTIONS_END
