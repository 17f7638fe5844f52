// The forward pass: against the double oracle, and against itself however it is cut, threaded, or
// dispatched.

#include "engine_support.hpp"
#include "rrs/core/presets.hpp"
#include "support/each_isa.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

constexpr Architecture kArchitectures[] = {Architecture::kLlama, Architecture::kQwen2,
                                           Architecture::kQwen3};

TEST(Engine, FloatLogitsAreTheOraclesInBothFormats) {
  int cases = 0;
  double worst = 0.0;
  for (const Architecture architecture : kArchitectures) {
    for (const bool tied : {false, true}) {
      const TinyModel m = tiny_model(architecture, tied);
      const std::vector<TokenId> tokens = random_tokens(m, 21, 5);
      const std::vector<Row> expected = reference_logits(m, tokens);
      const TempFolder folder;
      write_tiny_hf(m, folder);
      for (const std::string& path : {folder.path(), write_tiny_gguf(m, folder)}) {
        TinyEngine tiny(path, "fp");
        const double difference = worst_difference(tiny.logits(tokens), expected);
        // K and V are rounded to f16 (2^-11); the logits are of the order of 1.
        EXPECT_LT(difference, 4e-3) << architecture_name(architecture) << " " << path;
        worst = difference > worst ? difference : worst;
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 12);
  EXPECT_GT(worst, 4e-3 / 50.0);  // the bound is not vacuous
}

// Linear and LLaMA 3's scaling, each as both formats have it.
TEST(Engine, ScaledRopeIsTheOracles) {
  const std::vector<float> linear(8, 4.0f), ramp{1, 1, 1, 2, 3, 8, 8, 8};
  int cases = 0;
  for (const Architecture architecture : {Architecture::kLlama, Architecture::kQwen2}) {
    TinyModel m = tiny_model(architecture, true);
    const std::string name = architecture_name(architecture);
    // 90 positions: more rounded keys and values in each sum than above.
    const std::vector<TokenId> tokens = random_tokens(m, 90, 5);
    const std::vector<Row> unscaled = reference_logits(m, tokens);
    GgufBuilder of_linear = tiny_gguf(m), of_ramp = of_linear;
    of_linear.string(name + ".rope.scaling.type", "linear");
    of_linear.f32(name + ".rope.scaling.factor", 4.0f);
    of_ramp.f32_tensor("rope_freqs.weight", {8}, ramp);
    const TempFolder folder, hf_linear, hf_llama3;
    write_tiny_hf(m, hf_linear);
    hf_linear.write("config.json",
                    tiny_config_json(m, R"(,"rope_scaling":{"type":"linear","factor":4})"));
    write_tiny_hf(m, hf_llama3);
    hf_llama3.write("config.json",
                    tiny_config_json(m, R"(,"rope_scaling":{"rope_type":"llama3","factor":8.0,)"
                                        R"("low_freq_factor":1.0,"high_freq_factor":4.0,)"
                                        R"("original_max_position_embeddings":64})"));
    const std::vector<float> llama3 = llama3_divisors({8.0, 1.0, 4.0, 64.0}, 10000.0, 16);
    const std::pair<std::string, std::vector<float>> files[] = {
        {folder.write("linear.gguf", of_linear.bytes()), linear},
        {folder.write("ramp.gguf", of_ramp.bytes()), ramp},
        {hf_linear.path(), linear},
        {hf_llama3.path(), llama3}};
    for (const auto& [path, divisors] : files) {
      m.config.rope_divisors = divisors;
      const auto rows = TinyEngine(path, "fp").logits(tokens);
      EXPECT_LT(worst_difference(rows, reference_logits(m, tokens)), 8e-3) << path;
      EXPECT_GT(worst_difference(rows, unscaled), 2e-2) << path;  // the divisors do something
      ++cases;
    }
  }
  EXPECT_EQ(cases, 8);
}

TEST(Engine, AWrongFormulaWouldBeSeen) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  const std::vector<TokenId> tokens = random_tokens(m, 21, 5);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  m.config.rope_base = 20000.0;  // the oracle's only
  TinyEngine tiny(path, "fp");
  EXPECT_GT(worst_difference(tiny.logits(tokens), reference_logits(m, tokens)), 4e-3);
}

// Methods whose tokens depend on nothing but their past: window one in every linear, and integer
// kernels.
std::vector<std::string> methods_of_window_one() {
  std::vector<std::string> names;
  for (const std::string& name : method_names()) {
    const Method method = make_method(name, {});
    bool one = method.kind == LinearKind::kRrs;
    for (std::size_t l = 0; l < kLinearsPerLayer && one; ++l) {
      one = method.plan(0, l).scheme.activation.window.kind == rrs::WindowKind::kOne;
    }
    if (one) names.push_back(name);
  }
  return names;
}

TEST(Engine, PromptAtOnceEqualsTokenByToken) {
  const std::vector<std::string> names = methods_of_window_one();
  EXPECT_EQ(names.size(), 10u);
  int cases = 0;
  for (const Architecture architecture : kArchitectures) {
    const TinyModel m = tiny_model(architecture, architecture == Architecture::kLlama);
    const TempFolder folder;
    const std::string path = write_tiny_gguf(m, folder);
    const Calibration calibration = tiny_calibration(path, m);
    const std::vector<TokenId> tokens = random_tokens(m, 37, 7);
    for (const std::string& method : names) {
      for (const int kv : {16, 8, 4}) {
        TinyEngine tiny(path, method, kv, 1, &calibration);
        const auto whole = tiny.logits(tokens);
        EXPECT_EQ(tiny.logits(tokens, std::vector<std::size_t>(37, 1)), whole)
            << method << " kv " << kv;
        EXPECT_EQ(tiny.logits(tokens, {5, 1, 16}), whole) << method << " kv " << kv;
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 90);
}

// q, k and v share an activation, so do gate and up: four per layer.
TEST(Engine, InputsArePreparedOnceForAllThatShareThem) {
  const TinyModel m = tiny_model(Architecture::kQwen2, true);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  const Calibration calibration = tiny_calibration(path, m);
  const std::vector<TokenId> tokens = random_tokens(m, 9, 7);
  const auto prepared = [&](const std::string& method, const std::vector<Setting>& settings) {
    TinyEngine tiny(path, "fp");
    PrepareOptions options;
    options.calibration = &calibration;
    const LinearStack linears =
        prepare_linears(*tiny.source, make_method(method, settings), options, *tiny.pool);
    for (std::size_t layer = 0; layer < linears.size(); ++layer) {
      for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
        tiny.engine->set_linear(layer, l, linears[layer][l]);
      }
    }
    tiny.logits(tokens);
    const std::size_t first = tiny.engine->preparations();
    tiny.logits(tokens);  // another input at the same place is another input
    EXPECT_EQ(tiny.engine->preparations(), 2 * first) << method;
    return first;
  };
  const std::size_t inputs = kInputsPerLayer * m.config.layers;
  std::size_t methods = 0;
  for (const std::string& name : method_names()) {
    if (make_method(name, {}).kind != LinearKind::kRrs) continue;
    EXPECT_EQ(prepared(name, {}), inputs) << name;
    ++methods;
  }
  EXPECT_EQ(methods, rrs::presets::kCount - 1u);  // rs is simulated in o, gate, up and down
  for (const char* name : {"rrs-zigzag", "smoothquant_w8a8@fold=1", "rrs+aser@rank=4"}) {
    EXPECT_EQ(prepared(name, {}), inputs) << name;
  }
  EXPECT_EQ(prepared("fp", {}), 0u);
  // Settings of their own part them: k between q and v, and up behind gate.
  EXPECT_EQ(prepared("rrs", parse_override("attn_k=a8")), inputs + 2 * m.config.layers);
  EXPECT_EQ(prepared("rrs", parse_override("ffn_up=a8")), inputs + m.config.layers);
}

TEST(Engine, ALongPromptCrossesPages) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  m.config.context = 600;
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  const std::vector<TokenId> tokens = random_tokens(m, 530, 3);
  for (const int kv : {16, 4}) {
    TinyEngine tiny(path, "rrs", kv);
    const auto whole = tiny.logits(tokens);
    EXPECT_EQ(tiny.logits(tokens, {255, 2, 100}), whole) << kv;
    EXPECT_EQ(whole.size(), 530u);
  }
}

TEST(Engine, ThreadsAndLevelsChangeNoBit) {
  const TinyModel m = tiny_model(Architecture::kQwen3, false);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  const std::vector<TokenId> tokens = random_tokens(m, 33, 11);
  int cases = 0;
  for (const char* method : {"rrs", "rrs_w4a16", "rrs_whole"}) {
    for (const int kv : {16, 4}) {
      const auto expected = TinyEngine(path, method, kv).logits(tokens);
      EXPECT_EQ(TinyEngine(path, method, kv, 3).logits(tokens), expected) << method << " threads";
      rrs_test::each_isa([&](const rrs::KernelTable& table) {
        EXPECT_EQ(TinyEngine(path, method, kv).logits(tokens), expected)
            << method << " " << table.name << " kv " << kv;
      });
      ++cases;
    }
  }
  EXPECT_EQ(cases, 6);
}

TEST(Engine, ALimitOfLayersEndsThePassThere) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  TinyEngine tiny(write_tiny_gguf(m, folder), "fp");
  const std::size_t all = tiny.engine->config().layers;
  ASSERT_GE(all, 2u);
  for (const std::size_t limit : {std::size_t{1}, all, all + 1, std::size_t{0}}) {
    std::vector<std::size_t> ran;
    tiny.engine->observe_layers(
        [&](std::size_t layer, const float*, std::int64_t) { ran.push_back(layer); });
    tiny.engine->limit_layers(limit);
    Sequence sequence = tiny.engine->start();
    tiny.engine->forward(random_tokens(m, 5, 1), &sequence);
    EXPECT_EQ(ran.size(), limit == 1 ? 1u : all) << limit;
    EXPECT_EQ(ran.front(), 0u);
  }
}

