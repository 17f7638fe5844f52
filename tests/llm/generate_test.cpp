// Generation: choice of tokens, repeatability, end tokens, the context's limit; and the program.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <set>
#include <vector>

#include "../../examples/llm/generate.hpp"
#include "../../examples/llm/inspect.hpp"
#include "engine_support.hpp"
#include "run_llm.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

TEST(Choose, GreedyTakesTheFirstLargest) {
  const float logits[] = {0.0f, 3.0f, -1.0f, 3.0f};
  EXPECT_EQ(choose_token(logits, 4, GenerateOptions{}, 0.99), 1);
}

TEST(Choose, SamplingFollowsTheProbabilities) {
  const float logits[] = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  GenerateOptions o;
  o.temperature = 1.0;
  o.top_p = 1.0;
  EXPECT_EQ(choose_token(logits, 4, o, 0.49), 0);
  EXPECT_EQ(choose_token(logits, 4, o, 0.51), 1);
  EXPECT_EQ(choose_token(logits, 4, o, 0.81), 2);
  EXPECT_EQ(choose_token(logits, 4, o, 0.999), 3);
  o.top_p = 0.7;  // the first two, renormalized: 0.625 and 0.375
  EXPECT_EQ(choose_token(logits, 4, o, 0.62), 0);
  EXPECT_EQ(choose_token(logits, 4, o, 0.63), 1);
  EXPECT_EQ(choose_token(logits, 4, o, 0.999), 1);
  o.temperature = 1e-3;
  EXPECT_EQ(choose_token(logits, 4, o, 0.999), 0);
}

// The choice by sorting everything, of which choose_token sorts a part.
TokenId choose_from_all(const std::vector<float>& logits, const GenerateOptions& o, double random) {
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](TokenId t) {
    return static_cast<double>(logits[static_cast<std::size_t>(t)]);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](TokenId a, TokenId b) { return logit(a) > logit(b); });
  std::vector<double> p;
  for (const TokenId t : order) p.push_back(std::exp((logit(t) - logit(order[0])) / o.temperature));
  const double all = std::accumulate(p.begin(), p.end(), 0.0);
  std::size_t kept = 0;
  double mass = 0.0;
  while (kept < p.size() && mass < o.top_p * all) mass += p[kept++];
  double left = random * mass;
  std::size_t i = 0;
  for (; i + 1 < kept && left >= p[i]; ++i) left -= p[i];
  return order[i];
}

TEST(Choose, AgreesWithSortingTheWholeVocabulary) {
  Random random(11);
  std::set<TokenId> chosen;
  for (int turn = 0; turn < 300; ++turn) {
    std::vector<float> logits(2000);
    for (float& x : logits) x = 4.0f * random.real();
    GenerateOptions o;
    o.temperature = turn % 3 == 0 ? 3.0 : 0.7;
    o.top_p = turn % 5 == 0 ? 1.0 : turn % 5 == 1 ? 0.5 : 0.95;
    const double at = (random.real() + 1.0) / 2.0;
    chosen.insert(choose_token(logits.data(), logits.size(), o, at));
    EXPECT_EQ(choose_token(logits.data(), logits.size(), o, at), choose_from_all(logits, o, at));
  }
  EXPECT_GE(chosen.size(), 100u);
}

TEST(Generate, SeedsRepeatAndDecodingEqualsPrefill) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  TinyEngine tiny(write_tiny_gguf(m, folder), "rrs", 4);
  const std::vector<TokenId> prompt = random_tokens(m, 9, 1);
  GenerateOptions o;
  o.tokens = 20;
  o.temperature = 1.5;
  std::vector<TokenId> streamed;
  const auto a = generate(tiny.engine.get(), prompt, o, [&](TokenId t) { streamed.push_back(t); });
  EXPECT_EQ(streamed, a.tokens);
  EXPECT_EQ(generate(tiny.engine.get(), prompt, o, nullptr).tokens, a.tokens);
  o.seed = 2;
  EXPECT_NE(generate(tiny.engine.get(), prompt, o, nullptr).tokens, a.tokens);
  o.temperature = 0.0;
  const auto greedy = generate(tiny.engine.get(), prompt, o, nullptr);
  std::vector<TokenId> all = prompt;
  all.insert(all.end(), greedy.tokens.begin(), greedy.tokens.end());
  const auto logits = tiny.logits(all);
  for (std::size_t i = 0; i < greedy.tokens.size(); ++i) {
    const auto& row = logits[prompt.size() - 1 + i];
    EXPECT_EQ(std::max_element(row.begin(), row.end()) - row.begin(), greedy.tokens[i]);
  }
  EXPECT_GT(greedy.kv_bytes, 0);
}

