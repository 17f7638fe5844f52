// A packed weight as bytes: written once, mapped from a file and used in place.
//
//   bytes = header (320) | panels | scales | offsets | L_B | L_A | their scales, 64-byte aligned,
//   gaps zero
//
// from: WeightView (serialize_weight).  to: WeightView (view_weight), pointing into the same bytes:
// nothing is copied, so `data` must be 64-byte aligned (a mapped file is) and outlive the view.
// The header holds magic, versions, byte order, shape, every field of the scheme at fixed width,
// all section sizes and two 64-bit checksums (core/hash.hpp): one of the header, one of the
// payload. Numeric contract: the view's bytes, scheme and fingerprint come back exactly. Anything
// else (a truncated, extended, changed or foreign file) is kCorruptData naming the field; sizes are
// recomputed from the shape and compared before any of them is used. Not a defence against forgery:
// values are not looked at, and outputs whose scales somebody made NaN or Inf are NaN or Inf, which
// of them may differ by level. A mapped file must not shrink while it is used: sizes are checked
// against `size` once, and a read behind the new end is a SIGBUS that no library can catch for its
// program. Replace files by renaming a new one over them, which leaves mappings whole. Cost: one
// pass for the checksum, 6 GB/s or more; Checksum::kSkip reads the header only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/hash.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/pack/layout.hpp"
#include "rrs/pipeline/weight_view.hpp"

RRS_TYPES_BEGIN

// Version 1: no low-rank branch. 2: with one in 16 bits. 3: with one in 8. Each is written with the
// bytes that earlier releases wrote, so these read all that they know and refuse the rest by name.
inline constexpr std::uint32_t kWeightFileVersion = 3;

// Whether view_weight reads the whole payload to verify it. The header is always verified.
enum class Checksum : std::uint8_t { kVerify, kSkip };

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// Scheme at fixed width; enums and bools as u32.
struct SchemeRecord {
  std::uint32_t rotation_kind, rotation_signs;
  std::int64_t rotation_block;
  std::uint64_t rotation_seed;
  std::int64_t activation_bits, activation_group;
  std::uint32_t window_kind, activation_range;
  std::int64_t window_rows;
  float activation_clip, activation_floor;
  std::uint32_t activation_token_scale, activation_exact_reference;
  std::int64_t weight_bits, weight_group;
  std::uint32_t weight_range, weight_scale;
  float smoothquant_alpha;
  std::uint32_t simulated;
};

struct WeightFileHeader {
  char magic[8];
  std::uint32_t file_version, layout_version;
  std::uint32_t byte_order, header_bytes;
  std::int64_t n, k, groups;
  std::uint64_t channels_fingerprint;
  std::int64_t panels_bytes, scales_at, scales_bytes, offsets_at, offsets_bytes, payload_bytes;
  SchemeRecord scheme;
  std::int64_t rank, down_at, down_bytes, up_at, up_bytes;    // version 1: all 0
  std::int64_t rank_bits, rank_scales_at, rank_scales_bytes;  // version 3: 8, ...; below: all 0
  std::uint64_t reserved;
  std::uint64_t payload_checksum;
  std::uint64_t header_checksum;  // of all bytes before it
};

static_assert(sizeof(SchemeRecord) == 104, "no padding");
static_assert(sizeof(WeightFileHeader) == 296, "no padding");
inline constexpr std::int64_t kWeightHeaderBytes = 320;  // sections start 64-byte aligned
inline constexpr char kWeightMagic[8] = {'R', 'R', 'S', 'W', 'E', 'I', 'G', 'H'};
inline constexpr std::uint32_t kByteOrder = 0x01020304u;

inline Status corrupt(const char* field, const char* rule, std::int64_t value,
                      std::int64_t limit) noexcept {
  return Status{StatusCode::kCorruptData, field, rule, value, limit, nullptr};
}

