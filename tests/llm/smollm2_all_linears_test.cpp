// The real model, when it is in the cache: all 210 linears, every integer preset (SmoothQuant and
// the file's own weights included), each from the input that the float model produces.
//
// Codes: the prepared activation is multiplied by an identity weight, so Y[t,k] = a[t] s[g] q[t,k]
// shows every code; each must be the one that reference/ computes in double from the same rotated
// rows, unless the value lies on the tie between two codes to f32 rounding (counted, and few).
// "Shows": what is compared is a s q, to 4e-7 of itself; codes 1 apart differ by 1/128 or more, so
// that is the code, and the scale as well.
// Y: sampled outputs of every linear within the bound that gemm/gemm.hpp states, with G inner
// groups, y in double from those x^ and the stored weight w = v u + offset:
//   integer: |Y - y| <= (T + 3 + 2) 2^-24 sum |x^| (|v u| + |offset|)   T = G, with offsets 2 G
//   float:   |Y - y| <= (T + 3) 2^-24 sum |x^| (|v u| + |offset|)       T = G + inputs of a group
// The 2: x^ = a (s q) itself was rounded twice, where it was read through the identity.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "engine_support.hpp"
#include "rrs/pipeline/weight.hpp"
#include "rrs/reference/linear.hpp"
#include "smollm2.hpp"
#include "support/sanitizer.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

// A sanitizer is some 10 times slower.
constexpr std::size_t kLayerStep = rrs_test::kSanitized ? 15 : 1;
constexpr std::int64_t kTokens = 16;
constexpr std::int64_t kOutputStep = 97;  // every 97th output of each linear is compared

struct Counts {
  std::size_t inputs = 0, linears = 0, codes = 0, ties = 0, wrong_codes = 0, outputs = 0;
  std::size_t beyond_bound = 0;
  double closest = 0.0;  // largest error over bound
};

