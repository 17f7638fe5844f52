// The forward pass: against the double oracle, and against itself however it is cut, threaded, or
// dispatched.

#include "engine_support.hpp"
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

TEST(Engine, AWrongFormulaWouldBeSeen) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  const std::vector<TokenId> tokens = random_tokens(m, 21, 5);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  m.config.rope_base = 20000.0;  // the oracle's only
  TinyEngine tiny(path, "fp");
  EXPECT_GT(worst_difference(tiny.logits(tokens), reference_logits(m, tokens)), 4e-3);
}

TEST(Engine, PromptAtOnceEqualsTokenByToken) {
  int cases = 0;
  for (const Architecture architecture : kArchitectures) {
    const TinyModel m = tiny_model(architecture, architecture == Architecture::kLlama);
    const TempFolder folder;
    const std::string path = write_tiny_gguf(m, folder);
    const std::vector<TokenId> tokens = random_tokens(m, 37, 7);
    for (const char* method : {"rrs", "rrs_w4a8", "rrs_w4a16", "quarot"}) {
      for (const int kv : {16, 8, 4}) {
        TinyEngine tiny(path, method, kv);
        const auto whole = tiny.logits(tokens);
        EXPECT_EQ(tiny.logits(tokens, std::vector<std::size_t>(37, 1)), whole)
            << method << " kv " << kv;
        EXPECT_EQ(tiny.logits(tokens, {5, 1, 16}), whole) << method << " kv " << kv;
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 36);
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
