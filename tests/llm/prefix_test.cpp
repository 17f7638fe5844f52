// QFeP's prefix in the engine, the cache and the file; QFeM's and QFeP's searches on tiny models.

#include "../../examples/llm/quantized_file.hpp"
#include "engine_support.hpp"
#include "run_llm.hpp"
#include "support/each_isa.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

constexpr Architecture kArchitectures[] = {Architecture::kLlama, Architecture::kQwen2,
                                           Architecture::kQwen3};

std::vector<TokenId> prefix_tokens(const TinyModel& m) {
  return {static_cast<TokenId>(m.vocabulary.bos), 5, 104};
}

std::shared_ptr<const Prefix> tiny_prefix(const std::string& path, const TinyModel& m) {
  TinyEngine fp(path, "fp");
  return std::make_shared<const Prefix>(capture_prefix(fp.engine.get(), prefix_tokens(m)));
}

TEST(Prefix, EqualsFeedingItsTokensToTheFloatModel) {
  int cases = 0;
  for (const Architecture architecture : kArchitectures) {
    const TinyModel m = tiny_model(architecture, true);
    const TempFolder folder;
    const std::string path = write_tiny_gguf(m, folder);
    const std::vector<TokenId> tokens = random_tokens(m, 25, 5);
    std::vector<TokenId> fed = prefix_tokens(m);
    fed.insert(fed.end(), tokens.begin(), tokens.end());
    rrs_test::each_isa([&](const rrs::KernelTable& table) {
      TinyEngine fp(path, "fp");
      // The same calls: a BLAS need not give a row the same bits among other rows.
      auto expected = fp.logits(fed, {3, 25});
      expected.erase(expected.begin(), expected.begin() + 3);
      const auto without = fp.logits(tokens);
      fp.engine->set_prefix(tiny_prefix(path, m));
      EXPECT_EQ(fp.logits(tokens), expected) << table.name;
      EXPECT_NE(without, expected);
      fp.engine->set_prefix(nullptr);
      EXPECT_EQ(fp.logits(tokens), without);
      ++cases;
    });
  }
  EXPECT_GE(cases, 3);
}

TEST(Prefix, PromptAtOnceEqualsTokenByToken) {
  int cases = 0;
  for (const Architecture architecture : kArchitectures) {
    const TinyModel m = tiny_model(architecture, false);
    const TempFolder folder;
    const std::string path = write_tiny_gguf(m, folder);
    const std::vector<TokenId> tokens = random_tokens(m, 29, 7);
    const auto prefix = tiny_prefix(path, m);
    for (const char* method : {"rrs", "rrs_w4a8", "rrs_w4a16", "quarot"}) {
      for (const int kv : {16, 8, 4}) {
        TinyEngine tiny(path, method, kv);
        const auto without = tiny.logits(tokens);
        tiny.engine->set_prefix(prefix);
        const auto whole = tiny.logits(tokens);
        EXPECT_EQ(tiny.logits(tokens, std::vector<std::size_t>(29, 1)), whole)
            << method << " kv " << kv;
        EXPECT_EQ(tiny.logits(tokens, {5, 1, 16}), whole) << method << " kv " << kv;
        EXPECT_NE(whole, without);
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 36);
}

TEST(Prefix, LevelsAndThreadsChangeNoBit) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  const std::vector<TokenId> tokens = random_tokens(m, 20, 9);
  const auto prefix = tiny_prefix(path, m);
  const auto logits = [&](int kv, int threads) {
    TinyEngine tiny(path, "rrs", kv, threads);
    tiny.engine->set_prefix(prefix);
    return tiny.logits(tokens);
  };
  for (const int kv : {16, 8, 4}) {
    const auto expected = logits(kv, 1);
    EXPECT_EQ(logits(kv, 3), expected) << kv;
    rrs_test::each_isa([&](const rrs::KernelTable& table) {
      EXPECT_EQ(logits(kv, 1), expected) << table.name << " kv " << kv;
    });
  }
}

TEST(Prefix, StaysInSixteenBitsInNarrowCaches) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const AttentionShape shape(m.config);
  const std::int64_t width = shape.kv_heads * shape.head_size, heads = shape.heads;
  Random random(3);
  std::vector<float> k(static_cast<std::size_t>(5 * width)), v(k);
  std::vector<float> q(static_cast<std::size_t>(heads * shape.head_size));
  for (float& x : k) x = random.real();
  for (float& x : v) x = random.real();
  for (float& x : q) x = random.real();
  const ThreadPool pool(1);
  const auto output = [&](KvStore* store) {
    std::vector<float> out(q.size());
    store->attend(q.data(), 1, out.data(), pool);
    return out;
  };
  const auto wide = make_f16_store(shape);
  wide->append(k.data(), v.data(), 5);
  const std::vector<float> expected = output(wide.get());
  const auto worst = [&](const std::vector<float>& out) {
    double most = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double d = std::abs(static_cast<double>(out[i]) - static_cast<double>(expected[i]));
      if (!(d <= most)) most = d;
    }
    return most;
  };
  for (const int bits : {8, 4}) {
    const rrs::KvScheme scheme = make_method("rrs", {}).kv(bits);
    const auto exact = make_quantized_store(shape, scheme);
    exact->append_exact(k.data(), v.data(), 5);
    const auto narrow = make_quantized_store(shape, scheme);
    narrow->append(k.data(), v.data(), 5);
    EXPECT_LT(worst(output(exact.get())), 2e-3) << bits;  // f16 of values below 1, rotated
    EXPECT_GT(worst(output(narrow.get())), worst(output(exact.get()))) << bits;
    const auto fork = exact->fork();
    EXPECT_EQ(output(fork.get()), output(exact.get()));
    fork->append(k.data(), v.data(), 2);
    EXPECT_EQ(fork->length(), 7);
    EXPECT_EQ(exact->length(), 5);
  }
}