class AllLinears : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(model_path())) {
      GTEST_SKIP() << "no " << model_path() << " (examples/llm/fetch_smollm2.sh brings it)";
    }
    SessionOptions options;
    options.model = model_path();
    session = std::make_unique<Session>(options);
    std::vector<TokenId> tokens = session->model().tokenizer().encode(
        "The Hadamard matrix spreads an outlier over all the other channels of its block, so that "
        "no channel needs a scale of its own.");
    ASSERT_GE(tokens.size(), static_cast<std::size_t>(kTokens));
    tokens.resize(static_cast<std::size_t>(kTokens));
    Contestant fp = session->prepare(make_method("fp", {}), 16);
    CalibrationOptions few;
    few.windows = 1;
    few.context = tokens.size() - 1;
    calibration = calibrate(fp.engine.get(), tokens, few);
    fp.engine->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                           std::int64_t cols) {
      inputs[{layer, input_of(linear)}] = std::vector<float>(x, x + rows * cols);
    });
    Sequence sequence = fp.engine->start();
    fp.engine->forward(tokens, &sequence);
  }

  // Divided and rotated rows as the library makes them, in f32.
  static std::vector<float> rotated(std::vector<float> x, const std::vector<float>& divisor,
                                    const rrs::Scheme& scheme) {
    const std::int64_t k = static_cast<std::int64_t>(x.size()) / kTokens;
    for (std::size_t i = 0; !divisor.empty() && i < x.size(); ++i) {
      x[i] /= divisor[i % static_cast<std::size_t>(k)];
    }
    std::vector<float> out(x.size());
    const rrs::Status status =
        rrs::transform_weight(rrs::MatrixView<const float>(x.data(), kTokens, k), scheme,
                              rrs::MatrixView<float>(out.data(), kTokens, k));
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  }

  std::shared_ptr<const rrs::PreparedWeight> identity(std::int64_t k, const rrs::Scheme& scheme,
                                                      std::uint64_t fingerprint) {
    const int group =
        scheme.weight.group == rrs::kRowGroup ? static_cast<int>(k) : scheme.weight.group;
    auto& kept = identities[{k, scheme.weight.bits, scheme.weight.group}];
    if (kept == nullptr || fingerprint != 0 || !same_basis(kept->view().scheme, scheme)) {
      std::vector<std::int8_t> codes(static_cast<std::size_t>(k * k));
      for (std::int64_t i = 0; i < k; ++i) codes[static_cast<std::size_t>(i * k + i)] = 1;
      const std::int64_t groups = (k + group - 1) / group;
      const std::vector<float> ones(static_cast<std::size_t>(k * groups), 1.0f);
      auto made = rrs::weight_from_quantized(rrs::MatrixView<const std::int8_t>(codes.data(), k, k),
                                             rrs::MatrixView<const float>(ones.data(), k, groups),
                                             scheme, fingerprint);
      EXPECT_TRUE(made.status().ok()) << made.status().message();
      kept = std::make_shared<const rrs::PreparedWeight>(std::move(*made));
    }
    return kept;
  }

  static bool same_basis(const rrs::Scheme& a, const rrs::Scheme& b) {
    return a.rotation.kind == b.rotation.kind && a.rotation.block == b.rotation.block;
  }

  // x^ [tokens][k], compared with the reference's.
  std::vector<float> check_codes(const std::vector<float>& x, const InputChannels& channels,
                                 const rrs::Scheme& scheme, std::uint64_t fingerprint,
                                 Counts* counts) {
    const std::int64_t k = static_cast<std::int64_t>(x.size()) / kTokens;
    const std::vector<float> basis = rotated(x, channels.divisor, scheme);
    if (scheme.activation.bits == rrs::kActivationFloat) return basis;
    const auto weight = identity(k, scheme, fingerprint);
    const auto linear = make_rrs_linear("identity", weight->view(), scheme, channels, weight);
    const std::vector<float> got = applied(*linear, x, session->pool());
    rrs::Scheme plain = scheme;
    plain.rotation.kind = rrs::RotationKind::kNone;
    plain.rotation.random_signs = false;
    const std::vector<double> expected =
        rrs::reference::dequantized_activations(basis.data(), kTokens, k, plain);
    for (std::size_t i = 0; i < got.size(); ++i) {
      ++counts->codes;
      const double g = static_cast<double>(got[i]), value = static_cast<double>(basis[i]);
      if (std::abs(g - expected[i]) <= 4e-7 * std::abs(expected[i])) continue;
      const double middle = (g + expected[i]) / 2.0;
      const bool tie = std::abs(value - middle) <= 2e-6 * std::abs(middle);
      ++(tie ? counts->ties : counts->wrong_codes);
    }
    ++counts->inputs;
    return got;
  }

  // What stands before 2^-24 in the bound.
  static double rounded_terms(const rrs::WeightView& w, const rrs::ActivationScheme& a) {
    const bool in_float = a.bits == rrs::kActivationFloat;
    const int group =
        in_float ? w.scheme.weight.group : rrs::inner_group(a.group, w.scheme.weight.group);
    const auto groups = static_cast<double>(rrs::group_count(w.k, group));
    const auto inputs = static_cast<double>(group == rrs::kRowGroup ? w.k : group);
    if (in_float) return groups + inputs + 3.0;
    return (w.offsets == nullptr ? 1.0 : 2.0) * groups + 3.0 + 2.0;
  }

  static void check_outputs(const std::vector<float>& y, const std::vector<float>& x,
                            const rrs::WeightView& w, double terms, Counts* counts) {
    const std::int64_t group =
        w.scheme.weight.group == rrs::kRowGroup ? w.k : w.scheme.weight.group;
    const int bias = w.scheme.weight.bits == 8 ? 128 : 8;
    for (std::int64_t n = 0; n < w.n; n += kOutputStep) {
      std::vector<double> row, magnitude;
      for (std::int64_t k = 0; k < w.k; ++k) {
        const double v = static_cast<double>(rrs::to_f32(rrs::reference::scale(w, n, k / group)));
        const int u = rrs::reference::stored_code(w, n, k);
        const double code = v * (w.offsets == nullptr ? u - bias : u);
        const double offset = w.offsets == nullptr
                                  ? 0.0
                                  : static_cast<double>(rrs::reference::offset(w, n, k / group));
        row.push_back(code + offset);
        magnitude.push_back(std::abs(code) + std::abs(offset));
      }
      for (std::int64_t t = 0; t < kTokens; ++t) {
        double sum = 0.0, size = 0.0;
        for (std::int64_t k = 0; k < w.k; ++k) {
          const double value = static_cast<double>(x[static_cast<std::size_t>(t * w.k + k)]);
          sum += value * row[static_cast<std::size_t>(k)];
          size += std::abs(value) * magnitude[static_cast<std::size_t>(k)];
        }
        const double error =
            std::abs(static_cast<double>(y[static_cast<std::size_t>(t * w.n + n)]) - sum);
        const double bound = terms * 0x1p-24 * size;  // 0 where all codes of the row are 0
        ++counts->outputs;
        if (!(error <= bound)) ++counts->beyond_bound;
        if (bound > 0.0 && !(error / bound <= counts->closest)) counts->closest = error / bound;
      }
    }
  }

  Counts check_method(const Method& method) {
    Counts counts;
    PrepareOptions options;
    options.calibration = &calibration;
    LinearMaker maker(session->model(), method, options, session->pool());
    for (std::size_t layer = 0; layer < session->model().config().layers; layer += kLayerStep) {
      for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
        const std::vector<float>& x = inputs.at({layer, input_of(l)});
        const InputChannels channels = maker.channels(layer, l);
        const auto linear = maker.make(layer, l);
        const rrs::WeightView& w = *linear->packed();
        rrs::Scheme scheme = method.plan(layer, l).scheme;
        if (method.kind == LinearKind::kNative) scheme = w.scheme;
        if (l != kK && l != kV && l != kUp) {
          x_hat = check_codes(x, channels, scheme, w.channels_fingerprint, &counts);
        }
        check_outputs(applied(*linear, x, session->pool()), x_hat, w,
                      rounded_terms(w, scheme.activation), &counts);
        ++counts.linears;
      }
    }
    return counts;
  }

  std::unique_ptr<Session> session;
  Calibration calibration;
  std::map<std::pair<std::size_t, std::size_t>, std::vector<float>> inputs;
  std::map<std::array<std::int64_t, 3>, std::shared_ptr<const rrs::PreparedWeight>> identities;
  std::vector<float> x_hat;
};

