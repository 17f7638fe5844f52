// Runs an implementation over vectors.json and compares every bit.
//
//   usage: conformance_check vectors.json
//
// Prints what differs first in each field of each case, then how much was compared; the exit code
// is 0 when everything is equal and the file holds as many cases as its version promises.
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "implementation.hpp"

namespace {

using conformance::Case;
using conformance::KvCase;
using conformance::KvResult;
using conformance::KvTensor;
using conformance::Result;
using Json = nlohmann::json;

constexpr int kVersion = 2;
constexpr std::size_t kCases = 33;
constexpr std::size_t kKvCases = 5;

template <class T>
std::vector<T> hex(const Json& list) {
  std::vector<T> out;
  for (const Json& text : list) {
    out.push_back(static_cast<T>(std::stoul(text.get<std::string>(), nullptr, 16)));
  }
  return out;
}

std::vector<float> floats(const Json& list) {
  std::vector<float> out;
  if (list.is_null()) return out;
  for (const auto bits : hex<std::uint32_t>(list)) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    out.push_back(value);
  }
  return out;
}

std::vector<std::uint8_t> bytes(const std::string& text) {
  std::vector<std::uint8_t> out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    out.push_back(static_cast<std::uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  }
  return out;
}

// The index of the string among `names`.
template <class Enum>
Enum one_of(const Json& j, const std::vector<const char*>& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (j.get<std::string>() == names[i]) return static_cast<Enum>(i);
  }
  throw std::runtime_error("unknown: " + j.get<std::string>());
}

Case read_case(const Json& j) {
  const Json& s = j.at("scheme");
  Case c;
  c.name = j.at("name");
  c.m = j.at("m");
  c.n = j.at("n");
  c.k = j.at("k");
  c.x = floats(j.at("x"));
  c.w = floats(j.at("w"));
  c.bias = floats(j.at("bias"));
  c.l_a = floats(j.at("l_a"));
  c.l_b = floats(j.at("l_b"));
  c.rank_bits = s.value("rank_bits", 16);
  if (!j.at("weight_zero_points").is_null()) {
    c.zero_points = j.at("weight_zero_points").get<std::vector<std::uint8_t>>();
    c.unsigned_codes = j.at("expected").at("weight_codes").get<std::vector<std::uint8_t>>();
    c.given_scales = hex<std::uint16_t>(j.at("expected").at("weight_scales"));
  }
  c.scheme.rotation = one_of<conformance::Rotation>(s.at("rotation"), {"none", "block", "full"});
  c.scheme.block = s.at("block");
  if (!s.at("sign_seed").is_null()) c.scheme.sign_seed = s.at("sign_seed").get<std::uint64_t>();
  c.scheme.activation_bits = s.at("activation_bits");
  c.scheme.window = one_of<conformance::Window>(s.at("window"), {"one", "rows", "whole", "frozen"});
  c.scheme.window_rows = s.at("window_rows");
  c.scheme.frozen = floats(s.at("frozen"));
  c.scheme.activation_group = s.at("activation_group");
  c.scheme.full_range = s.at("range") == "full";
  c.scheme.clip = s.at("clip");
  c.scheme.weight_bits = s.at("weight_bits");
  c.scheme.weight_group = s.at("weight_group");
  return c;
}

Result read_expected(const Json& j) {
  Result r;
  r.weight_codes = j.at("weight_codes").get<std::vector<std::int32_t>>();
  r.weight_scales = hex<std::uint16_t>(j.at("weight_scales"));
  r.panels = bytes(j.at("panels"));
  r.codes = j.at("codes").get<std::vector<std::int32_t>>();
  r.scales = hex<std::uint32_t>(j.at("scales"));
  r.token_scales = hex<std::uint32_t>(j.at("token_scales"));
  r.y = hex<std::uint32_t>(j.at("y"));
  return r;
}

KvCase read_kv_case(const Json& j) {
  const Json& s = j.at("scheme");
  KvCase c;
  c.name = j.at("name");
  c.tokens = j.at("tokens");
  c.head = j.at("head");
  c.bits = s.at("bits");
  c.group = s.at("group");
  c.range = one_of<conformance::KvRange>(s.at("range"), {"asymmetric", "symmetric", "full"});
  c.clip = s.at("clip");
  c.rotated = s.at("rotated");
  c.k = floats(j.at("k"));
  c.v = floats(j.at("v"));
  c.q = floats(j.at("q"));
  c.p = floats(j.at("p"));
  return c;
}