TEST(Prefix, SequencesShareItWithoutDisturbingEachOther) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  const auto prefix = tiny_prefix(path, m);
  for (const int kv : {16, 4}) {
    TinyEngine tiny(path, "rrs", kv);
    tiny.engine->set_prefix(prefix);
    const std::vector<TokenId> a = random_tokens(m, 9, 1), b = random_tokens(m, 9, 2);
    const auto expected_a = tiny.logits(a), expected_b = tiny.logits(b);
    Sequence first = tiny.engine->start(), second = tiny.engine->start();
    EXPECT_EQ(first.length(), 3);
    std::vector<float> out(static_cast<std::size_t>(tiny.engine->logits_stride()));
    const auto step = [&](TokenId token, Sequence* s) {
      const float* hidden = tiny.engine->forward({token}, s);
      tiny.engine->logits(hidden, 1, out.data());
      return std::vector<float>(out.begin(),
                                out.begin() + static_cast<std::ptrdiff_t>(m.config.vocab));
    };
    for (std::size_t t = 0; t < a.size(); ++t) {
      EXPECT_EQ(step(a[t], &first), expected_a[t]) << kv;
      EXPECT_EQ(step(b[t], &second), expected_b[t]) << kv;
    }
  }
}

TEST(Prefix, BadPrefixesAreRefusedByName) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  TinyEngine tiny(path, "fp");
  const auto capture = [&](const std::vector<TokenId>& tokens) {
    return refusal([&] { capture_prefix(tiny.engine.get(), tokens); });
  };
  expect_in(capture({}), {"prefix", "no tokens"});
  expect_in(capture(std::vector<TokenId>(128, 1)), {"128 tokens", "context of 128"});
  expect_in(capture({1, static_cast<TokenId>(m.config.vocab)}),
            {"token " + std::to_string(m.config.vocab), "vocabulary"});
  expect_in(capture({-1}), {"token -1"});
  Prefix wrong = *tiny_prefix(path, m);
  wrong.layers.pop_back();
  const auto set = [&](const Prefix& p) {
    return refusal([&] { tiny.engine->set_prefix(std::make_shared<const Prefix>(p)); });
  };
  expect_in(set(wrong), {"1 layers, not 2"});
  wrong = *tiny_prefix(path, m);
  wrong.layers[1].v.pop_back();
  expect_in(set(wrong), {"layer 1"});
  wrong = *tiny_prefix(path, m);
  wrong.layers[0].k[3] = std::numeric_limits<float>::quiet_NaN();
  expect_in(set(wrong), {"layer 0", "not finite"});
  EXPECT_EQ(tiny.engine->prefix(), nullptr);
  tiny.engine->set_prefix(tiny_prefix(path, m));
  Sequence sequence = tiny.engine->start();
  expect_in(refusal([&] { tiny.engine->forward(random_tokens(m, 126, 1), &sequence); }),
            {"129", "128", "a prefix takes 3"});
  EXPECT_NO_THROW(tiny.engine->forward(random_tokens(m, 125, 1), &sequence));
}