inline SchemeRecord to_record(const Scheme& s) noexcept {
  SchemeRecord r{};
  r.rotation_kind = static_cast<std::uint32_t>(s.rotation.kind);
  r.rotation_signs = s.rotation.random_signs ? 1 : 0;
  r.rotation_block = s.rotation.block;
  r.rotation_seed = s.rotation.sign_seed;
  r.activation_bits = s.activation.bits;
  r.activation_group = s.activation.group;
  r.window_kind = static_cast<std::uint32_t>(s.activation.window.kind);
  r.activation_range = static_cast<std::uint32_t>(s.activation.range);
  r.window_rows = s.activation.window.rows;
  r.activation_clip = s.activation.clip;
  r.activation_floor = s.activation.floor;
  r.activation_token_scale = s.activation.token_scale ? 1 : 0;
  r.activation_exact_reference = s.activation.exact_reference ? 1 : 0;
  r.weight_bits = s.weight.bits;
  r.weight_group = s.weight.group;
  r.weight_range = static_cast<std::uint32_t>(s.weight.range);
  r.weight_scale = static_cast<std::uint32_t>(s.weight.scale);
  r.smoothquant_alpha = s.smoothquant_alpha;
  r.simulated = s.simulated ? 1 : 0;
  return r;
}

// Enums, bools and narrowed integers are in range; what they mean together is validate()'s
// business.
inline Status check_record(const SchemeRecord& r) noexcept {
  struct Bounded {
    const char* name;
    std::int64_t value, limit;
  };
  const Bounded fields[] = {
      {"rotation.kind", r.rotation_kind, static_cast<int>(RotationKind::kFull)},
      {"rotation.random_signs", r.rotation_signs, 1},
      {"rotation.block", r.rotation_block, INT32_MAX},
      {"activation.bits", r.activation_bits, kActivationFloat},
      {"activation.group", r.activation_group, 256},
      {"activation.window.kind", r.window_kind, static_cast<int>(WindowKind::kFrozen)},
      {"activation.range", r.activation_range, static_cast<int>(Range::kFull)},
      {"activation.token_scale", r.activation_token_scale, 1},
      {"activation.exact_reference", r.activation_exact_reference, 1},
      {"weight.bits", r.weight_bits, 8},
      {"weight.group", r.weight_group, 256},
      {"weight.range", r.weight_range, static_cast<int>(Range::kFull)},
      {"weight.scale", r.weight_scale, static_cast<int>(WeightScale::kSearch)},
      {"scheme.simulated", r.simulated, 0},
  };
  for (const Bounded& f : fields) {
    if (f.value < 0 || f.value > f.limit) {
      return corrupt(f.name, "must be a known value", f.value, f.limit);
    }
  }
  return Status{};
}

inline Scheme from_record(const SchemeRecord& r) noexcept {
  Scheme s;
  s.rotation.kind = static_cast<RotationKind>(r.rotation_kind);
  s.rotation.random_signs = r.rotation_signs != 0;
  s.rotation.block = static_cast<int>(r.rotation_block);
  s.rotation.sign_seed = r.rotation_seed;
  s.activation.bits = static_cast<int>(r.activation_bits);
  s.activation.group = static_cast<int>(r.activation_group);
  s.activation.window.kind = static_cast<WindowKind>(r.window_kind);
  s.activation.range = static_cast<Range>(r.activation_range);
  s.activation.window.rows = r.window_rows;
  s.activation.clip = r.activation_clip;
  s.activation.floor = r.activation_floor;
  s.activation.token_scale = r.activation_token_scale != 0;
  s.activation.exact_reference = r.activation_exact_reference != 0;
  s.weight.bits = static_cast<int>(r.weight_bits);
  s.weight.group = static_cast<int>(r.weight_group);
  s.weight.range = static_cast<Range>(r.weight_range);
  s.weight.scale = static_cast<WeightScale>(r.weight_scale);
  s.smoothquant_alpha = r.smoothquant_alpha;
  s.simulated = r.simulated != 0;
  return s;
}

