// What -ffast-math and flush-to-zero leave of one small layer, at every level that this CPU has.
//
// The expected values are those of a normal build, in which this program runs as a test and they
// must be met bit for bit. Under -ffast-math (.ci/check_odd_builds) codes must be the same, while
// scales may be 2 units in the last place off and outputs 1e-6 of the largest in their row. A row
// with NaN or Inf must be named, and setting FTZ and DAZ must change no bit, in either build.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "expected.hpp"
#include "rrs/core/hash.hpp"
#include "rrs/core/presets.hpp"
#include "rrs/pipeline/linear.hpp"
#include "rrs/pipeline/weight.hpp"

#if RRS_X86_64
#include <xmmintrin.h>
#endif

namespace {

#if defined(__FAST_MATH__)
constexpr bool kFast = true;
#else
constexpr bool kFast = false;
#endif
constexpr int kRows = 3, kOutputs = 3, kInputs = 64;

struct Outcome {
  rrs::Status status;
  std::uint64_t codes = 0;    // hash, as the level packs them
  std::vector<float> scales;  // of groups [rows][groups], then of tokens
  std::vector<float> y;       // [rows][outputs]
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool same_bits(const Outcome& a, const Outcome& b) {
  return a.codes == b.codes && same_bits(a.scales, b.scales) && same_bits(a.y, b.y);
}

// Sums of four multiples of 2^-13: bell-shaped, exact, and the same everywhere.
std::vector<float> values(std::uint64_t seed, int count) {
  std::vector<float> out;
  for (int i = 0; i < count; ++i) {
    int total = 0;
    for (int j = 0; j < 4; ++j) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      total += static_cast<int>((seed >> 33) % 8192) - 4096;
    }
    out.push_back(static_cast<float>(total) * 0x1p-13f);
  }
  return out;
}

// An outlier channel, a group of zeros, and a row of magnitudes from 2^-60 on.
std::vector<float> make_input() {
  std::vector<float> x = values(1, kRows * kInputs);
  for (int t = 0; t < kRows; ++t) x[static_cast<std::size_t>(t * kInputs + 7)] *= 40.0f;
  for (std::size_t k = 0; k < kInputs; ++k) {
    if (k < 32) x[kInputs + k] = 0.0f;
    x[2 * kInputs + k] *= 0x1p-47f;
  }
  return x;
}

// The last output's scales are subnormal in f16.
rrs::Result<rrs::PreparedWeight> make_weight(const rrs::Scheme& s) {
  std::vector<float> w = values(2, kOutputs * kInputs);
  for (std::size_t k = 0; k < kInputs; ++k) w[2 * kInputs + k] *= 0x1p-14f;
  return rrs::prepare_weight(rrs::MatrixView<const float>(w.data(), kOutputs, kInputs), s);
}

Outcome run(const std::vector<float>& x, const rrs::WeightView& w, rrs::Isa isa) {
  Outcome o;
  o.y.resize(kRows * kOutputs);
  rrs::Workspace workspace(rrs::workspace_bytes(kRows, w));
  rrs::PreparedActivation a;
  rrs::ActivationOptions options;
  options.isa = isa;
  o.status = rrs::smooth_rotate_quantize(rrs::MatrixView<const float>(x.data(), kRows, kInputs),
                                         w.scheme, workspace, a, {}, options);
  if (!o.status && o.status.code != rrs::StatusCode::kNonFinite) return o;
  const rrs::Status s = rrs::gemm(a, w, rrs::MatrixView<float>(o.y.data(), kRows, kOutputs));
  if (!s) o.status = s;
  o.codes = rrs::hash_bytes(a.codes, static_cast<std::size_t>(kRows * a.k_padded));
  for (int t = 0; t < kRows; ++t) {
    for (std::int64_t g = 0; g < a.activation_groups; ++g) {
      o.scales.push_back(rrs::scale_at(a, t, g));
    }
  }
  o.scales.insert(o.scales.end(), a.token_scales, a.token_scales + kRows);
  return o;
}

// 0 or the reason.
const char* compare(const Outcome& o, const Expected& e) {
  if (!o.status) return "the layer fails";
  if (o.codes != e.codes) return "codes";
  if (o.scales.size() != e.scales.size() || o.y.size() != e.y.size()) return "sizes";
  for (std::size_t i = 0; i < o.scales.size(); ++i) {
    const std::int64_t ulp = std::int64_t{rrs::float_bits(o.scales[i])} - e.scales[i];
    if (std::llabs(ulp) > (kFast ? 2 : 0)) return "scales";
  }
  for (std::size_t t = 0; t < kRows; ++t) {
    double largest = 0.0;
    for (std::size_t n = 0; n < kOutputs; ++n) {
      const double y = rrs::float_from_bits(e.y[t * kOutputs + n]);
      largest = y > largest ? y : -y > largest ? -y : largest;
    }
    for (std::size_t n = t * kOutputs; n < (t + 1) * kOutputs; ++n) {
      if (rrs::float_bits(o.y[n]) == e.y[n]) continue;
      const double off = double{o.y[n]} - double{rrs::float_from_bits(e.y[n])};
      const bool near = off >= -1e-6 * largest && off <= 1e-6 * largest;
      if (!kFast || !rrs::is_finite_bits(rrs::float_bits(o.y[n])) || !near) return "y";
    }
  }
  return nullptr;
}

bool is_nan(float v) { return (rrs::float_bits(v) & 0x7fffffffu) > 0x7f800000u; }

// One value of row 1 is replaced: the row is named and NaN, the others are what they were.
const char* bad_row(std::vector<float> x, const rrs::WeightView& w, rrs::Isa isa,
                    const Outcome& good) {
  for (const std::uint32_t bits : {0x7fc00000u, 0x7f800000u, 0xff800000u}) {
    x[kInputs + 9] = rrs::float_from_bits(bits);
    const Outcome o = run(x, w, isa);
    if (o.status.code != rrs::StatusCode::kNonFinite || o.status.value != 1 ||
        std::strcmp(o.status.argument, "X") != 0) {
      return "NaN or Inf is not found in its row";
    }
    for (std::size_t i = 0; i < o.y.size(); ++i) {
      const bool bad = i / kOutputs == 1;
      if (bad != is_nan(o.y[i])) return "NaN in other rows than that of the input";
      if (!bad && rrs::float_bits(o.y[i]) != rrs::float_bits(good.y[i])) return "other rows change";
    }
  }
  return nullptr;
}

#if RRS_X86_64
// Both are volatile, or the product moves past a change of MXCSR.
bool subnormals_are_flushed() {
  volatile float subnormal = 0x1p-130f;
  volatile float larger = subnormal * 0x1p8f;
  return rrs::float_bits(larger) == 0;
}

// The layer with FTZ and DAZ and without, however the process was started.
const char* flushing(const std::vector<float>& x, const rrs::WeightView& w, rrs::Isa isa) {
  constexpr unsigned kFtzAndDaz = 0x8040;
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before & ~kFtzAndDaz);
  const bool kept = !subnormals_are_flushed();
  const Outcome plain = run(x, w, isa);
  _mm_setcsr(before | kFtzAndDaz);
  const bool flushed = subnormals_are_flushed();
  const Outcome zeroed = run(x, w, isa);
  _mm_setcsr(before);
  if (!kept || !flushed) return "MXCSR has no effect";
  return same_bits(plain, zeroed) ? nullptr : "flushing changes bits";
}
#else
const char* flushing(const std::vector<float>&, const rrs::WeightView&, rrs::Isa) {
  return nullptr;
}
#endif

