// Packing of weight codes into the canonical panels, and back.
//
//   codes [N,K]  <->  panels: 16 outputs x 8 (4 bits) or 4 (8 bits) inputs per 64 bytes
//   (layout.hpp) values [N,G] <->  [panel][group][16]: scales (f16) and offsets (f32), 0 for
//   outputs beyond N
//
// from: quantize/rtn.hpp, calibrate/gptq, from_codes.hpp.  to: PreparedWeight, gemm/.
// Codes are signed (-8..7, -128..127; stored biased by 8 or 128) or unsigned as stored (0..15,
// 0..255). Numeric contract: exact; unpack_weight inverts pack_weight for every N, K. Inputs beyond
// K and outputs beyond N hold code 0 (nibble 8, byte 128). Cost: about 1 ns per weight, offline.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/view.hpp"
#include "rrs/pack/layout.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

inline constexpr ViewNames kNamesCodes{"codes.data", "codes.rows", "codes.cols",
                                       "codes.row_stride"};

RRS_FORCE_INLINE int code_bias(int bits) noexcept { return 1 << (bits - 1); }

// The stored form of a code.
template <class Code>
RRS_FORCE_INLINE std::uint8_t stored_code(Code code, int bias) noexcept {
  static_assert(sizeof(Code) == 1, "int8 or uint8 codes");
  if constexpr (std::is_signed<Code>::value) {
    return static_cast<std::uint8_t>(code + bias);
  } else {
    return code;
  }
}

template <class Code>
bool codes_in_range(const Code* codes, std::int64_t k, int bits) noexcept {
  const unsigned limit = (1u << bits) - 1u;
  unsigned worst = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    int biased = codes[i];  // NOLINT(bugprone-signed-char-misuse): a code
    if constexpr (std::is_signed<Code>::value) biased += code_bias(bits);
    const auto stored = static_cast<unsigned>(biased);  // negative: wraps to a large value
    worst = stored > worst ? stored : worst;
  }
  return worst <= limit;
}

}  // namespace detail

// Packs `rows` <= 16 rows of codes into one panel of panel_bytes(k, bits) bytes. Codes in range.
template <class Code>
void pack_panel(const Code* codes, std::int64_t row_stride, int rows, std::int64_t k, int bits,
                std::uint8_t* panel) noexcept {
  const int bias = detail::code_bias(bits);
  const int padding = bits == 4 ? 0x88 : 0x80;
  std::memset(panel, padding, static_cast<std::size_t>(panel_bytes(k, bits)));
  const std::int64_t step = bits == 4 ? 8 : 4;
  for (std::int64_t k0 = 0; k0 < k; k0 += step) {
    std::uint8_t* block = panel + k0 / step * 64;
    const int inputs = static_cast<int>(k - k0 < step ? k - k0 : step);
    for (int n = 0; n < rows; ++n) {
      const Code* row = codes + n * row_stride + k0;
      for (int j = 0; j < inputs; ++j) {
        const unsigned u = detail::stored_code(row[j], bias);
        std::uint8_t& byte = block[n * 4 + j % 4];
        if (bits == 8) {
          byte = static_cast<std::uint8_t>(u);
        } else if (j < 4) {
          byte = static_cast<std::uint8_t>((byte & 0xf0u) | u);
        } else {
          byte = static_cast<std::uint8_t>((byte & 0x0fu) | (u << 4));
        }
      }
    }
  }
}

// The stored (unsigned) code of output n < 16 of a panel, input k.
RRS_FORCE_INLINE int packed_code(const std::uint8_t* panel, int n, std::int64_t k,
                                 int bits) noexcept {
  if (bits == 8) return panel[w8_byte(n, k)];
  const int byte = panel[w4_byte(n, k)];
  return w4_high_nibble(k) ? byte >> 4 : byte & 15;
}