TEST_F(AllLinears, CodesAreTheReferencesAndOutputsWithinTheirBound) {
  const std::size_t layers = (30 + kLayerStep - 1) / kLayerStep;
  int methods = 0;
  for (const std::string& name : method_names()) {
    if (make_method(name, {}).kind == LinearKind::kFloat) continue;
    // Any codes will do, and absmax is 10 times faster than the search.
    Method method = make_method(name, {});
    if (method.kind == LinearKind::kRrs)
      method = make_method(name, {{"", "weight-scale", "absmax"}});
    if (method.kind == LinearKind::kSimulatedRs) continue;
    const Counts c = check_method(method);
    std::printf(
        "%-16s %zu linears: %zu codes of %zu inputs, %zu on a tie; %zu outputs, closest %.2f "
        "of the bound\n",
        name.c_str(), c.linears, c.codes, c.inputs, c.ties, c.outputs, c.closest);
    EXPECT_EQ(c.linears, 7 * layers) << name;
    EXPECT_EQ(c.wrong_codes, 0u) << name;
    EXPECT_LE(c.ties, 5u) << name;  // found; README.md of the engine says so
    EXPECT_EQ(c.beyond_bound, 0u) << name;
    ++methods;
  }
  EXPECT_EQ(methods, 15);
}

}  // namespace
