// What check.cpp asks of an implementation: one layer, from the given weight and input, as bits.
//
// Another implementation (a port, another CPU, a GPU) is checked by linking check.cpp with its own
// `run` instead of implementation_rrs.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace conformance {

struct Scheme {
  bool rotated = true;  // block Hadamard of `block`, else none
  int block = 32;
  std::optional<std::uint64_t> sign_seed;
  int activation_bits = 4;
  bool whole_window = false;  // else each token alone
  int activation_group = 32;  // 0: the row
  bool full_range = true;     // else symmetric
  float clip = 1.0f;
  int weight_bits = 4;
  int weight_group = 32;  // 0: the row
};

struct Case {
  std::string name;
  std::int64_t m = 0, n = 0, k = 0;
  Scheme scheme;
  std::vector<float> x;     // [m][k]
  std::vector<float> w;     // [n][k], in the basis in which it is quantized
  std::vector<float> bias;  // [n], or empty
};

struct Result {
  std::vector<std::int32_t> weight_codes;    // [n][k], signed
  std::vector<std::uint16_t> weight_scales;  // [n][groups], bits of f16
  std::vector<std::uint8_t> panels;          // the packed format
  std::vector<std::int32_t> codes;           // [m][k]
  std::vector<std::uint32_t> scales;         // [m][groups], bits of f32
  std::vector<std::uint32_t> token_scales;   // [m]
  std::vector<std::uint32_t> y;              // [m][n]
};

// Names of the variants that `run` knows (for us: ISA levels); at least one.
std::vector<std::string> variants();
// W is quantized by its absolute maxima, range symmetric, and is not rotated. Throws
// std::runtime_error when the implementation reports an error.
Result run(const Case& c, const std::string& variant);

}  // namespace conformance