TEST(Prefix, CalibrationDoesNotSeeIt) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string path = write_tiny_gguf(m, folder);
  TinyEngine fp(path, "fp");
  const std::vector<TokenId> tokens = random_tokens(m, 12, 4);
  std::vector<float> expected;  // of ffn_down's input in layer 1, over the tokens alone
  Sequence sequence = fp.engine->start();
  fp.engine->forward(prefix_tokens(m), &sequence);
  fp.engine->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                         std::int64_t cols) {
    if (layer != 1 || linear != kDown) return;
    expected.resize(static_cast<std::size_t>(cols));
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      float& most = expected[static_cast<std::size_t>(i % cols)];
      most = (std::max)(most, std::fabs(x[i]));
    }
  });
  fp.engine->forward(tokens, &sequence);
  fp.engine->observe(nullptr);
  fp.engine->set_prefix(tiny_prefix(path, m));
  CalibrationOptions options;
  options.windows = 1;
  options.context = tokens.size();
  const Calibration c = calibrate(fp.engine.get(), tokens, options);
  EXPECT_EQ(c.tokens, 12u);
  EXPECT_EQ(c.input(1, kInputDown).maxima, expected);
  const SpikeMeasurement spikes = measure_spikes(fp.engine.get(), {tokens});
  EXPECT_EQ(spikes.scales[7][0].size(), 12u);  // blk.1.ffn_down
  EXPECT_EQ(*std::max_element(spikes.scales[7][0].begin(), spikes.scales[7][0].end()),
            *std::max_element(expected.begin(), expected.end()));
}

struct Written {
  TempFolder folder;
  TinyModel model = tiny_model(Architecture::kLlama, true);
  std::string path = write_tiny_gguf(model, folder);
  std::string out = folder.file("out.safetensors");
  std::shared_ptr<const Prefix> prefix = tiny_prefix(path, model);
  ThreadPool pool{1};

  void write(const std::string& method) {
    const auto source = open_model(path);
    PrepareOptions options;
    options.prefix = prefix;
    write_quantized(*source, make_method(method, {}), options, pool, rrs_examples::AtomicFile(out));
  }
};

TEST(Prefix, QuantizedFilesKeepIt) {
  Written w;
  const std::vector<TokenId> tokens = random_tokens(w.model, 20, 3);
  for (const char* method : {"rrs+qfep", "rrs_published+qfep"}) {
    w.write(method);
    for (const int kv : {16, 4}) {
      TinyEngine tiny(w.path, method, kv);
      tiny.engine->set_prefix(w.prefix);
      const auto expected = tiny.logits(tokens);
      QuantizedFile file = open_quantized(w.out, *tiny.source);
      ASSERT_NE(file.prefix, nullptr);
      EXPECT_EQ(file.prefix->tokens, w.prefix->tokens);
      tiny.engine = std::make_unique<Engine>(std::make_shared<const ModelParts>(*tiny.source),
                                             std::move(file.linears),
                                             store_factory(file.method.kv(kv)), *tiny.pool);
      tiny.engine->set_prefix(file.prefix);
      EXPECT_EQ(tiny.logits(tokens), expected) << method << " kv " << kv;
    }
  }
}

TEST(Prefix, AnotherModelOrAChangedPrefixIsRefused) {
  Written w;
  w.write("rrs+qfep");
  const auto source = open_model(w.path);
  const TempFolder other_folder;
  const auto other =
      open_model(write_tiny_gguf(tiny_model(Architecture::kLlama, true, 2), other_folder));
  expect_in(refusal([&] { open_quantized(w.out, *other); }), {"'model'"});
  const rrs_examples::Safetensors file(w.out);
  const auto rewritten = [&](const std::string& drop, auto&& change) {
    std::vector<rrs_examples::Tensor> tensors;
    std::vector<std::string> bytes;
    bytes.reserve(file.tensors().size());
    for (rrs_examples::Tensor t : file.tensors()) {
      if (t.name.rfind("__pad", 0) == 0 || t.name == drop) continue;
      bytes.emplace_back(reinterpret_cast<const char*>(t.data), t.size);
      change(t.name, &bytes.back());
      t.data = reinterpret_cast<const std::byte*>(bytes.back().data());
      tensors.push_back(t);
    }
    const std::string path = w.folder.file("changed.safetensors");
    rrs_examples::write_safetensors(path, tensors, file.metadata());
    return path;
  };
  const auto nothing = [](const std::string&, std::string*) {};
  EXPECT_TRUE(accepts([&] { open_quantized(rewritten("", nothing), *source); }));
  int cases = 0;
  for (const char* name : {"prefix.tokens", "prefix.k", "prefix.v"}) {
    expect_in(refusal([&] { open_quantized(rewritten(name, nothing), *source); }), {name});
    const auto flip = [&](const std::string& tensor, std::string* bytes) {
      if (tensor == name) (*bytes)[bytes->size() / 2 & ~std::size_t{3}] ^= 1;
    };
    expect_in(refusal([&] { open_quantized(rewritten("", flip), *source); }), {"'prefix'"});
    ++cases;
  }
  EXPECT_EQ(cases, 3);
  w.prefix = nullptr;
  expect_in(refusal([&] { w.write("rrs+qfep"); }), {"rrs+qfep", "prefix"});
}