TEST(Engine, NarrowCachesStayNearTheFloatOne) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  const std::vector<TokenId> tokens = random_tokens(m, 60, 13);
  const std::vector<Row> expected = reference_logits(m, tokens);
  const double d16 = worst_difference(TinyEngine(path, "fp", 16).logits(tokens), expected);
  const double d8 = worst_difference(TinyEngine(path, "fp", 8).logits(tokens), expected);
  const double d4 = worst_difference(TinyEngine(path, "fp", 4).logits(tokens), expected);
  EXPECT_LT(d16, d8);
  EXPECT_LT(d8, d4);
  EXPECT_LT(d4, 2.0);
}

// As on a CPU with AMX, where prompts and single tokens run on different kernels: two levels in
// turn.
TEST(Engine, RecordsEveryKernelOnce) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  TinyEngine tiny(write_tiny_gguf(m, folder), "rrs");
  const std::vector<TokenId> tokens = random_tokens(m, 9, 3);
  for (int turn = 0; turn < 3; ++turn) {
    rrs_test::each_isa([&](const rrs::KernelTable&) { tiny.logits(tokens, {5, 1, 1, 1, 1}); });
  }
  std::vector<std::string> expected;  // levels may share a kernel
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    const bool few = table.isa == rrs::Isa::kAmx;  // 5 rows in groups of 32
    const std::string name =
        few ? rrs_test::table_of(rrs::Isa::kAvx512Vnni).gemm.w4a4.name : table.gemm.w4a4.name;
    if (std::find(expected.begin(), expected.end(), name) == expected.end()) {
      expected.push_back(name);
    }
  });
  const LinearRuns& runs = tiny.engine->runs(0, 0);
  EXPECT_EQ(runs.kernels, expected);
  std::string joined;
  for (const std::string& name : expected) joined += (joined.empty() ? "" : ", ") + name;
  EXPECT_EQ(runs.kernel(), joined);
}

TEST(Engine, RefusesWhatItCannotRun) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  TinyEngine tiny(write_tiny_gguf(m, folder), "rrs");
  Sequence sequence = tiny.engine->start();
  expect_in(refusal([&] { tiny.engine->forward({}, &sequence); }), {"tokens", "1 to 128"});
  expect_in(refusal([&] { tiny.engine->forward(random_tokens(m, 129, 1), &sequence); }),
            {"129", "128"});
  expect_in(
      refusal([&] { tiny.engine->forward({static_cast<TokenId>(m.config.vocab)}, &sequence); }),
      {"token", std::to_string(m.config.vocab)});
  EXPECT_EQ(sequence.length(), 0);
  expect_in(refusal([&] { ThreadPool pool(0); }), {"threads", "0"});
}

}  // namespace
