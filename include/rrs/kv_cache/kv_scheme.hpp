// KvScheme: how keys and values of a cache are stored, as plain data.
//
//   value ~ scale * (code - zero)      one scale (and zero) per token, kv head and group of the
//   head asymmetric: lo = min(0, clip * min), hi = max(0, clip * max), scale = (hi - lo) / top,
//               zero = rint(-lo / scale) in 0..top, top = 15 (4 bits) or 255 (8 bits)
//   symmetric:  scale = clip * max|x| / qmax,      zero = 8 or 128 (not stored), qmax = 7 or 127
//   full:       the signed scale of core/scheme.hpp (Range::kFull), zero as symmetric
//
// Scales are f16, rounded before zeros and codes are computed; zeros are one byte. Bits per value
// at 4 bits, asymmetric: 4 + 24 / group (4.75 with groups of 32); symmetric and full: 4 + 16 /
// group. from: presets::kv or the user.  to: KvCache::create, which validates.
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/presets.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"

RRS_TYPES_BEGIN

enum class KvRange : std::uint8_t { kAsymmetric, kSymmetric, kFull };

// Values of KvScheme::group and v_group beside 16, 32, 64, 128, 256.
inline constexpr int kKvHeadGroup = 0;    // one scale per token and head
inline constexpr int kKvTokenGroup = -1;  // one scale per token, shared by all its heads
inline constexpr int kKvGroupAsK = -2;    // v_group only: as `group`

struct KvScheme {
  int bits = 4;    // 16 (f16, not quantized, not rotated), 8 or 4
  int group = 32;  // 16, 32, 64, 128, 256 or one of the constants above
  KvRange range = KvRange::kAsymmetric;
  float clip = 1.0f;     // [1/256, 1]
  bool rotate_k = true;  // by the Hadamard of the head size, after RoPE; queries likewise
  bool rotate_v = true;  // undone once per head output, by finish_output
  int v_bits = 0;        // 0: as `bits`
  int v_group = kKvGroupAsK;
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

inline Status validate_kv_bits(int bits, const char* name) noexcept {
  if (bits == 4 || bits == 8 || bits == 16) return Status{};
  return invalid_scheme(name, "must be 4, 8 or 16", bits, 16);
}

inline Status validate_kv_group(int group, const char* name) noexcept {
  if (is_group_size(group) || group == kKvTokenGroup) return Status{};
  return invalid_scheme(name, "must be 16, 32, 64, 128, 256, 0 (head) or -1 (token)", group, 256);
}

}  // namespace detail

// Bits of the values, with the default resolved.
RRS_FORCE_INLINE int kv_v_bits(const KvScheme& s) noexcept {
  return s.v_bits == 0 ? s.bits : s.v_bits;
}
// Group of the values, with the default resolved.
RRS_FORCE_INLINE int kv_v_group(const KvScheme& s) noexcept {
  return s.v_group == kKvGroupAsK ? s.group : s.v_group;
}

// Checks a scheme of a KV cache: errors name the field, its value and the limit.
inline Status validate(const KvScheme& s) noexcept {
  if (Status e = detail::validate_kv_bits(s.bits, "kv.bits"); !e) return e;
  if (Status e = detail::validate_kv_bits(kv_v_bits(s), "kv.v_bits"); !e) return e;
  if (Status e = detail::validate_kv_group(s.group, "kv.group"); !e) return e;
  if (Status e = detail::validate_kv_group(kv_v_group(s), "kv.v_group"); !e) return e;
  if (static_cast<int>(s.range) > static_cast<int>(KvRange::kFull)) {
    return invalid_scheme("kv.range", "must be asymmetric, symmetric or full",
                          static_cast<int>(s.range), 2);
  }
  // At least 1/256: beyond that every value clips, and products could leave the encoder's range.
  const bool clip_ok = s.clip >= 0x1p-8f && s.clip <= 1.0f;
  if (!clip_ok) {
    const bool printable = s.clip > -1e9f && s.clip < 1e9f;
    return invalid_scheme("kv.clip", "times 1000 must be in [4, 1000]",
                          printable ? static_cast<std::int64_t>(s.clip * 1000.0f) : -1, 1000);
  }
  return Status{};
}

namespace presets {

// Symmetric, one scale per token and head, not rotated: what RTN and SmoothQuant do.
inline KvScheme kv_plain(int bits) noexcept {
  KvScheme s;
  s.bits = bits;
  s.group = kKvHeadGroup;
  s.range = KvRange::kSymmetric;
  s.rotate_k = s.rotate_v = false;
  return s;
}

// The cache of the preset of that name (underscores or dashes) at 4, 8 or 16 bits. W8A8 SmoothQuant
// has no 4-bit cache: asked for 4 bits it gives 8. `name` must outlive a failed Status.
inline Result<KvScheme> kv(const char* name, int bits) {
  const Result<Scheme> known = by_name(name);
  if (!known) return known.status();
  if (Status e = detail::validate_kv_bits(bits, "bits"); !e) return e;
  char key[16] = {0};  // enough to tell the families apart
  for (int i = 0; i < 15 && name[i] != 0; ++i) key[i] = name[i] == '-' ? '_' : name[i];
  KvScheme s = kv_plain(bits);
  if (std::strcmp(key, "smoothquant_w8a") == 0 && bits == 4) s.bits = 8;
  if (std::strcmp(key, "rtn") == 0 || std::strncmp(key, "smoothquant", 11) == 0) return s;
  s.rotate_k = true;
  if (std::strncmp(key, "quarot", 6) == 0) {
    s.range = KvRange::kAsymmetric;
    s.clip = 0.95f;
    return s;
  }
  if (std::strncmp(key, "rs", 2) == 0 || std::strcmp(key, "rrs_published") == 0) {
    s.v_group = kKvTokenGroup;
    return s;
  }
  s = KvScheme{};  // rrs and its variants
  s.bits = bits;
  return s;
}

}  // namespace presets

RRS_FUNCTIONS_END