// A model with more rows than its tokenizer has tokens, which would be the most likely ones.
TEST(Generate, StaysWithinTheTokenizerOfAPaddedVocabulary) {
  TinyModel m = tiny_model(Architecture::kQwen2, true);
  const std::size_t tokens = m.vocabulary.tokens.size();
  for (TinyTensor& t : m.tensors) {
    if (t.name != "token_embd") continue;
    for (std::size_t i = 0; i < 40 * t.columns; ++i) t.values.push_back(4.0f * t.values[i]);
    m.config.vocab = t.rows += 40;
  }
  const TempFolder folder;
  write_tiny_hf(m, folder);
  TinyEngine tiny(folder.path(), "rrs");
  GenerateOptions o;
  o.tokens = 30;
  const std::vector<TokenId> prompt{1, 4, 9, 3};
  const auto likeliest = tiny.logits(prompt).back();
  const auto best = std::max_element(likeliest.begin(), likeliest.end()) - likeliest.begin();
  ASSERT_GE(static_cast<std::size_t>(best), tokens);
  for (const double temperature : {0.0, 3.0}) {
    o.temperature = temperature;
    const GenerateResult r = generate(tiny.engine.get(), prompt, o, nullptr);
    EXPECT_GE(r.tokens.size(), 1u);
    for (const TokenId t : r.tokens) EXPECT_LT(static_cast<std::size_t>(t), tokens);
  }
}

TEST(Generate, StopsAtAnEndTokenAndAtTheContext) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  TinyEngine tiny(write_tiny_gguf(m, folder), "rrs");
  const std::vector<TokenId> prompt = random_tokens(m, 100, 1);
  GenerateOptions o;
  o.tokens = 1000;
  o.temperature = 100.0;  // nearly uniform: the end token comes soon enough, or the context does
  bool ended = false, full = false;
  for (o.seed = 1; o.seed <= 60 && !(ended && full); ++o.seed) {
    const auto r = generate(tiny.engine.get(), prompt, o, nullptr);
    if (r.ended) {
      ended = true;
    } else {
      full = true;
      EXPECT_EQ(r.tokens.size(), 29u);  // the last one needs no forward pass
    }
    for (const TokenId t : r.tokens) EXPECT_NE(t, static_cast<TokenId>(m.vocabulary.end));
  }
  EXPECT_TRUE(ended);
  EXPECT_TRUE(full);
  expect_in(refusal([&] { generate(tiny.engine.get(), {}, o, nullptr); }), {"prompt"});
  o.top_p = 0.0;
  expect_in(refusal([&] { generate(tiny.engine.get(), prompt, o, nullptr); }), {"top-p"});
}

TEST(Inspect, OutliersAreThoseOfTheInputs) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  TinyEngine tiny(write_tiny_gguf(m, folder), "fp");
  double most = 0.0;
  tiny.engine->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                           std::int64_t cols) {
    if (layer != 1 || linear != kDown) return;
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      most = (std::max)(most, static_cast<double>(std::fabs(x[i])));
    }
  });
  const std::vector<TokenId> tokens = random_tokens(m, 64, 1);
  Sequence sequence = tiny.engine->start();
  tiny.engine->forward(std::vector<TokenId>(tokens.begin(), tokens.begin() + 32), &sequence);
  const auto modules = measure_outliers(tiny.engine.get(), tokens, 1, 32);
  ASSERT_EQ(modules.size(), 8u);
  int found = 0;
  for (const ModuleOutliers& o : modules) {
    EXPECT_GE(o.score, 1.0);
    EXPECT_EQ(o.token_max, o.channel_max);
    if (o.module != "blk.1.ffn_down") continue;
    EXPECT_EQ(o.token_max, most);
    EXPECT_NEAR(o.score, o.token_max / o.token_median, 1e-6);
    ++found;
  }
  EXPECT_EQ(found, 1);
  expect_in(outliers_text(modules, 2), {"QFeM"});
}