namespace detail {

inline Status validate_panels(const void* panels, std::int64_t bytes, std::int64_t n,
                              std::int64_t k, int bits) noexcept {
  if (bits != 4 && bits != 8) return invalid_argument("bits", "must be 4 or 8", bits, 8);
  std::int64_t needed = 0;
  if (k > INT64_MAX / 64 || n > INT64_MAX - 16 ||
      !checked_product(panel_count(n), panel_bytes(k, bits), &needed)) {
    return invalid_argument("codes.rows", "times cols must fit 63 bits of bytes", n, INT64_MAX);
  }
  if (bytes < needed) {
    return invalid_argument("panels.bytes", "must hold all panels", bytes, needed);
  }
  if (panels == nullptr && needed > 0) {
    return invalid_argument("panels", "must not be null when there are codes", 0, 1);
  }
  return Status{};
}

}  // namespace detail

// Packs a whole matrix; `panels` has panel_count(N) * panel_bytes(K, bits) bytes or more. An
// argument error leaves `panels` untouched.
template <class Code>
Status pack_weight(const MatrixView<Code>& codes, int bits, std::uint8_t* panels,
                   std::int64_t bytes) noexcept {
  if (Status s = validate_view(codes, detail::kNamesCodes); !s) return s;
  if (Status s = detail::validate_panels(panels, bytes, codes.rows, codes.cols, bits); !s) {
    return s;
  }
  for (std::int64_t n = 0; n < codes.rows; ++n) {
    if (!detail::codes_in_range(codes.row(n), codes.cols, bits)) {
      return invalid_argument("codes", "must fit the number of bits in every row (found: row)", n,
                              bits);
    }
  }
  const std::int64_t stride = panel_bytes(codes.cols, bits);
  for (std::int64_t n = 0; n < codes.rows; n += kPanelOutputs) {
    const std::int64_t left = codes.rows - n;
    const int rows = static_cast<int>(left < kPanelOutputs ? left : kPanelOutputs);
    pack_panel(codes.row(n), codes.row_stride, rows, codes.cols, bits,
               panels + n / kPanelOutputs * stride);
  }
  return Status{};
}

// The inverse: signed codes of the first codes.rows outputs and codes.cols inputs.
inline Status unpack_weight(const std::uint8_t* panels, std::int64_t bytes, int bits,
                            const MatrixView<std::int8_t>& codes) noexcept {
  if (Status s = validate_view(codes, detail::kNamesCodes); !s) return s;
  if (Status s = detail::validate_panels(panels, bytes, codes.rows, codes.cols, bits); !s) {
    return s;
  }
  const int bias = detail::code_bias(bits);
  const std::int64_t stride = panel_bytes(codes.cols, bits);
  for (std::int64_t n = 0; n < codes.rows; ++n) {
    const std::uint8_t* panel = panels + n / kPanelOutputs * stride;
    std::int8_t* row = codes.row(n);
    for (std::int64_t k = 0; k < codes.cols; ++k) {
      const int u = packed_code(panel, static_cast<int>(n % kPanelOutputs), k, bits);
      row[k] = static_cast<std::int8_t>(u - bias);
    }
  }
  return Status{};
}

// Index of (output n, group g) in [panel][group][16].
RRS_FORCE_INLINE constexpr std::int64_t group_value_index(std::int64_t n, std::int64_t g,
                                                          std::int64_t groups) noexcept {
  return (n / kPanelOutputs * groups + g) * kPanelOutputs + n % kPanelOutputs;
}

// values [N,G] row-major -> [panel][group][16]; outputs beyond N become 0.
template <class T>
void pack_group_values(const T* values, std::int64_t row_stride, std::int64_t n,
                       std::int64_t groups, T* out) noexcept {
  const std::int64_t count = panel_count(n) * groups * kPanelOutputs;
  if (count > 0) std::memset(out, 0, static_cast<std::size_t>(count) * sizeof(T));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t g = 0; g < groups; ++g) {
      out[group_value_index(i, g, groups)] = values[i * row_stride + g];
    }
  }
}

// The inverse.
template <class T>
void unpack_group_values(const T* packed, std::int64_t n, std::int64_t groups, T* values,
                         std::int64_t row_stride) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t g = 0; g < groups; ++g) {
      values[i * row_stride + g] = packed[group_value_index(i, g, groups)];
    }
  }
}

RRS_FUNCTIONS_END