// A session over a tiny model, with a text to calibrate on.
struct Tiny {
  TempFolder folder;
  TinyModel model = tiny_model(Architecture::kLlama, true);
  std::vector<std::string> log;
  std::unique_ptr<Session> session;

  explicit Tiny(bool bos = true) {
    SessionOptions o;
    o.model = write_tiny_gguf(model, folder);
    o.threads = 1;
    o.spikes = SpikeOptions{3, 40, 2};
    o.spike_log = [this](const std::string& line) { log.push_back(line); };
    session = std::make_unique<Session>(o);
    session->set_calibration_tokens(random_tokens(model, 200, 8));
    EXPECT_EQ(session->model().config().bos.has_value(), bos);
  }
};

TEST(Spikes, TheSearchedPrefixIsBosAndTwoTokensOfTheText) {
  Tiny t;
  const Method method = make_method("rrs+qfep", {});
  const auto prefix = t.session->prefix(method);
  ASSERT_EQ(prefix->tokens.size(), 3u);
  EXPECT_EQ(prefix->tokens[0], static_cast<TokenId>(t.model.vocabulary.bos));
  EXPECT_EQ(t.session->prefix(method), prefix);  // searched once
  std::string all;
  for (const std::string& line : t.log) all += line + "\n";
  expect_in(all, {"without a prefix", "score", "ratio",
                  "QFeP: prefix " + tokens_text(prefix->tokens), "behind the prefix"});
  EXPECT_EQ(t.session->prefix(make_method("rrs", {})), nullptr);
  const auto named = t.session->prefix(make_method("rrs+qfep@qfep-tokens=4:9", {}));
  EXPECT_EQ(named->tokens, (std::vector<TokenId>{4, 9}));
  expect_in(refusal([&] { t.session->prefix(make_method("rrs+qfep@qfep-tokens=99999", {})); }),
            {"token 99999", "vocabulary"});
}

TEST(Spikes, ExemptModulesAreNamedInTheSettingsAndRunWide) {
  Tiny t;
  int cases = 0;
  for (const char* name :
       {"rrs+qfem@qfem-tolerance=0.0001", "rrs_published+qfem@qfem-bits=8",
        "smoothquant_w8a8_tensor+qfem+qfep", "rrs-gptaq+qfem@qfem-tolerance=0.0001"}) {
    const Method asked = make_method(name, {});
    const Method m = t.session->resolve(asked);
    Contestant c = t.session->prepare(asked);
    std::size_t exempt = 0, wide = 0;
    for (const Setting& s : m.settings) exempt += s.key == "exempt" ? 1u : 0u;
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
        const bool one =
            m.plan(layer, l).scheme.activation.bits != asked.plan(layer, l).scheme.activation.bits;
        wide += one ? 1u : 0u;
        if (!one) continue;
        const std::string precision = c.engine->linears()[layer][l]->info().precision;
        expect_in(precision, {asked.qfem_bits == 8 ? "a8" : "a16"});
      }
    }
    EXPECT_EQ(wide, exempt) << name;
    // The linears are those of the search, and run as the resolved method's own would.
    const auto hidden = [&](Engine* engine) {
      Sequence sequence = engine->start();
      const std::vector<TokenId> text = random_tokens(t.model, 20, 9);
      const float* h = engine->forward(text, &sequence);
      return std::vector<float>(h, h + text.size() * t.model.config.hidden);
    };
    Method named = m;
    named.qfem = false;
    Tiny fresh;
    Contestant own = fresh.session->prepare(named);
    EXPECT_TRUE(hidden(own.engine.get()) == hidden(c.engine.get())) << name;
    expect_in(t.log.back() + t.log[t.log.size() / 2] + c.scheme, {"QFeM"});
    ++cases;
  }
  EXPECT_EQ(cases, 4);
}