inline std::uint64_t header_checksum(const WeightFileHeader& h) noexcept {
  return hash_bytes(&h, offsetof(WeightFileHeader, header_checksum));
}

// The layout of a view that makes sense.
inline Result<WeightLayout> checked_view_layout(const WeightView& w) noexcept {
  if (Status s = validate(w.scheme, w.k); !s) return s;
  const Result<WeightLayout> layout = weight_layout(w.n, w.k, w.scheme.weight, w.offsets != nullptr,
                                                    w.low_rank.rank, w.low_rank.bits);
  if (!layout) return layout;
  if (w.panel_bytes != layout->panel_bytes) {
    return invalid_argument("W.panel_bytes", "must be that of the shape and scheme", w.panel_bytes,
                            layout->panel_bytes);
  }
  if (w.groups != layout->groups) {
    return invalid_argument("W.groups", "must be that of the shape and scheme", w.groups,
                            layout->groups);
  }
  if (w.n > 0 && (w.panels == nullptr || w.scales == nullptr)) {
    return invalid_argument("W.panels", "and W.scales must not be null", 0, 1);
  }
  const LowRankView& b = w.low_rank;
  if (b.rank > 0 && (b.n != w.n || b.k != w.k || b.down == nullptr || b.up == nullptr)) {
    return invalid_argument("W.low_rank", "must be of the weight's shape (found: K)", b.k, w.k);
  }
  if (layout->rank_scales_bytes > 0 && b.scales == nullptr) {
    return invalid_argument("W.low_rank.scales", "must not be null at 8 bits", 0, 1);
  }
  return layout;
}

}  // namespace detail

// Bytes that serialize_weight writes; 0 when the view is not valid.
inline std::size_t serialized_bytes(const WeightView& w) noexcept {
  const Result<WeightLayout> layout = detail::checked_view_layout(w);
  if (!layout || layout->total_bytes > INT64_MAX - detail::kWeightHeaderBytes) return 0;
  return static_cast<std::size_t>(detail::kWeightHeaderBytes + layout->total_bytes);
}

namespace detail {

// The sections that `w` has, as they lie in memory; the rest behind the panels is zeroed.
inline void write_payload(const WeightView& w, const WeightLayout& l, std::byte* payload) noexcept {
  if (l.total_bytes <= 0) return;
  const auto section = [payload](std::int64_t at, const void* from, std::int64_t bytes) noexcept {
    if (bytes > 0) std::memcpy(payload + at, from, static_cast<std::size_t>(bytes));
  };
  std::memset(payload + l.scales_at, 0, static_cast<std::size_t>(l.total_bytes - l.scales_at));
  section(0, w.panels, l.panels_bytes);
  section(l.scales_at, w.scales, l.scales_bytes);
  section(l.offsets_at, w.offsets, l.offsets_bytes);
  if (w.low_rank.rank == 0) return;
  section(l.down_at, w.low_rank.down, l.down_bytes);
  section(l.up_at, w.low_rank.up, l.up_bytes);
  section(l.rank_scales_at, w.low_rank.scales, l.rank_scales_bytes);
}

// All fields but the checksums.
inline WeightFileHeader make_header(const WeightView& w, const WeightLayout& l) noexcept {
  WeightFileHeader h{};
  std::memcpy(h.magic, kWeightMagic, sizeof h.magic);
  h.file_version = l.rank == 0 ? 1 : l.rank_bits == 16 ? 2 : 3;
  h.layout_version = kPackedFormatVersion;
  h.byte_order = kByteOrder;
  h.header_bytes = static_cast<std::uint32_t>(kWeightHeaderBytes);
  h.n = w.n;
  h.k = w.k;
  h.groups = l.groups;
  h.channels_fingerprint = w.channels_fingerprint;
  h.panels_bytes = l.panels_bytes;
  h.scales_at = l.scales_at;
  h.scales_bytes = l.scales_bytes;
  h.offsets_at = l.offsets_at;
  h.offsets_bytes = l.offsets_bytes;
  h.payload_bytes = l.total_bytes;
  if (l.rank > 0) {
    h.rank = l.rank;
    h.down_at = l.down_at;
    h.down_bytes = l.down_bytes;
    h.up_at = l.up_at;
    h.up_bytes = l.up_bytes;
  }
  if (l.rank_scales_bytes > 0) {
    h.rank_bits = l.rank_bits;
    h.rank_scales_at = l.rank_scales_at;
    h.rank_scales_bytes = l.rank_scales_bytes;
  }
  h.scheme = to_record(w.scheme);
  return h;
}

}  // namespace detail