KvTensor read_kv_tensor(const Json& j) {
  return {j.at("codes").get<std::vector<std::int32_t>>(), hex<std::uint16_t>(j.at("scales")),
          j.at("zeros").get<std::vector<std::int32_t>>()};
}

KvResult read_kv_expected(const Json& j) {
  return {j.at("query").get<std::vector<std::int32_t>>(),
          hex<std::uint32_t>(j.at("query_scale")),
          read_kv_tensor(j.at("k")),
          read_kv_tensor(j.at("v")),
          hex<std::uint32_t>(j.at("scores")),
          hex<std::uint32_t>(j.at("out"))};
}

struct Tally {
  std::size_t values = 0;
  std::size_t failures = 0;
};

template <class T>
void compare(const std::string& where, const std::vector<T>& got, const std::vector<T>& expected,
             Tally* tally) {
  tally->values += expected.size();
  if (got == expected) return;
  ++tally->failures;
  if (got.size() != expected.size()) {
    std::printf("%s: %zu values, expected %zu\n", where.c_str(), got.size(), expected.size());
    return;
  }
  std::size_t i = 0;
  while (got[i] == expected[i]) ++i;
  std::printf("%s: value %zu is %llx, expected %llx\n", where.c_str(), i,
              static_cast<unsigned long long>(got[i]),
              static_cast<unsigned long long>(expected[i]));
}

void compare_results(const std::string& where, const Result& got, const Result& expected,
                     Tally* tally) {
  compare(where + " weight codes", got.weight_codes, expected.weight_codes, tally);
  compare(where + " weight scales", got.weight_scales, expected.weight_scales, tally);
  compare(where + " panels", got.panels, expected.panels, tally);
  compare(where + " codes", got.codes, expected.codes, tally);
  compare(where + " scales", got.scales, expected.scales, tally);
  compare(where + " token scales", got.token_scales, expected.token_scales, tally);
  compare(where + " y", got.y, expected.y, tally);
}

void compare_tensors(const std::string& where, const KvTensor& got, const KvTensor& expected,
                     Tally* tally) {
  compare(where + " codes", got.codes, expected.codes, tally);
  compare(where + " scales", got.scales, expected.scales, tally);
  compare(where + " zeros", got.zeros, expected.zeros, tally);
}

void compare_kv_results(const std::string& where, const KvResult& got, const KvResult& expected,
                        Tally* tally) {
  compare(where + " query", got.query, expected.query, tally);
  compare(where + " query scale", got.query_scale, expected.query_scale, tally);
  compare_tensors(where + " k", got.k, expected.k, tally);
  compare_tensors(where + " v", got.v, expected.v, tally);
  compare(where + " scores", got.scores, expected.scores, tally);
  compare(where + " out", got.out, expected.out, tally);
}

int run_file(const char* path) {
  const Json file = Json::parse(std::ifstream(path));
  if (file.at("version") != kVersion || file.at("cases").size() < kCases ||
      file.at("kv_cases").size() < kKvCases) {
    std::printf("%s: version %d with at least %zu cases and %zu of the KV cache expected\n", path,
                kVersion, kCases, kKvCases);
    return 1;
  }
  Tally tally;
  std::string names;
  for (const std::string& variant : conformance::variants()) {
    for (const Json& j : file.at("cases")) {
      const Case c = read_case(j);
      compare_results(c.name + " (" + variant + ")", conformance::run(c, variant),
                      read_expected(j.at("expected")), &tally);
    }
    for (const Json& j : file.at("kv_cases")) {
      const KvCase c = read_kv_case(j);
      compare_kv_results(c.name + " (" + variant + ")", conformance::run_kv(c, variant),
                         read_kv_expected(j.at("expected")), &tally);
    }
    names += " " + variant;
  }
  std::printf("conformance: %zu cases,%s: %zu values compared, %zu differences\n",
              file.at("cases").size() + file.at("kv_cases").size(), names.c_str(), tally.values,
              tally.failures);
  return tally.failures == 0 && tally.values > 10000 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: conformance_check vectors.json\n");
    return 2;
  }
  try {
    return run_file(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "conformance_check: %s\n", error.what());
    return 1;
  }
}