void print(const Outcome& o) {
  std::printf("codes %016llx\n", static_cast<unsigned long long>(o.codes));
  for (const std::vector<float>* list : {&o.scales, &o.y}) {
    for (const float v : *list) std::printf("0x%08x, ", rrs::float_bits(v));
    std::printf("\n");
  }
}

// Levels that were compared, or -1.
int check_scheme(const rrs::Scheme& s, const Expected& e) {
  const auto w = make_weight(s);
  if (!w) return std::printf("%s: %s\n", e.name, w.status().message().c_str()), -1;
  const std::vector<float> x = make_input();
  int levels = 0;
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    const auto isa = static_cast<rrs::Isa>(i);
    if (!rrs::isa_supported(isa)) continue;
    const Outcome o = run(x, *w, isa);
    const char* reason = compare(o, e);
    if (reason == nullptr) reason = bad_row(x, *w, isa, o);
    if (reason == nullptr) reason = flushing(x, *w, isa);
    if (reason != nullptr) {
      std::printf("%s at %s: %s\n", e.name, rrs::kIsaNames[i], reason);
      return print(o), -1;
    }
    ++levels;
  }
  return levels;
}

}  // namespace

int main() {
  int levels = 0;
  for (const Expected& e : expected()) {
    const auto scheme = rrs::presets::by_name(e.name);
    if (!scheme) return std::puts(scheme.status().message().c_str()), 1;
    levels = check_scheme(*scheme, e);
    if (levels < 1) return 1;
  }
  std::printf("%s: %d levels as in a normal build\n", kFast ? "-ffast-math" : "normal", levels);
  return 0;
}