// Writes serialized_bytes(w) bytes to `out` (any alignment; not overlapping w, which is not
// checked). The same weight always gives the same bytes. An error (kInvalidArgument; of w's scheme
// kInvalidScheme, kSimulatedOnly) leaves `out` untouched. Reads w only: from any threads at once.
inline Status serialize_weight(const WeightView& w, void* out, std::size_t size) noexcept {
  const Result<WeightLayout> layout = detail::checked_view_layout(w);
  if (!layout) return layout.status();
  const std::size_t needed = serialized_bytes(w);
  if (out == nullptr || size < needed) {
    return invalid_argument("size", "must be at least serialized_bytes(W)",
                            static_cast<std::int64_t>(out == nullptr ? 0 : size),
                            static_cast<std::int64_t>(needed));
  }
  std::byte* payload = static_cast<std::byte*>(out) + detail::kWeightHeaderBytes;
  detail::write_payload(w, *layout, payload);
  detail::WeightFileHeader h = detail::make_header(w, *layout);
  h.payload_checksum = hash_bytes(payload, static_cast<std::size_t>(layout->total_bytes));
  h.header_checksum = detail::header_checksum(h);
  std::memset(out, 0, static_cast<std::size_t>(detail::kWeightHeaderBytes));
  std::memcpy(out, &h, sizeof h);
  return Status{};
}

namespace detail {

// Everything that says "this is our format", before any other field is believed.
inline Status check_identity(const WeightFileHeader& h) noexcept {
  if (std::memcmp(h.magic, kWeightMagic, sizeof h.magic) != 0) {
    return corrupt("magic", "must be RRSWEIGH", h.magic[0], kWeightMagic[0]);
  }
  if (h.byte_order != kByteOrder) {
    return corrupt("byte_order", "must be this machine's", h.byte_order, kByteOrder);
  }
  if (h.file_version < 1 || h.file_version > kWeightFileVersion) {
    return corrupt("file_version", "must be known", h.file_version, kWeightFileVersion);
  }
  if (h.layout_version != static_cast<std::uint32_t>(kPackedFormatVersion)) {
    return corrupt("layout_version", "must be known", h.layout_version, kPackedFormatVersion);
  }
  if (h.header_bytes != static_cast<std::uint32_t>(kWeightHeaderBytes)) {
    return corrupt("header_bytes", "must be that of the version", h.header_bytes,
                   kWeightHeaderBytes);
  }
  if (h.header_checksum != header_checksum(h)) {
    return corrupt("header_checksum", "must match the header", 0, 0);
  }
  if ((h.file_version == 1) != (h.rank == 0)) {
    return corrupt("file_version", "must be 1 without a low-rank branch, else 2 or 3",
                   h.file_version, h.rank == 0 ? 1 : 2);
  }
  const std::int64_t rank_bits = h.file_version == 3 ? 8 : 0;
  if (h.rank_bits != rank_bits) {
    return corrupt("rank_bits", "must be 8 in version 3, else 0", h.rank_bits, rank_bits);
  }
  return Status{};
}

// Every stored size equals what the shape implies.
inline Status check_sizes(const WeightFileHeader& h, const WeightLayout& l,
                          std::int64_t size) noexcept {
  struct Pair {
    const char* name;
    std::int64_t stored, implied;
  };
  const Pair pairs[] = {
      {"groups", h.groups, l.groups},
      {"panels_bytes", h.panels_bytes, l.panels_bytes},
      {"scales_at", h.scales_at, l.scales_at},
      {"scales_bytes", h.scales_bytes, l.scales_bytes},
      {"offsets_at", h.offsets_at, l.offsets_at},
      {"offsets_bytes", h.offsets_bytes, l.offsets_bytes},
      {"down_at", h.down_at, l.rank > 0 ? l.down_at : 0},
      {"down_bytes", h.down_bytes, l.down_bytes},
      {"up_at", h.up_at, l.rank > 0 ? l.up_at : 0},
      {"up_bytes", h.up_bytes, l.up_bytes},
      {"rank_scales_at", h.rank_scales_at, l.rank_scales_bytes > 0 ? l.rank_scales_at : 0},
      {"rank_scales_bytes", h.rank_scales_bytes, l.rank_scales_bytes},
      {"payload_bytes", h.payload_bytes, l.total_bytes},
      {"size", size - kWeightHeaderBytes, l.total_bytes},
  };
  for (const Pair& p : pairs) {
    if (p.stored != p.implied) {
      return corrupt(p.name, "must be what the shape and scheme imply", p.stored, p.implied);
    }
  }
  return Status{};
}

}  // namespace detail