// What `inspect` says beforehand is what the prepared linears weigh.
TEST(Inspect, BitsPerWeightAreThoseOfTheRecords) {
  const TinyModel m = tiny_model(Architecture::kQwen3, true);
  const TempFolder folder;
  const std::string path = folder.write("q4.gguf", tiny_gguf(m, q4_linears(3)).bytes());
  const Calibration calibration = tiny_calibration(path, m);
  int cases = 0;
  for (const char* name :
       {"fp", "rrs", "rrs_g128", "quarot", "rs", "smoothquant_w8a8", "q4_0-native",
        "rrs+aser@rank=8", "rrs+aser@rank=8@rank-bits=8", "rrs@w8"}) {
    for (const char* override : {"", "blk.0=fp", "ffn_down=weight-group=64"}) {
      std::vector<Setting> settings;
      const bool fixed = std::string(name) == "fp" || std::string(name) == "q4_0-native";
      if (*override != 0 && fixed) continue;
      if (*override != 0) settings = parse_override(override);
      const Method method = make_method(name, settings);
      const auto source = open_model(path);
      const ThreadPool pool(1);
      PrepareOptions options;
      options.calibration = &calibration;
      double bits = 0.0, weights = 0.0;
      for (const LayerLinears& layer : prepare_linears(*source, method, options, pool)) {
        for (const auto& linear : layer) {
          bits += 8.0 * static_cast<double>(linear->info().stored_bytes);
          weights += static_cast<double>(linear->info().weights);
        }
      }
      char expected[40];
      std::snprintf(expected, sizeof expected, "  %.2f bits per weight", bits / weights);
      expect_in(fit_text(*source, method), {expected});
      ++cases;
    }
  }
  EXPECT_EQ(cases, 2 + 8 * 3);
  const auto source = open_model(path);
  expect_in(fit_text(*source, make_method("q4_0-native", {})), {"   2 x  ffn_down", "  5.50 bits"});
  expect_in(fit_text(*source, make_method("rrs", parse_override("blk.0=fp"))),
            {"   1 x  ffn_down     N 64     K 96     float",
             "   1 x  ffn_down     N 64     K 96     3 groups"});
  expect_in(fit_text(*source, make_method("rrs+aser@rank-share=0.5", {})), {"rank-share"});
}

TEST(Program, EveryCommandEndToEnd) {
  const TinyModel m = tiny_model(Architecture::kQwen3, false);
  const TempFolder folder;
  const std::string model = write_tiny_gguf(m, folder);
  std::string words;
  for (int i = 0; i < 200; ++i) words += "the hello 123 abc ";
  const std::string text = folder.write("text.txt", words);
  const std::string json = folder.file("records.json"), out = folder.file("out.safetensors");
  EXPECT_EQ(run({"inspect", "--model", model.c_str(), "--text", text.c_str(), "--context", "64"}),
            0);
  EXPECT_EQ(run({"quantize", "--model", model.c_str(), "--method", "smoothquant-w8a8",
                 "--calibration", text.c_str(), "--out", out.c_str()}),
            0);
  EXPECT_EQ(run({"perplexity", "--model", model.c_str(), "--text", text.c_str(), "--method",
                 "rrs,quarot,smoothquant-w8a8", "--context", "64", "--windows", "2", "--kv", "4",
                 "--weights", out.c_str(), "--json", json.c_str()}),
            0);
  EXPECT_NE(read_all(json).find("smoothquant_w8a8"), std::string::npos);
  EXPECT_EQ(run({"generate", "--model", model.c_str(), "--weights", out.c_str(), "--prompt", "the",
                 "-n", "5"}),
            0);
  EXPECT_EQ(run({"generate", "--model", model.c_str(), "--prompt", "the", "-n", "5", "--kv", "8",
                 "--override", "ffn_down=a8", "--temperature", "1"}),
            0);
  EXPECT_EQ(run({"--help"}), 0);
  EXPECT_EQ(run({"perplexity", "--help"}), 0);
}

TEST(Program, BadCommandLinesAreRefused) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string model = write_tiny_gguf(m, folder);
  const std::string text = folder.write("text.txt", "the hello");
  EXPECT_NE(run({}), 0);
  EXPECT_NE(run({"perplexity"}), 0);
  EXPECT_NE(run({"generate", "--model", "/nonexistent", "--prompt", "x"}), 0);
  EXPECT_NE(run({"generate", "--model", model.c_str(), "--prompt", "x", "--kv", "5"}), 0);
  EXPECT_NE(run({"generate", "--model", model.c_str(), "--prompt", "x", "--method", "none"}), 0);
  EXPECT_NE(run({"generate", "--model", model.c_str(), "--prompt", "x", "--window", "two"}), 0);
  EXPECT_NE(run({"perplexity", "--model", model.c_str(), "--text", text.c_str()}), 0);  // too short
  EXPECT_NE(
      run({"quantize", "--model", model.c_str(), "--method", "smoothquant_w8a8", "--calibration",
           folder.file("no.txt").c_str(), "--out", folder.file("x").c_str()}),
      0);  // no calibration text
  EXPECT_FALSE(std::filesystem::exists(folder.file("x")));
}

