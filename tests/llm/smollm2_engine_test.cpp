// The real model, when it is in the cache. Teacher-forced: every linear of some layers gets the
// inputs that the float model really produces, and its output is compared with the double reference
// of the same scheme; then logits of a short text, a quantized file, the counts in a record, and
// the spike of layer 11. RRS_LLM_LAYERS=all checks all 30 layers instead of three.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "../../examples/llm/quantized_file.hpp"
#include "../../examples/llm/spikes.hpp"
#include "engine_support.hpp"
#include "rrs/pipeline/weight.hpp"
#include "rrs/reference/linear.hpp"
#include "smollm2.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

constexpr std::int64_t kTokens = 6;

// Inputs of every linear (by input) over the first tokens of a sentence with a spike at token 0.
using Inputs = std::map<std::pair<std::size_t, std::size_t>, std::vector<float>>;

class SmolLm2Engine : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(model_path())) {
      GTEST_SKIP() << "no " << model_path() << " (examples/llm/fetch_smollm2.sh brings it)";
    }
    SessionOptions options;
    options.model = model_path();
    session = std::make_unique<Session>(options);
    tokens = session->model().tokenizer().encode(
        "The Hadamard matrix spreads an outlier over all the other channels of its block.");
  }

  Inputs record_inputs(Engine* engine) {
    Inputs inputs;
    engine->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                        std::int64_t cols) {
      EXPECT_GE(rows, kTokens);
      inputs[{layer, input_of(linear)}] = std::vector<float>(x, x + kTokens * cols);
    });
    Sequence sequence = engine->start();
    engine->forward(tokens, &sequence);
    engine->observe(nullptr);
    return inputs;
  }

  std::vector<std::size_t> layers() const {
    if (environment("RRS_LLM_LAYERS") != "all") return {0, 11, 29};
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < session->model().config().layers; ++i) all.push_back(i);
    return all;
  }

  std::unique_ptr<Session> session;
  std::vector<TokenId> tokens;
};

struct Agreement {
  int rows = 0;
  int exact = 0;  // within f32 rounding: every code is the reference's
  double worst = 0.0;
};

void compare(const std::vector<float>& y, const std::vector<double>& expected, std::int64_t n,
             Agreement* a) {
  for (std::size_t first = 0; first < y.size(); first += static_cast<std::size_t>(n)) {
    double difference = 0.0, norm = 0.0;
    for (std::size_t i = first; i < first + static_cast<std::size_t>(n); ++i) {
      const double d = static_cast<double>(y[i]) - expected[i];
      difference += d * d;
      norm += expected[i] * expected[i];
    }
    const double error = std::sqrt(difference / norm);
    ++a->rows;
    a->exact += error < 4e-6 ? 1 : 0;
    if (!(error <= a->worst)) a->worst = error;  // NaN sticks
  }
}

TEST_F(SmolLm2Engine, EveryLinearAgreesWithTheReferenceFromItsOwnInput) {
  Contestant fp = session->prepare(make_method("fp", {}), 16);
  const Inputs inputs = record_inputs(fp.engine.get());
  ASSERT_EQ(inputs.size(), 30u * kInputsPerLayer);
  std::size_t linears = 0;
  for (const std::string& name : method_names()) {
    const Method plain = make_method(name, {});
    if (plain.kind != LinearKind::kRrs || plain.needs_calibration()) continue;
    const Method method = make_method(name, {{"", "weight-scale", "absmax"}});  // any codes will do
    Agreement agreement;
    const PrepareOptions options;
    LinearMaker maker(session->model(), method, options, session->pool());
    for (const std::size_t layer : layers()) {
      for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
        const auto linear = maker.make(layer, l);
        const rrs::WeightView& w = *linear->packed();
        const std::vector<float>& x = inputs.at({layer, input_of(l)});
        const std::vector<float> y = applied(*linear, x, session->pool());
        rrs::Scheme scheme = method.plan(layer, l).scheme;
        std::vector<float> basis = x;
        if (scheme.activation.bits == rrs::kActivationFloat) {
          // The reference takes float activations as they are: give it the rotated ones.
          const rrs::Status status =
              rrs::transform_weight(rrs::MatrixView<const float>(x.data(), kTokens, w.k), scheme,
                                    rrs::MatrixView<float>(basis.data(), kTokens, w.k));
          ASSERT_TRUE(status.ok());
          scheme.rotation.kind = rrs::RotationKind::kNone;
        }
        compare(y, rrs::reference::linear(basis.data(), kTokens, w, scheme), w.n, &agreement);
        ++linears;
      }
    }
    EXPECT_EQ(agreement.rows, static_cast<int>(kTokens * 7) * static_cast<int>(layers().size()));
    // The others have a code or two within rounding of a tie: one step of one input.
    EXPECT_GE(agreement.exact, agreement.rows * 98 / 100) << name;
    EXPECT_LT(agreement.worst, 0.05) << name;
    std::printf("%-14s %d of %d rows to f32 rounding, worst %.2g\n", name.c_str(), agreement.exact,
                agreement.rows, agreement.worst);
  }
  EXPECT_EQ(linears, 12u * 7u * layers().size());
}

