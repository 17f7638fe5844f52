// What check.cpp asks of an implementation: one layer, from the given weight and input, as bits;
// and one head of a KV cache.
//
// Another implementation (a port, another CPU, a GPU) is checked by linking check.cpp with its own
// `run` and `run_kv` instead of implementation_rrs.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace conformance {

enum class Rotation { kNone, kBlock, kFull };
enum class Window { kOne, kRows, kWhole, kFrozen };

struct Scheme {
  Rotation rotation = Rotation::kBlock;
  int block = 32;
  std::optional<std::uint64_t> sign_seed;
  int activation_bits = 4;  // 16: floats
  Window window = Window::kOne;
  std::int64_t window_rows = 0;  // for kRows
  std::vector<float> frozen;     // for kFrozen: a scale per group
  int activation_group = 32;     // 0: the row
  bool full_range = true;        // else symmetric
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
  // Where there are zero points, W = v (u - z), and codes and scales are given, not found:
  std::vector<std::uint8_t> zero_points;     // [n][groups], or empty
  std::vector<std::uint8_t> unsigned_codes;  // [n][k]
  std::vector<std::uint16_t> given_scales;   // [n][groups], bits of f16
  std::vector<float> l_a, l_b;               // low-rank branch: [n][r] and [r][k], or empty
  int rank_bits = 16;                        // of its elements: 16 (f16), or 8 (codes)
};

struct Result {
  std::vector<std::int32_t> weight_codes;    // [n][k], signed; those given where they are
  std::vector<std::uint16_t> weight_scales;  // [n][groups], bits of f16
  std::vector<std::uint8_t> panels;          // the packed format
  std::vector<std::int32_t> codes;           // [m][k]; empty for floats
  std::vector<std::uint32_t> scales;         // [m][groups], bits of f32; empty for floats
  std::vector<std::uint32_t> token_scales;   // [m]
  std::vector<std::uint32_t> y;              // [m][n]
};

enum class KvRange { kAsymmetric, kSymmetric, kFull };

struct KvCase {
  std::string name;
  std::int64_t tokens = 0, head = 0;
  int bits = 4;    // of keys and values
  int group = 32;  // of both; 0: the head
  KvRange range = KvRange::kAsymmetric;
  float clip = 1.0f;
  bool rotated = true;      // both, and the query
  std::vector<float> k, v;  // [tokens][head]
  std::vector<float> q;     // [head]
  std::vector<float> p;     // [tokens]
};

struct KvTensor {
  std::vector<std::int32_t> codes;    // [tokens][head], unsigned
  std::vector<std::uint16_t> scales;  // [tokens][groups], bits of f16
  std::vector<std::int32_t> zeros;    // [tokens][groups]; 8 or 128 where they are not stored
};

struct KvResult {
  std::vector<std::int32_t> query;         // [head], codes
  std::vector<std::uint32_t> query_scale;  // one
  KvTensor k, v;
  std::vector<std::uint32_t> scores;  // [tokens]: q . k
  std::vector<std::uint32_t> out;     // [head]: sum of p v from 0, V's rotation undone
};

// Names of the variants that `run` knows (for us: ISA levels); at least one.
std::vector<std::string> variants();
// W is quantized by its absolute maxima, range symmetric, and is not rotated. Throws
// std::runtime_error when the implementation reports an error.
Result run(const Case& c, const std::string& variant);
// One kv head, appended to an empty cache. Throws as `run` does.
KvResult run_kv(const KvCase& c, const std::string& variant);

}  // namespace conformance