TEST(Program, TheCacheHasOptions) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string model = write_tiny_gguf(m, folder);
  const auto generated = [&](const std::vector<const char*>& more, Said* said) {
    std::vector<const char*> a{"generate", "--model", model.c_str(), "--prompt", "the", "-n", "3"};
    a.insert(a.end(), more.begin(), more.end());
    return run(a, said);
  };
  const auto runs = [&](const std::vector<const char*>& more,
                        const std::vector<std::string>& parts) {
    Said said;
    EXPECT_EQ(generated(more, &said), 0) << more.back();
    expect_in(said.err, parts);
  };
  runs({"--kv", "4", "--kv-group", "16"}, {"at 4 bits", "KV cache 4 bits, group 16,"});
  runs({"--kv", "4", "--kv-group", "head"}, {"group head"});
  runs({"--kv", "8", "--kv-group", "token"}, {"group token"});
  runs({"--kv", "4", "--kv-value-bits", "8"}, {"at 4/8 bits", "KV cache 4 bits, V 8,"});
  runs({"--kv-value-bits", "4", "--kv-group", "16"}, {"at 16/4 bits", "V 4, group 16"});
  runs({"--kv", "16", "--kv-value-bits", "16"}, {"KV cache 16 bits\n"});
  const auto refused = [&](const std::vector<const char*>& more,
                           const std::vector<std::string>& parts) {
    Said said;
    EXPECT_NE(generated(more, &said), 0) << more.back();
    expect_in(said.err, parts);
  };
  refused({"--kv", "4", "--kv-group", "48"}, {"--kv-group", "48", "256", "head", "token"});
  refused({"--kv", "4", "--kv-group", "row"}, {"--kv-group", "row", "token"});
  refused({"--kv", "4", "--kv-value-bits", "5"}, {"--kv-value-bits", "5", "16"});
  refused({"--kv-group", "16"}, {"--kv-group 16", "16 bits", "--kv 8 or 4"});
  refused({"--kv", "16", "--kv-group", "head"}, {"--kv-group head", "16 bits"});
  refused({"--kv", "16", "--kv-value-bits", "16", "--kv-group", "16"}, {"--kv-group 16"});
  refused({"--kv", "4", "--kv-group", "256"},
          {"--kv-group 256", "head size " + std::to_string(m.config.head_size)});
}

TEST(Program, SettingsThatNothingTakesAreRefused) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string model = write_tiny_gguf(m, folder), out = folder.file("out.safetensors");
  const std::string text = folder.write("text.txt", "the hello the hello 123 the hello");
  ASSERT_EQ(run({"quantize", "--model", model.c_str(), "--out", out.c_str()}), 0);
  const auto refused = [&](std::vector<const char*> options,
                           const std::vector<std::string>& parts) {
    options.insert(options.begin() + 1, {"--model", model.c_str()});
    Said said;
    EXPECT_NE(run(options, &said), 0) << options.back();
    expect_in(said.err, parts);
  };
  int cases = 0;
  for (const std::vector<const char*>& beside :
       std::vector<std::vector<const char*>>{{"--method", "rrs"},
                                             {"--activation-bits", "8"},
                                             {"--override", "ffn_down=a8"},
                                             {"--calibration", text.c_str()},
                                             {"--recipe", "r.json"},
                                             {"--sign-seed", "1"}}) {
    refused({"generate", "--prompt", "the", "--weights", out.c_str(), beside[0], beside[1]},
            {"--weights", beside[0]});
    ++cases;
  }
  EXPECT_EQ(cases, 6);
  refused({"generate", "--prompt", "the", "--method", "fp", "--activation-bits", "8"},
          {"--activation-bits", "fp"});
  refused({"generate", "--prompt", "the", "--method", "fp", "--override", "blk.0=a8"},
          {"--override", "fp"});
  refused({"perplexity", "--text", text.c_str(), "--context", "8", "--clip", "0.9"}, {"--method"});
  refused({"perplexity", "--text", text.c_str(), "--context", "8", "--method", "fp,fp+qfep",
           "--clip", "0.9"},
          {"--clip", "fp"});
  // Others take them.
  EXPECT_EQ(run({"perplexity", "--model", model.c_str(), "--text", text.c_str(), "--context", "8",
                 "--method", "fp,rrs", "--clip", "0.9"}),
            0);
}

TEST(Program, ASeedSamples) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string model = write_tiny_gguf(m, folder);
  const auto said = [&](const std::vector<const char*>& more) {
    std::vector<const char*> a{"generate", "--model", model.c_str(), "--prompt", "the", "-n", "30"};
    a.insert(a.end(), more.begin(), more.end());
    Said s;
    EXPECT_EQ(run(a, &s), 0);
    return s.out;
  };
  const std::string greedy = said({}), one = said({"--seed", "1"});
  EXPECT_EQ(said({"--temperature", "0"}), greedy);
  EXPECT_NE(one, greedy);
  EXPECT_NE(said({"--seed", "2"}), one);
  EXPECT_EQ(said({"--seed", "1", "--temperature", "1"}), one);
  EXPECT_EQ(said({"--top-p", "0.95"}), one);  // the defaults of both
  Said s;
  EXPECT_NE(run({"generate", "--model", model.c_str(), "--prompt", "the", "--seed", "3",
                 "--temperature", "0"},
                &s),
            0);
  expect_in(s.err, {"--temperature", "--seed"});
}

}  // namespace
