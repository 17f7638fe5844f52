// SmoothQuant in the engine: alpha fixed or searched, divisors folded into the norms, files.
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../examples/llm/quantized_file.hpp"
#include "engine_support.hpp"
#include "rrs/calibrate/smoothquant_search.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

using Logits = std::vector<std::vector<float>>;

struct Tiny : TinyMethods {
  Tiny() { calibration = calibrated(16); }
  Calibration calibrated(std::size_t rows, int threads = 1, const std::string& file = "",
                         bool resume = false) const {
    TinyEngine fp(path, "fp", 16, threads);
    CalibrationOptions options;
    options.windows = 2;
    options.context = 20;
    options.hessians = true;
    options.sample_rows = rows;
    options.file = file;
    options.resume = resume;
    return calibrate(fp.engine.get(), random_tokens(model, 41, 99), options);
  }
  using TinyMethods::logits;
  Logits logits(LinearStack linears) const {
    TinyEngine tiny(path, "fp");
    tiny.engine = std::make_unique<Engine>(std::make_shared<const ModelParts>(*tiny.source),
                                           std::move(linears),
                                           store_factory(make_method("fp", {}).kv(16)), *tiny.pool);
    return tiny.logits(tokens);
  }
  std::string error_of(const std::string& method) const {
    return refusal([&] { logits(method); });
  }
};

TEST(SmoothQuantMethod, SettingsReachTheirFields) {
  const LinearPlan plain = make_method("smoothquant-w8a8", {}).plan(0, kQ);
  EXPECT_EQ(plain.scheme.smoothquant_alpha, 0.5f);
  EXPECT_FALSE(plain.weight.alpha_search || plain.weight.fold);
  const Method fixed = make_method("smoothquant-w8a8@alpha=0.6@fold=1", {});
  EXPECT_EQ(fixed.plan(0, kQ).scheme.smoothquant_alpha, 0.6f);
  EXPECT_TRUE(fixed.plan(0, kQ).weight.fold);
  EXPECT_FALSE(fixed.needs_rows());
  expect_in(describe(fixed), {"smoothquant alpha 0.6", "divisors folded into norms"});
  const Method searched = make_method("smoothquant-w8a8@alpha=search", {});
  EXPECT_TRUE(searched.plan(0, kQ).weight.alpha_search && searched.needs_rows());
  EXPECT_NE(describe(searched).find("smoothquant alpha searched"), std::string::npos);
  EXPECT_EQ(describe(searched).find("alpha 0.5"), std::string::npos);
  const Method rotated = make_method("rrs@alpha=search@alpha=0.25", {});
  EXPECT_EQ(rotated.plan(1, kDown).scheme.smoothquant_alpha, 0.25f);
  EXPECT_FALSE(rotated.plan(1, kDown).weight.alpha_search);
  EXPECT_TRUE(rotated.needs_calibration());
  for (const char* text :
       {"rtn@alpha=0", "rtn@alpha=1.01", "rtn@alpha=", "rtn@alpha=best", "rtn@alpha=nan",
        "rtn@fold=2", "q4_0-native@alpha=0.5", "q4_0-native@fold=1"}) {
    EXPECT_FALSE(accepts([&] { make_method(text, {}); })) << text;
  }
  expect_in(refusal([] { make_method("rtn@alpha=2", {}); }), {"'alpha'", "'2'", "search"});
}