TEST(Spikes, PerplexityOfWindowsIsThePerplexityTables) {
  Tiny t;
  Contestant fp = t.session->prepare(make_method("fp", {}), 16);
  const std::vector<TokenId> tokens = random_tokens(t.model, 60, 6);
  const auto windows = calibration_windows(tokens, 2, 30);
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[1], std::vector<TokenId>(tokens.begin() + 15, tokens.begin() + 45));
  const double found = windows_perplexity(fp.engine.get(), {windows[0]}, t.session->pool());
  std::vector<Contestant> contestants;
  contestants.push_back(std::move(fp));
  contestants.push_back(t.session->prepare(make_method("fp+qfep", {}), 16));
  const auto records =
      measure_perplexity(contestants, windows[0], 1, 30, t.session->pool(), nullptr);
  EXPECT_NEAR(found, records[0].perplexity, 1e-9 * found);
  EXPECT_NE(records[1].perplexity, records[0].perplexity);
  EXPECT_GT(records[1].kld_mean, 0.0);
  EXPECT_EQ(calibration_windows(tokens, 4, 1000).size(), 1u);
  EXPECT_FALSE(accepts([] { calibration_windows({1}, 4, 10); }));
}

TEST(Spikes, CommandsTakeThem) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string model = write_tiny_gguf(m, folder);
  std::string words;
  for (int i = 0; i < 120; ++i) words += "the hello 123 abc's (he ";
  const std::string text = folder.write("text.txt", words);
  const std::string out = folder.file("out.safetensors");
  const char* method = "smoothquant_w8a8_tensor+qfem+qfep";
  ASSERT_EQ(run({"perplexity", "--model", model.c_str(), "--text", text.c_str(), "--context", "32",
                 "--windows", "2", "--method", method, "--spike-log", "--threads", "1",
                 "--calibration", text.c_str()}),
            0);
  ASSERT_EQ(run({"quantize", "--model", model.c_str(), "--method", method, "--calibration",
                 text.c_str(), "--out", out.c_str(), "--threads", "1"}),
            0);
  for (const char* kv : {"16", "4"}) {
    EXPECT_EQ(run({"generate", "--model", model.c_str(), "--weights", out.c_str(), "--prompt",
                   "the", "--n", "4", "--kv", kv, "--threads", "1"}),
              0);
  }
  EXPECT_NE(run({"perplexity", "--model", model.c_str(), "--text", text.c_str(), "--context", "128",
                 "--windows", "1", "--method", "rrs+qfep@qfep-tokens=1:2:3", "--threads", "1"}),
            0);  // 3 more than the context
  EXPECT_EQ(run({"quantize", "--model", model.c_str(), "--method", "rrs+qfep@qfep-tokens=1:2",
                 "--out", folder.file("x").c_str(), "--threads", "1"}),
            0);  // needs none
}

// --calibration-windows is the number of windows of every search, and refused where none is made.
TEST(Spikes, CalibrationWindowsGovernTheSearches) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string model = write_tiny_gguf(m, folder);
  std::string words;
  for (int i = 0; i < 300; ++i) words += "the hello " + std::to_string(i * 7919 % 1000) + " abc's ";
  const std::string text = folder.write("text.txt", words);
  const auto said = [&](const char* method, std::vector<const char*> more, int code) {
    std::vector<const char*> all{"perplexity", "--model",       model.c_str(), "--text",
                                 text.c_str(), "--context",     "32",          "--windows",
                                 "1",          "--method",      method,        "--threads",
                                 "1",          "--calibration", text.c_str()};
    all.insert(all.end(), more.begin(), more.end());
    Said s;
    EXPECT_EQ(run(all, &s), code) << method << ": " << s.err;
    return s.out + s.err;
  };
  const char* qfem = "smoothquant_w8a8_tensor+qfem";
  const std::string log = "windows of calibration text";
  expect_in(said(qfem, {"--spike-log"}, 0), {"on 2 " + log});
  expect_in(said(qfem, {"--spike-log", "--calibration-windows", "12"}, 0), {"on 3 " + log});
  const std::string one = said("rrs+qfep", {"--spike-log", "--calibration-windows", "1"}, 0),
                    eight = said("rrs+qfep", {"--spike-log", "--calibration-windows", "8"}, 0);
  const auto scores = [](const std::string& s) { return s.substr(0, s.find("QFeP:")); };
  EXPECT_EQ(scores(said("rrs+qfep", {"--spike-log"}, 0)), scores(eight));
  EXPECT_NE(scores(one), scores(eight));
  const std::vector<const char*> windows{"--calibration-windows", "2"};
  for (const char* method : {"rrs", "rrs,quarot", "fp", "rrs+qfep@qfep-tokens=4:9"}) {
    expect_in(said(method, windows, 1), {"--calibration-windows", "no method takes it"});
  }
  for (const char* method : {"rrs,rrs+qfep", "rrs-gptq", "rrs-zigzag"}) said(method, windows, 0);
}

}  // namespace
