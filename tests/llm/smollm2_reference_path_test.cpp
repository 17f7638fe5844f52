// The real model, when it is in the cache: whole-model perplexity through the integer kernels
// against the same engine with every linear simulated: activations quantized by reference/ in
// double, weights dequantized, a float product (fp: weights as they are, products summed in
// double). RRS_LLM_WINDOWS=N measures N windows of 2048 tokens instead of one of 128 (minutes
// each).
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "engine_support.hpp"
#include "rrs/reference/linear.hpp"
#include "smollm2.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

class SimulatedLinear final : public Linear {
 public:
  SimulatedLinear(std::shared_ptr<const Linear> real, const rrs::Scheme& scheme)
      : real_(std::move(real)), scheme_(scheme) {
    const rrs::WeightView& w = *real_->packed();
    const std::vector<double> dense = rrs::reference::dequantize(w);
    product_ = make_float_linear(real_->info().name, std::vector<float>(dense.begin(), dense.end()),
                                 w.n, w.k);
  }
  const char* apply(InputCache& input, const LinearOutput& out,
                    const ThreadPool& pool) const override {
    const std::vector<double> x = rrs::reference::dequantized_activations(
        input.x(), input.rows(), input.cols(), scheme_, real_->channels()->view());
    const std::vector<float> rounded(x.begin(), x.end());
    InputCache cache;
    cache.set(rounded.data(), input.rows(), input.cols());
    return product_->apply(cache, out, pool);
  }
  LinearInfo info() const override { return real_->info(); }

 private:
  std::shared_ptr<const Linear> real_;
  rrs::Scheme scheme_;
  std::unique_ptr<Linear> product_;
};

class DoubleLinear final : public Linear {
 public:
  DoubleLinear(const ModelSource& model, std::size_t layer, std::size_t linear)
      : name_(linear_name(layer, linear)), weight_(model.read(name_)) {}
  const char* apply(InputCache& input, const LinearOutput& out, const ThreadPool&) const override {
    const auto k = static_cast<std::size_t>(input.cols());
    for (std::int64_t t = 0; t < input.rows(); ++t) {
      const float* x = input.x() + t * input.cols();
      for (std::size_t n = 0; n < weight_.size() / k; ++n) {
        const float* w = weight_.data() + n * k;
        double sums[8] = {};
        for (std::size_t i = 0; i + 8 <= k; i += 8) {
          for (std::size_t j = 0; j < 8; ++j) {
            sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(w[i + j]);
          }
        }
        double sum = 0.0;
        for (const double s : sums) sum += s;
        float& y = out.y[t * out.stride + static_cast<std::int64_t>(n)];
        y = static_cast<float>(out.accumulate ? static_cast<double>(y) + sum : sum);
      }
    }
    return "double";
  }
  LinearInfo info() const override {
    return LinearInfo{name_, "fp", "double", false, static_cast<std::int64_t>(weight_.size()), 0};
  }

 private:
  std::string name_;
  std::vector<float> weight_;
};

Contestant simulated(Session* session, const Contestant& real, const Method& method) {
  const std::shared_ptr<const ModelParts> parts = session->parts();
  LinearStack stack;
  for (std::size_t layer = 0; layer < parts->config.layers; ++layer) {
    LayerLinears linears;
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      if (method.kind == LinearKind::kFloat) {
        linears[l] = std::make_shared<DoubleLinear>(session->model(), layer, l);
      } else {
        linears[l] = std::make_shared<SimulatedLinear>(real.engine->linears()[layer][l],
                                                       method.plan(layer, l).scheme);
      }
    }
    stack.push_back(std::move(linears));
  }
  Contestant c;
  c.method = real.method + ", simulated";
  c.kv_bits = 16;
  c.engine = std::make_unique<Engine>(parts, std::move(stack), store_factory(method.kv(16)),
                                      session->pool());
  return c;
}

struct Limit {
  const char* method;
  double windows_20;  // relative difference of the perplexities over 20 windows of 2048
  double short_text;  // over one of 128
};

void PrintTo(const Limit& limit, std::ostream* out) { *out << limit.method; }

class SmolLm2ReferencePath : public testing::TestWithParam<Limit> {};

TEST_P(SmolLm2ReferencePath, WholeModelPerplexityAgrees) {
  const std::string text = std::string(RRS_SOURCE_DIR) + "/examples/data/wiki.test.raw";
  if (!std::filesystem::exists(model_path()) || !std::filesystem::exists(text)) {
    GTEST_SKIP() << "no " << model_path() << " (examples/llm/fetch_smollm2.sh brings it) or no "
                 << text;
  }
  const std::string asked = environment("RRS_LLM_WINDOWS");
  const std::size_t windows = asked.empty() ? 1 : std::stoul(asked);
  const std::size_t context = asked.empty() ? 128 : 2048;
  SessionOptions options;
  options.model = model_path();
  Session session(options);
  const std::vector<TokenId> tokens = session.tokens_of_file(text);
  const Limit& param = GetParam();
  const double limit = windows >= 20 ? param.windows_20 : param.short_text;
  std::vector<Setting> quick;  // any codes will do
  if (std::string(param.method) != "fp") quick.push_back(Setting{"", "weight-scale", "absmax"});
  const Method method = make_method(param.method, quick);
  std::vector<Contestant> both;
  both.push_back(session.prepare(method, 16));
  both.push_back(simulated(&session, both[0], method));
  const auto records = measure_perplexity(both, tokens, windows, context, session.pool(), nullptr);
  const double ratio = records[0].perplexity / records[1].perplexity;
  std::printf("%-10s %zu windows of %zu: %.4f, reference path %.4f, %+.3f %%\n", param.method,
              windows, context, records[0].perplexity, records[1].perplexity,
              100.0 * (ratio - 1.0));
  EXPECT_LT(std::abs(ratio - 1.0), limit);
  EXPECT_TRUE(std::isfinite(ratio));
}

// Four-bit rounding is chaotic: last-bit differences decorrelate it. 2 % over 20 windows; over
// 127 tokens the spread alone is about 5 %.
INSTANTIATE_TEST_SUITE_P(Methods, SmolLm2ReferencePath,
                         testing::Values(Limit{"fp", 0.001, 0.001},
                                         Limit{"rrs_w4a16", 0.001, 0.001},
                                         Limit{"rrs", 0.02, 0.15}),
                         [](const testing::TestParamInfo<Limit>& limit) {
                           return std::string(limit.param.method);
                         });

}  // namespace
