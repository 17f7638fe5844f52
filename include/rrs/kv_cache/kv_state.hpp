// State of a KvCache and what changes it: create, append, truncate, fork. ISA-free.
//
// Tokens live in two sections, each a list of pages of one format: the exact prefix (16 bits), then
// the rest. from: kv_cache.hpp (documentation and contracts there).  to: kv_read.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "rrs/core/aligned_buffer.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/dispatch.hpp"
#include "rrs/core/view.hpp"
#include "rrs/kv_cache/kv_append.hpp"
#include "rrs/kv_cache/kv_dispatch.hpp"
#include "rrs/kv_cache/kv_page.hpp"
#include "rrs/kv_cache/kv_scheme.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_TYPES_BEGIN

namespace internal {

// Tokens of one format: the exact prefix, or the rest.
struct KvSection {
  KvScheme scheme;
  KvPageLayout layout;
  KvPageList pages;
  std::int64_t tokens = 0;
};

struct KvState {
  std::int64_t kv_heads = 0;
  std::int64_t head_size = 0;
  bool rotate_k = false;  // never at 16 bits
  bool rotate_v = false;
  RotationPlan rotation;
  AlignedBuffer tables;
  AlignedBuffer memory;  // behind scratch
  KvScratch scratch;
  KvSection exact;  // always 16 bits; comes first
  KvSection main;
};

}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

inline Status validate_kv_shape(std::int64_t kv_heads, std::int64_t head_size) noexcept {
  if (kv_heads < 1 || kv_heads > kKvMaxHeads) {
    return invalid_argument("kv_heads", "must be in [1, 65536]", kv_heads, kKvMaxHeads);
  }
  if (head_size < 1 || head_size > kKvMaxHeadSize) {
    return invalid_argument("head_size", "must be in [1, 1024]", head_size, kKvMaxHeadSize);
  }
  return Status{};
}

inline Status carve_kv_scratch(internal::KvState* s) noexcept {
  const std::int64_t row = round_up(s->kv_heads * s->head_size, 16);
  const std::int64_t rotate = round_up(rotation_scratch_floats(s->rotation), 16);
  const std::int64_t groups = round_up(s->head_size / 16 + 1, 16);
  const std::int64_t floats = row + rotate + 2 * groups;
  if (Status e = s->memory.allocate(floats * 4 + round_up(s->head_size, 64)); !e) return e;
  s->scratch.row = reinterpret_cast<float*>(s->memory.data());
  s->scratch.rotate = s->scratch.row + row;
  s->scratch.positive = s->scratch.rotate + rotate;
  s->scratch.negative = s->scratch.positive + groups;
  s->scratch.codes = reinterpret_cast<std::uint8_t*>(s->scratch.row + floats);
  return Status{};
}

inline Status create_kv(const KvScheme& scheme, std::int64_t kv_heads, std::int64_t head_size,
                        internal::KvState* s) noexcept {
  if (Status e = validate(scheme); !e) return e;
  if (Status e = validate_kv_shape(kv_heads, head_size); !e) return e;
  s->kv_heads = kv_heads;
  s->head_size = head_size;
  s->rotate_k = scheme.rotate_k && scheme.bits != 16;
  s->rotate_v = scheme.rotate_v && kv_v_bits(scheme) != 16;
  if (s->rotate_k || s->rotate_v) {
    s->rotation = plan_rotation(Rotation{RotationKind::kFull, 32, false, 0}, head_size);
    const auto bytes = static_cast<std::int64_t>(rotation_tables_bytes(s->rotation));
    if (Status e = s->tables.allocate(bytes); !e) return e;
    build_rotation_tables(&s->rotation, s->tables.data());
  }
  s->main.scheme = scheme;
  s->main.layout = kv_page_layout(scheme, kv_heads, head_size);
  s->exact.scheme.bits = 16;
  s->exact.layout = kv_page_layout(s->exact.scheme, kv_heads, head_size);
  return carve_kv_scratch(s);
}

inline bool all_exact(const internal::KvState& s) noexcept {
  return s.main.scheme.bits == 16 && kv_v_bits(s.main.scheme) == 16;
}

// Writes token `at` of a section; false when a row was stored as NaN.
inline bool write_kv(internal::KvState& s, internal::KvSection& section, const KernelTable& table,
                     std::int64_t at, const float* k, const float* v) noexcept {
  std::byte* page = section.pages.bytes(at / kKvPageTokens) + kKvPageHeader;
  const KvPageLayout& layout = section.layout;
  internal::KvWrite w{&table,
                      &kv_kernels_of(table.isa),
                      &section.scheme,
                      &layout.k,
                      true,
                      static_cast<int>(at % kKvPageTokens),
                      page};
  const bool k_finite = write_kv_token(w, k, s.kv_heads, s.head_size, layout.head_bytes,
                                       s.rotate_k ? &s.rotation : nullptr, s.scratch);
  w.layout = &layout.v;
  w.is_k = false;
  const bool v_finite = write_kv_token(w, v, s.kv_heads, s.head_size, layout.head_bytes,
                                       s.rotate_v ? &s.rotation : nullptr, s.scratch);
  return k_finite && v_finite;
}