// Method by method, so that one engine is in memory beside fp's.
TEST_F(SmolLm2Engine, RecordsOfEveryMethodProve210Linears) {
  session->set_calibration_tokens(tokens);
  std::vector<Contestant> contestants;
  contestants.push_back(session->prepare(make_method("fp", {}), 16));
  std::map<std::string, double> kld;
  for (const std::string& name : method_names()) {
    const bool plain = name == "fp" || name == "q4_0-native";
    const std::vector<Setting> quick{{"", "weight-scale", "absmax"}};
    const Method method = make_method(name, plain ? std::vector<Setting>{} : quick);
    contestants.push_back(session->prepare(method));
    const MethodRecord r =
        measure_perplexity(contestants, tokens, 1, tokens.size(), session->pool(), nullptr).back();
    contestants.pop_back();
    std::size_t linears = 0, simulated = 0;
    for (const LinearCount& c : r.linears) {
      linears += c.count;
      simulated += c.simulated ? c.count : 0;
      EXPECT_FALSE(c.kernel.empty());
    }
    EXPECT_EQ(linears, 210u) << name;
    EXPECT_EQ(simulated, name == "rs" ? 120u : 0u) << name;  // its q, k and v are not
    EXPECT_EQ(r.linears.size(), name == "rs" ? 2u : 1u) << name;
    EXPECT_TRUE(std::isfinite(r.perplexity)) << name;
    kld[name] = r.kld_mean;
  }
  EXPECT_EQ(kld.size(), rrs::presets::kCount + 2u);
  // The file's own weights: only the activations are rounded.
  EXPECT_LT(kld["q4_0-native"], 0.05);
  EXPECT_GT(kld["rrs"], kld["q4_0-native"]);
}

// QFeM's and QFeP's claims about this model, on two windows of the calibration text.
TEST_F(SmolLm2Engine, ThePrefixTakesTheSpikeOfLayer11) {
  const auto windows = calibration_windows(
      session->tokens_of_file(RRS_SOURCE_DIR "/examples/data/wiki.valid.txt"), 2, 256);
  const Contestant plain = session->prepare(make_method("fp", {}));
  const SpikeMeasurement spikes = measure_spikes(plain.engine.get(), windows);
  const std::size_t worst = spikes.highest();
  EXPECT_EQ(spike_module_name(worst), "blk.11.ffn_down");
  EXPECT_GT(spikes.scores()[worst], 1000.0);
  for (const std::vector<float>& scales : spikes.scales[worst]) {
    EXPECT_EQ(std::max_element(scales.begin(), scales.end()), scales.begin());
  }
  plain.engine->set_prefix(session->prefix(make_method("rrs+qfep@qfep-tokens=1:5758:3717", {})));
  const double left = measure_spikes(plain.engine.get(), windows).scores()[worst];
  std::printf("blk.11.ffn_down: %.1f, behind the prefix %.2f\n", spikes.scores()[worst], left);
  EXPECT_GT(left, 1.0);
  EXPECT_LT(left, 100.0);
}

TEST_F(SmolLm2Engine, PromptAtOnceEqualsTokenByToken) {
  Contestant c = session->prepare(make_method("rrs", {{"", "weight-scale", "absmax"}}), 4);
  Sequence whole = c.engine->start(), single = c.engine->start();
  const std::size_t hidden = c.engine->config().hidden;
  const float* rows = c.engine->forward(tokens, &whole);
  const std::vector<float> expected(rows, rows + tokens.size() * hidden);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const float* row = c.engine->forward({tokens[t]}, &single);
    for (std::size_t i = 0; i < hidden; ++i) ASSERT_EQ(row[i], expected[t * hidden + i]) << t;
  }
}

TEST_F(SmolLm2Engine, FloatPerplexityOfAShortTextIsStable) {
  const std::string path = std::string(RRS_SOURCE_DIR) + "/examples/data/wiki.test.raw";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path;
  std::vector<TokenId> stream = session->tokens_of_file(path);
  ASSERT_EQ(stream.size(), 303415u);
  std::vector<Contestant> contestants;
  contestants.push_back(session->prepare(make_method("fp", {}), 16));
  const auto records = measure_perplexity(contestants, stream, 1, 256, session->pool(), nullptr);
  std::printf("one window of 256 tokens: %.4f\n", records[0].perplexity);
  // Recorded from this engine when its three windows of 2048 gave 22.8992 (llama.cpp: 22.8988).
  EXPECT_NEAR(records[0].perplexity, 34.155, 0.02);
}

TEST_F(SmolLm2Engine, NativeWeightsAreTheFilesOwn) {
  const ModelSource& model = session->model();
  const Method native = make_method("q4_0-native", {});
  const PrepareOptions options;
  LinearMaker maker(model, native, options, session->pool());
  std::size_t values = 0;
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    const auto linear = maker.make(17, l);
    const std::vector<double> packed = rrs::reference::dequantize(*linear->packed());
    const std::vector<float> file = model.read(linear_name(17, l));
    ASSERT_EQ(packed.size(), file.size());
    for (std::size_t i = 0; i < file.size(); ++i) {
      // The file's reader rounds q * d + m to f32; scale, code and minimum are the same bits.
      ASSERT_NEAR(packed[i], static_cast<double>(file[i]), 1.2e-7 * std::abs(packed[i]) + 1e-8);
    }
    values += file.size();
  }
  EXPECT_EQ(values, 3538944u);
}

}  // namespace