// Tokens 0, 1 * step, ...: of 40 calibration tokens and 16 rows every first, so rows 0 to 15.
TEST(SmoothQuantMethod, SampledRowsAreTheInputsOfTheirTokens) {
  const Tiny t;
  ASSERT_EQ(t.calibration.samples.size(), t.model.config.layers);
  TinyEngine fp(t.path, "fp");
  std::vector<std::vector<float>> seen(t.model.config.layers * kInputsPerLayer);
  fp.engine->observe(
      [&](std::size_t layer, std::size_t linear, const float* x, std::int64_t, std::int64_t cols) {
        seen[layer * kInputsPerLayer + input_of(linear)].assign(x, x + 16 * cols);
      });
  Sequence sequence = fp.engine->start();
  fp.engine->forward(t.calibration.windows[0], &sequence);
  for (std::size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(t.calibration.samples[i / kInputsPerLayer][i % kInputsPerLayer], seen[i]);
  }
  EXPECT_EQ(t.calibrated(16, 3).samples, t.calibration.samples);
  EXPECT_TRUE(t.calibrated(0).samples.empty());
  // All rows, of which there are fewer than asked for; resumed behind all layers.
  const std::string file = t.folder.file("statistics");
  const Calibration all = t.calibrated(100, 1, file);
  const auto hidden = static_cast<std::size_t>(t.model.config.hidden);
  EXPECT_EQ(all.samples[0][kInputQkv].size(), 40 * hidden);
  EXPECT_EQ(t.calibrated(100, 1, file, true).samples, all.samples);
}

TEST(SmoothQuantMethod, SearchedAlphaIsTheLibrarysForAllSiblings) {
  const Tiny t;
  const Method method = make_method("smoothquant-w8a8@alpha=search", {});
  const LinearStack stack = t.stack("smoothquant-w8a8@alpha=search");
  for (const std::size_t first : {kQ, kGate, kDown}) {
    std::vector<std::vector<float>> values;
    std::vector<rrs::MatrixView<const float>> weights;
    for (std::size_t l = first; l <= kDown && input_of(l) == input_of(first); ++l) {
      const TensorInfo info = *t.source->info(linear_name(1, l));
      values.push_back(t.source->read(linear_name(1, l)));
      weights.emplace_back(values.back().data(), static_cast<std::int64_t>(info.rows),
                           static_cast<std::int64_t>(info.columns));
    }
    const std::vector<float>& rows = t.calibration.samples[1][input_of(first)];
    const std::int64_t k = weights[0].cols;
    const auto found = rrs::search_smoothquant_alpha(
        rrs::MatrixView<const float>(rows.data(), static_cast<std::int64_t>(rows.size()) / k, k),
        weights, t.calibration.input(1, input_of(first)).maxima, method.plan(1, first).scheme);
    ASSERT_TRUE(found.ok());
    for (std::size_t l = first; l <= kDown && input_of(l) == input_of(first); ++l) {
      EXPECT_EQ(stack[1][l]->channels()->divisor, found->divisor) << linear_name(1, l);
    }
  }
  const Logits searched = t.logits("smoothquant-w8a8@alpha=search");
  EXPECT_TRUE(t.logits("smoothquant-w8a8@alpha=search", 3) == searched);
  EXPECT_TRUE(t.logits("smoothquant-w8a8") != searched);
  EXPECT_TRUE(t.logits("smoothquant-w8a8@alpha=0.5") == t.logits("smoothquant-w8a8"));
  EXPECT_TRUE(t.logits("smoothquant-w8a8@alpha=0.6") != t.logits("smoothquant-w8a8"));
}

// Linears replaced in an engine that has run get their inputs as they expect them, both ways.
TEST(SmoothQuantMethod, ReplacedLinearsGetTheirOwnNorms) {
  const Tiny t;
  const LinearStack plain = t.stack("smoothquant-w8a8"),
                    folded = t.stack("smoothquant-w8a8@fold=1");
  TinyEngine engine(t.path, "fp");
  engine.logits(t.tokens);
  for (const LinearStack* stack : {&folded, &plain, &folded}) {
    for (std::size_t layer = 0; layer < stack->size(); ++layer) {
      for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
        engine.engine->set_linear(layer, l, (*stack)[layer][l]);
      }
    }
    EXPECT_TRUE(engine.logits(t.tokens) == t.logits(*stack));
  }
}