// The view of `size` serialized bytes at `data`, without copying; reads them only, so any threads
// may. kInvalidArgument: `data` null or not 64-byte aligned. kCorruptData: names the field.
inline Result<WeightView> view_weight(const void* data, std::size_t size,
                                      Checksum checksum = Checksum::kVerify) noexcept {
  if (data == nullptr) return invalid_argument("data", "must not be null", 0, 1);
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  if (address % kBufferAlignment != 0) {
    return invalid_argument("data", "must be 64-byte aligned",
                            static_cast<std::int64_t>(address % kBufferAlignment), 0);
  }
  if (size > static_cast<std::size_t>(INT64_MAX)) {
    return invalid_argument("size", "must fit 63 bits", -1, INT64_MAX);
  }
  const auto available = static_cast<std::int64_t>(size);
  if (available < detail::kWeightHeaderBytes) {
    return detail::corrupt("size", "must hold the header", available, detail::kWeightHeaderBytes);
  }
  detail::WeightFileHeader h;
  std::memcpy(&h, data, sizeof h);
  if (Status s = detail::check_identity(h); !s) return s;
  if (Status s = detail::check_record(h.scheme); !s) return s;
  const Scheme scheme = detail::from_record(h.scheme);
  Status valid = validate(scheme, h.k);
  const Result<WeightLayout> layout =
      valid.ok() ? weight_layout(h.n, h.k, scheme.weight, h.offsets_bytes != 0, h.rank,
                                 h.file_version == 3 ? 8 : 16)
                 : Result<WeightLayout>(valid);
  if (!layout) {  // the same message, as what it is here
    valid = layout.status();
    valid.code = StatusCode::kCorruptData;
    return valid;
  }
  if (Status s = detail::check_sizes(h, *layout, available); !s) return s;
  const std::byte* base = static_cast<const std::byte*>(data);
  for (std::int64_t i = sizeof h; i < detail::kWeightHeaderBytes; ++i) {
    if (base[i] != std::byte{0}) return detail::corrupt("padding", "must be zero", i, 0);
  }
  const std::byte* payload = base + detail::kWeightHeaderBytes;
  if (checksum == Checksum::kVerify &&
      hash_bytes(payload, static_cast<std::size_t>(layout->total_bytes)) != h.payload_checksum) {
    return detail::corrupt("payload_checksum", "must match the payload", 0, 0);
  }
  return make_weight_view(layout->total_bytes > 0 ? payload : nullptr, *layout, h.n, h.k, scheme,
                          h.channels_fingerprint);
}

RRS_FUNCTIONS_END