// A default-constructed or moved-from cache has no memory.
inline Status validate_kv_alive(const internal::KvState& s) noexcept {
  if (s.memory.data() != nullptr) return Status{};
  return invalid_argument("cache", "must come from KvCache::create", 0, 1);
}

inline constexpr ViewNames kNamesKvK{"k.data", "k.rows", "k.cols", "k.row_stride"};
inline constexpr ViewNames kNamesKvV{"v.data", "v.rows", "v.cols", "v.row_stride"};

// What a call of append brings: [tokens][kv_heads * head_size] twice.
inline Status validate_kv_rows(const internal::KvState& s, const MatrixView<const float>& k,
                               const MatrixView<const float>& v) noexcept {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  const std::int64_t held = s.exact.tokens + s.main.tokens;
  if (k.rows < 0 || k.rows > kMost - held) {
    return invalid_argument("tokens", "must be in [0, 2^40 - tokens()]", k.rows, kMost - held);
  }
  if (v.rows != k.rows) return invalid_argument("v.rows", "must equal k.rows", v.rows, k.rows);
  const std::int64_t width = s.kv_heads * s.head_size;
  if (k.cols != width) {
    return invalid_argument("k.cols", "must equal kv_heads * head_size", k.cols, width);
  }
  if (v.cols != width) {
    return invalid_argument("v.cols", "must equal kv_heads * head_size", v.cols, width);
  }
  if (Status e = validate_view(erase(k), kNamesKvK); !e) return e;
  return validate_view(erase(v), kNamesKvV);
}

inline Status append_kv(internal::KvState& s, bool exact, const MatrixView<const float>& k,
                        const MatrixView<const float>& v) noexcept {
  const KernelTable* table = nullptr;
  if (Status e = select_kernels(std::nullopt, &table); !e) return e;
  if (Status e = validate_kv_alive(s); !e) return e;
  if (Status e = validate_kv_rows(s, k, v); !e) return e;
  if (k.rows == 0) return Status{};
  if (exact && !all_exact(s) && s.main.tokens > 0) {
    return invalid_argument("append_exact", "must come before all quantized tokens (found: those)",
                            s.main.tokens, 0);
  }
  internal::KvSection& section = exact && !all_exact(s) ? s.exact : s.main;
  const std::int64_t page_bytes = section.layout.page_bytes;
  const std::int64_t total = section.tokens + k.rows;
  if (section.tokens % kKvPageTokens != 0) {
    if (Status e = section.pages.own(section.tokens / kKvPageTokens, page_bytes); !e) return e;
  }
  if (Status e = section.pages.grow(group_count(total, kKvPageTokens), page_bytes); !e) return e;
  std::int64_t first_bad = -1;
  for (std::int64_t t = 0; t < k.rows; ++t) {
    const bool ok = write_kv(s, section, *table, section.tokens + t, k.row(t), v.row(t));
    if (!ok && first_bad < 0) first_bad = t;
  }
  section.tokens = total;
  if (first_bad < 0) return Status{};
  return Status{StatusCode::kNonFinite,
                "k or v",
                "must be finite and within range (found: token)",
                first_bad,
                0,
                nullptr};
}

inline void truncate_section(internal::KvSection& section, std::int64_t tokens) noexcept {
  section.tokens = tokens;
  section.pages.shrink(group_count(tokens, kKvPageTokens));
}

inline Status truncate_kv(internal::KvState& s, std::int64_t tokens) noexcept {
  if (Status e = validate_kv_alive(s); !e) return e;
  const std::int64_t held = s.exact.tokens + s.main.tokens;
  if (tokens < 0 || tokens > held) {
    return invalid_argument("tokens", "must be in [0, tokens()]", tokens, held);
  }
  const std::int64_t exact = tokens < s.exact.tokens ? tokens : s.exact.tokens;
  truncate_section(s.main, tokens - exact);
  truncate_section(s.exact, exact);
  return Status{};
}

inline Status fork_kv(const internal::KvState& from, internal::KvState* to) noexcept {
  if (Status e = validate_kv_alive(from); !e) return e;
  if (Status e = create_kv(from.main.scheme, from.kv_heads, from.head_size, to); !e) return e;
  if (Status e = to->exact.pages.share(from.exact.pages); !e) return e;
  if (Status e = to->main.pages.share(from.main.pages); !e) return e;
  to->exact.tokens = from.exact.tokens;
  to->main.tokens = from.main.tokens;
  return Status{};
}

}  // namespace detail

RRS_FUNCTIONS_END