// Given x / s, a folded linear makes the bits that the other makes of x; o and down are not folded.
TEST(SmoothQuantMethod, FoldedLinearsTakeDividedInputs) {
  const Tiny t;
  int folded_linears = 0;
  for (const std::string name :
       {"smoothquant-w8a8", "smoothquant-w4a4-gptq", "rrs-zigzag@alpha=0.5", "aser-w4a8@rank=8"}) {
    const LinearStack plain = t.stack(name), folded = t.stack(name + "@fold=1");
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const InputChannels& channels = *folded[0][l]->channels();
      EXPECT_EQ(channels.folded, l != kO && l != kDown);
      EXPECT_EQ(channels.divisor, plain[0][l]->channels()->divisor);
      std::vector<float> x(3 * channels.divisor.size());
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i * i));
      const std::vector<float> expected = applied(*plain[0][l], x, t.pool);
      for (std::size_t i = 0; channels.folded && i < x.size(); ++i) {
        x[i] /= channels.divisor[i % channels.divisor.size()];
      }
      EXPECT_EQ(applied(*folded[0][l], x, t.pool), expected) << name << " " << kLinearNames[l];
      folded_linears += channels.folded ? 1 : 0;
    }
  }
  EXPECT_EQ(folded_linears, 20);
}

// The engine's norms divide: up to the rounding of a quotient, and o and down as ever.
TEST(SmoothQuantMethod, FoldedNormsGiveDividedInputs) {
  const Tiny t;
  std::vector<std::vector<float>> inputs[2];
  for (const int folded : {0, 1}) {
    TinyEngine tiny(t.path, folded == 1 ? "smoothquant-w8a8@fold=1" : "smoothquant-w8a8", 16, 1,
                    &t.calibration);
    tiny.engine->observe(
        [&](std::size_t, std::size_t, const float* x, std::int64_t rows, std::int64_t cols) {
          inputs[folded].emplace_back(x, x + rows * cols);
        });
    tiny.logits(t.tokens);
  }
  // Of the first layer's q, k, v: later ones differ by the codes that fall otherwise.
  const LinearStack stack = t.stack("smoothquant-w8a8");
  const std::vector<float>& divisor = stack[0][kQ]->channels()->divisor;
  for (std::size_t i = 0; i < inputs[0][0].size(); ++i) {
    const float divided = inputs[0][0][i] / divisor[i % divisor.size()];
    EXPECT_LE(std::fabs(inputs[1][0][i] - divided), 0x1p-22f * std::fabs(divided));
  }
  const Logits fp = t.logits("fp"), plain = t.logits("smoothquant-w8a8"),
               folded = t.logits("smoothquant-w8a8@fold=1");
  double error = 0.0, moved = 0.0;
  for (std::size_t r = 0; r < fp.size(); ++r) {
    for (std::size_t i = 0; i < fp[r].size(); ++i) {
      error += std::pow(static_cast<double>(plain[r][i]) - static_cast<double>(fp[r][i]), 2);
      moved += std::pow(static_cast<double>(plain[r][i]) - static_cast<double>(folded[r][i]), 2);
    }
  }
  EXPECT_GT(error, 0.0);
  EXPECT_LT(moved, 0.25 * error);
}

// Divisors that are powers of two round nothing: the whole model gives the same bits.
TEST(SmoothQuantMethod, FoldingPowersOfTwoChangesNoBit) {
  const Tiny t;
  LinearStack plain = t.stack("rtn@a8"), folded = plain;
  const rrs::Scheme scheme = make_method("rtn@a8", {}).plan(0, kQ).scheme;
  for (std::size_t layer = 0; layer < plain.size(); ++layer) {
    for (const std::size_t l : {kQ, kK, kV, kGate, kUp}) {
      const std::string name = linear_name(layer, l);
      const TensorInfo info = *t.source->info(name);
      const std::vector<float> values = t.source->read(name);
      InputChannels channels;
      for (std::size_t j = 0; j < info.columns; ++j) {
        channels.divisor.push_back(std::ldexp(1.0f, static_cast<int>((j + layer) % 5) - 2));
      }
      rrs::WeightOptions options;
      options.channels = channels.view();
      auto made = rrs::prepare_weight(
          rrs::MatrixView<const float>(values.data(), static_cast<std::int64_t>(info.rows),
                                       static_cast<std::int64_t>(info.columns)),
          scheme, options);
      ASSERT_TRUE(made.ok());
      const auto weight = std::make_shared<const rrs::PreparedWeight>(std::move(*made));
      plain[layer][l] = make_rrs_linear(name, *weight, scheme, channels, weight);
      channels.folded = true;
      folded[layer][l] = make_rrs_linear(name, *weight, scheme, channels, weight);
    }
  }
  EXPECT_TRUE(t.logits(folded) == t.logits(plain));
  EXPECT_TRUE(t.logits(folded) != t.logits(t.stack("rtn@a8")));
  // Siblings must leave the same divisor to the norm.
  folded[1][kUp] = plain[1][kUp];
  expect_in(refusal([&] { t.logits(folded); }), {"blk.1.ffn_up", "blk.1.ffn_gate"});
}

TEST(SmoothQuantMethod, FilesKeepIt) {
  const Tiny t;
  int cases = 0;
  for (const char* name :
       {"smoothquant-w8a8@alpha=search@fold=1", "smoothquant-w4a4-gptq@fold=1", "rrs@alpha=0.5",
        "rrs-zigzag@alpha=0.5@fold=1", "aser-w4a8@rank=8@outliers=3@fold=1"}) {
    PrepareOptions options;
    options.calibration = &t.calibration;
    options.unfinished = t.folder.file("linears");
    const Method method = make_method(name, {});
    write_quantized(*t.source, method, options, t.pool, rrs_examples::AtomicFile(t.out));
    const std::string bytes = read_all(t.out);
    options.resume = true;
    write_quantized(*t.source, method, options, t.pool, rrs_examples::AtomicFile(t.out));
    EXPECT_TRUE(read_all(t.out) == bytes);
    QuantizedFile file = open_quantized(t.out, *t.source);
    EXPECT_EQ(file.linears[1][kUp]->channels()->folded, method.plan(1, kUp).weight.fold);
    EXPECT_TRUE(t.logits(std::move(file.linears)) == t.logits(name)) << name;
    ++cases;
  }
  EXPECT_EQ(cases, 5);
}

TEST(SmoothQuantMethod, RunsThroughTheSession) {
  const Tiny t;
  SessionOptions o;
  o.model = t.path;
  o.calibration_windows = 3;
  Session session(o);
  session.set_calibration_tokens(random_tokens(t.model, 95, 5));
  std::vector<std::vector<float>> hidden;
  for (const char* name : {"smoothquant-w8a8", "smoothquant-w8a8@alpha=search@fold=1",
                           "smoothquant-w4a4-gptaq@alpha=search@fold=1", "rrs-gptq",
                           "smoothquant-w8a8@alpha=search@fold=1"}) {
    Contestant c = session.prepare(make_method(name, {}));
    Sequence sequence = c.engine->start();
    const float* h = c.engine->forward(t.tokens, &sequence);
    hidden.emplace_back(h, h + t.tokens.size() * t.model.config.hidden);
  }
  EXPECT_TRUE(hidden[1] == hidden[4]);
  EXPECT_TRUE(hidden[0] != hidden[1]);
}

TEST(SmoothQuantMethod, WhatCannotBeIsNamed) {
  Tiny t;
  expect_in(t.error_of("rrs@fold=1"), {"blk.0.attn_q", "fold", "no divisor"});
  expect_in(t.error_of("rs@alpha=0.5"), {"blk.0.attn_output", "simulated"});
  PrepareOptions options;
  const Method method = make_method("smoothquant-w8a8@alpha=search", {});
  expect_in(refusal([&] { prepare_linears(*t.source, method, options, t.pool); }),
            {"smoothquant_w8a8", "calibration text"});
  t.calibration.samples.clear();
  expect_in(t.error_of("smoothquant-w8a8@alpha=search"), {"rows"});
}

}  // namespace
