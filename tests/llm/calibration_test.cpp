// Calibration layer by layer: the same statistics as whole forward passes, for any number of
// threads, resumed behind any layer. (quantize_faults_test kills the program, and fills its disk.)

#include <filesystem>

#include "../../examples/llm/quantized_file.hpp"
#include "calibrated.hpp"
#include "run_llm.hpp"
#include "rrs/calibrate/statistics.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

std::size_t times_in(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

void expect_same(const Calibration& a, const Calibration& b) {
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    for (std::size_t i = 0; i < kInputsPerLayer; ++i) {
      EXPECT_EQ(a.input(l, i).tokens, b.input(l, i).tokens);
      EXPECT_EQ(a.input(l, i).maxima, b.input(l, i).maxima);
      EXPECT_EQ(a.input(l, i).relative, b.input(l, i).relative);
      EXPECT_EQ(a.input(l, i).token_maxima, b.input(l, i).token_maxima);
      EXPECT_EQ(a.input(l, i).sequence_starts, b.input(l, i).sequence_starts);
      EXPECT_EQ(a.hessian(l, i), b.hessian(l, i));
    }
  }
}

TEST(Calibration, IsWhatWholeForwardPassesShow) {
  const Calibrated c;
  const Calibration found = c.run(c.options());
  EXPECT_EQ(calibration_starts(c.tokens, c.options()), (std::vector<std::size_t>{0, 21, 42}));
  TinyEngine fp(c.path, "fp");
  std::vector<LayerStatistics> expected(c.model.config.layers);
  fp.engine->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                         std::int64_t cols) {
    ASSERT_TRUE(rrs::update_statistics(rrs::MatrixView<const float>(x, rows, cols), true,
                                       &expected[layer][input_of(linear)])
                    .ok());
  });
  for (const std::ptrdiff_t start : {0, 21, 42}) {
    Sequence sequence = fp.engine->start();
    fp.engine->forward({c.tokens.begin() + start, c.tokens.begin() + start + 30}, &sequence);
  }
  int inputs = 0;
  for (std::size_t l = 0; l < expected.size(); ++l) {
    for (std::size_t i = 0; i < kInputsPerLayer; ++i, ++inputs) {
      EXPECT_EQ(found.input(l, i).tokens, 90);
      EXPECT_EQ(found.input(l, i).maxima, expected[l][i].maxima);
      EXPECT_EQ(found.input(l, i).relative, expected[l][i].relative);
      EXPECT_EQ(found.hessian(l, i), expected[l][i].hessian);
      EXPECT_TRUE(found.input(l, i).hessian.empty());  // on disk
    }
  }
  EXPECT_EQ(inputs, 8);
}

TEST(Calibration, DoesNotDependOnThreads) {
  const Calibrated c;
  expect_same(c.run(c.options()), c.run(c.options(), 3));
}

TEST(Calibration, ResumesBehindEveryFinishedLayer) {
  const Calibrated c;
  const Calibration whole = c.run(c.options());
  int stops = 0;
  for (std::size_t stop = 1; stop < 180; stop += 29) {
    CalibrationOptions o = c.options();
    o.file = c.folder.file("statistics");
    o.progress = [&](std::size_t done, std::size_t) {
      if (done >= stop) throw std::runtime_error("killed");
    };
    EXPECT_FALSE(accepts([&] { c.run(o); }));
    o.progress = nullptr;
    o.resume = true;
    expect_same(whole, c.run(o));
    expect_same(whole, c.run(o));  // of a complete file
    ++stops;
  }
  EXPECT_EQ(stops, 7);
  // A record cut short, or changed, is a layer that was not finished.
  CalibrationOptions o = c.options();
  o.file = c.folder.file("statistics");
  o.resume = true;
  const std::string bytes = read_all(o.file);
  for (const std::size_t size : {bytes.size() - 1, bytes.size() / 2, std::size_t{20}}) {
    c.folder.write("statistics", bytes.substr(0, size));
    expect_same(whole, c.run(o));
  }
  std::string changed = bytes;
  changed[bytes.size() / 4] ^= 1;
  c.folder.write("statistics", changed);
  expect_same(whole, c.run(o));
  o.windows = 2;  // another calibration
  expect_in(refusal([&] { c.run(o); }), {"statistics", "another model, text or settings"});
  o.resume = false;
  EXPECT_EQ(c.run(o).tokens, 60u);
}

// An engine without linears of its own, which holds those of one layer at a time.
TEST(Calibration, LayersReadWhenEnteredGiveTheSame) {
  const Calibrated c;
  TinyEngine fp(c.path, "fp");
  CalibrationOptions o = c.options();
  const Calibration whole = c.run(o);
  Engine engine(std::make_shared<const ModelParts>(*fp.source, false), LinearStack(2),
                store_factory(make_method("fp", {}).kv(16)), *fp.pool);
  std::vector<std::weak_ptr<const Linear>> given;
  o.float_layer = [&](std::size_t layer) {
    for (const auto& linear : given) EXPECT_TRUE(linear.expired());  // of earlier layers
    const LayerLinears linears = float_layers(*fp.source)(layer);
    given.assign(linears.begin(), linears.end());
    return linears;
  };
  expect_same(whole, calibrate(&engine, c.tokens, o));
  for (const auto& linear : given) EXPECT_TRUE(linear.expired());
  Sequence sequence = engine.start();
  expect_in(refusal([&] { engine.forward(c.tokens, &sequence); }), {"blk.0.attn_q", "no such"});
  std::vector<float> logits(static_cast<std::size_t>(engine.logits_stride()));
  const std::vector<float> hidden(c.model.config.hidden);
  expect_in(refusal([&] { engine.logits(hidden.data(), 1, logits.data()); }), {"no head"});
}

TEST(Calibration, BadTextsAreRefusedByName) {
  const Calibrated c;
  CalibrationOptions o = c.options();
  expect_in(refusal([&] { calibration_starts({}, o); }), {"no tokens"});
  expect_in(refusal([&] { calibration_starts(std::vector<TokenId>(29, 1), o); }), {"29", "30"});
  expect_in(refusal([&] { calibration_starts(std::vector<TokenId>(90, 7), o); }), {"one token, 7"});
  std::vector<TokenId> with_bos(90, 7);
  with_bos[0] = 1;
  expect_in(refusal([&] { calibration_starts(with_bos, o); }), {"one token, 7"});
  with_bos[20] = 8;
  EXPECT_FALSE(calibration_starts(with_bos, o).empty());
  o.windows = 0;
  expect_in(refusal([&] { calibration_starts(c.tokens, o); }), {"windows"});
  o = c.options();
  EXPECT_EQ(calibration_starts({c.tokens.begin(), c.tokens.begin() + 31}, o).size(), 1u);
}

TEST(Calibration, MethodsThatNeedOneSayWhat) {
  const Calibrated c;
  const auto model = open_model(c.path);
  const ThreadPool pool(1);
  PrepareOptions options;
  expect_in(refusal([&] { prepare_linears(*model, make_method("rrs-gptq", {}), options, pool); }),
            {"rrs-gptq", "calibration"});
  CalibrationOptions o = c.options();
  o.hessians = false;
  const Calibration without = c.run(o);
  options.calibration = &without;
  expect_in(refusal([&] { prepare_linears(*model, make_method("rrs-gptq", {}), options, pool); }),
            {"Hessians"});
  expect_in(
      refusal([&] { prepare_linears(*model, make_method("quarot-zigzag", {}), options, pool); }),
      {"blk.0.attn_q", "zigzag", "block"});
}

TEST(Gptaq, StreamIsItsDefinition) {
  const Calibrated c;
  const Calibration calibration = c.run(c.options());
  const auto model = open_model(c.path);
  const ThreadPool pool(2);
  const auto parts = std::make_shared<const ModelParts>(*model);
  const LinearStack linears = prepare_linears(*model, make_method("fp", {}), {}, pool);
  const EngineFactory factory = [&](LinearStack with) {
    return std::make_unique<Engine>(parts, std::move(with),
                                    store_factory(make_method("fp", {}).kv(16)), pool);
  };
  std::vector<std::size_t> asked;
  const LayerSource source = [&](std::size_t layer) {
    asked.push_back(layer);
    return linears[layer];
  };
  QuantizedStream stream(factory, source, linears.size(), calibration.windows);
  for (std::size_t i = 0; i < kInputsPerLayer; ++i) {  // nothing is quantized yet
    const StreamStatistics s = stream.statistics(0, i);
    EXPECT_EQ(s.hessian, calibration.hessian(0, i));
    for (const double d : s.difference) ASSERT_EQ(d, 0.0);
  }
  LinearStack mixed = linears;
  const LinearStack rtn = prepare_linears(*model, make_method("rtn", {}), {}, pool);
  for (const std::size_t l : {kQ, kUp}) {
    mixed[0][l] = rtn[0][l];
    stream.set_linear(0, l, rtn[0][l]);
  }
  const StreamStatistics found = stream.statistics(1, kInputDown);
  EXPECT_EQ(asked, (std::vector<std::size_t>{0, 1}));
  std::vector<std::vector<float>> inputs[2];
  for (const bool quantized : {false, true}) {
    const auto engine = factory(quantized ? mixed : linears);
    engine->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                        std::int64_t cols) {
      if (layer == 1 && linear == kDown) inputs[quantized ? 1 : 0].emplace_back(x, x + rows * cols);
    });
    for (const std::vector<TokenId>& w : calibration.windows) {
      Sequence sequence = engine->start();
      engine->forward(w, &sequence);
    }
  }
  const std::size_t k = c.model.config.ffn;
  double scale = 0.0;
  for (const double d : found.difference) scale = (std::max)(scale, std::fabs(d));
  EXPECT_GT(scale, 0.0);
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j < k; ++j) {
      double expected = 0.0;
      for (std::size_t w = 0; w < calibration.windows.size(); ++w) {
        const std::vector<float>&fp = inputs[0][w], &q = inputs[1][w];
        for (std::size_t t = 0; t < fp.size() / k; ++t) {
          expected += (static_cast<double>(fp[t * k + i]) - static_cast<double>(q[t * k + i])) *
                      static_cast<double>(q[t * k + j]);
        }
      }
      ASSERT_NEAR(found.difference[i * k + j], expected, 1e-4 * scale);
    }
  }
}

TEST(Gptaq, RunsThroughTheSessionForAnyNumberOfThreads) {
  const Calibrated c;
  std::vector<std::vector<std::vector<float>>> logits;
  for (const char* name : {"rrs-gptaq", "rrs-gptaq", "rrs-gptq"}) {
    SessionOptions o;
    o.model = c.path;
    o.threads = logits.empty() ? 1 : 2;
    o.calibration_windows = 3;
    Session session(o);
    session.set_calibration_tokens(c.tokens);
    Contestant contestant = session.prepare(make_method(name, {}));
    Sequence sequence = contestant.engine->start();
    const float* hidden = contestant.engine->forward(c.tokens, &sequence);
    logits.emplace_back();
    logits.back().emplace_back(hidden, hidden + c.tokens.size() * c.model.config.hidden);
  }
  EXPECT_EQ(logits[0], logits[1]);  // whatever the number of threads
  EXPECT_NE(logits[0], logits[2]);
}

// Methods of one run share weights, but only those that are the same: statistics behind a prefix,
// or another damping, make others.
TEST(Calibration, AMethodInAListIsTheMethodAlone) {
  const Calibrated c;
  const char* names[] = {"rrs-gptq",
                         "rrs-gptq+qfep@qfep-tokens=4:9:20",
                         "rrs-gptq@damping=0.9",
                         "rrs+aser@rank=8@outliers=0",
                         "rrs+aser+qfep@rank=8@outliers=0@qfep-tokens=4:9:20",
                         "rrs+aser@rank=8@outliers=0@damping=0.9",
                         "smoothquant-w8a8@alpha=search",
                         "smoothquant-w8a8+qfep@alpha=search@qfep-tokens=4:9:20"};
  const auto opened = [&] {
    SessionOptions o;
    o.model = c.path;
    o.calibration_windows = 3;
    auto session = std::make_unique<Session>(o);
    session->set_calibration_tokens(c.tokens);
    return session;
  };
  const auto hidden_of = [&](Session* session, const char* name) {
    Contestant contestant = session->prepare(make_method(name, {}));
    Sequence sequence = contestant.engine->start();
    const float* h = contestant.engine->forward(c.tokens, &sequence);
    return std::vector<float>(h, h + c.tokens.size() * c.model.config.hidden);
  };
  const auto list = opened();
  std::vector<std::vector<float>> all;
  for (const char* name : names) {
    all.push_back(hidden_of(list.get(), name));
    EXPECT_EQ(all.back(), hidden_of(opened().get(), name)) << name;
  }
  for (std::size_t i = 1; i < all.size(); ++i) EXPECT_NE(all[i], all[i - 1]) << names[i];
}

// A text of fewer different tokens than channels: layer 0 has no positive definite Hessian without
// damping. Every command that prepares weights says, once, what it raised.
TEST(Calibration, EveryCommandSaysWhereDampingWasRaised) {
  const QuantizeProgram p;
  const std::string recipe = p.c.folder.file("r.json");
  const std::vector<std::vector<const char*>> commands{
      {"quantize", "--calibration-windows", "1", "--out", p.out.c_str()},
      {"perplexity", "--calibration-windows", "1", "--text", p.text.c_str(), "--windows", "1",
       "--context", "32"},
      {"generate", "--calibration-windows", "1", "--prompt", "the", "-n", "1"},
      {"plan", "--calibration-windows", "1", "--budget", "5", "--bits", "8", "--windows", "1",
       "--context", "24", "--held-out-windows", "1", "--held-out-context", "24", "--out",
       recipe.c_str()}};
  for (std::vector<const char*> command : commands) {
    const std::string name = command[0];
    for (const char* a : {"--model", p.c.path.c_str(), "--threads", "1", "--calibration",
                          p.text.c_str(), "--method"}) {
      command.push_back(a);
    }
    const auto said_with = [&](const char* method) {
      std::vector<const char*> all = command;
      all.push_back(method);
      Said said;
      EXPECT_EQ(run(all, &said), 0) << name << ": " << said.err;
      return name == "quantize" ? said.out : said.err;
    };
    // q, k and v share the factor, which is made for q.
    const std::string line = "blk.0.attn_q: damping raised to ";
    const std::string raised = said_with("rtn-gptq@damping=1e-30");
    EXPECT_EQ(times_in(raised, line), 1u) << name << ": " << raised;
    EXPECT_EQ(times_in(said_with("rtn-gptq"), "raised"), 0u) << name;
    // Low-rank branches are made one by one.
    const std::string branch = "blk.0.attn_k: ASER: damping raised to ";
    const std::string aser = said_with("rtn+aser@rank=4@outliers=0@damping=1e-30");
    EXPECT_EQ(times_in(aser, branch), 1u) << name << ": " << aser;
  }
}

TEST(Calibration, FinishedLinearsAreTakenFromTheirFile) {
  const QuantizeProgram p;
  const auto model = open_model(p.c.path);
  const ThreadPool pool(1);
  const Calibration calibration = p.c.run(p.c.options());
  const Method method = make_method("rrs-gptq", {});
  PrepareOptions options;
  options.calibration = &calibration;
  write_quantized(*model, method, options, pool, rrs_examples::AtomicFile(p.out));
  const std::string expected = read_all(p.out);
  options.unfinished = p.c.folder.file("linears");
  for (const std::size_t stop : {1u, 6u, 13u}) {
    options.resume = false;
    options.progress = [&](std::size_t done, std::size_t) {
      if (done == stop) throw std::runtime_error("killed");
    };
    EXPECT_FALSE(accepts(
        [&] { write_quantized(*model, method, options, pool, rrs_examples::AtomicFile(p.out)); }));
    options.progress = nullptr;
    options.resume = true;
    write_quantized(*model, method, options, pool, rrs_examples::AtomicFile(p.out));
    EXPECT_EQ(read_all(p.out), expected);
    std::filesystem::resize_file(options.unfinished,
                                 std::filesystem::file_size(options.unfinished) - 1);
    write_quantized(*model, method, options, pool, rrs_examples::AtomicFile(p.out));
    EXPECT_EQ(read_all(p.out), expected);
  }
  expect_in(refusal([&] {
              write_quantized(*model, make_method("rrs-gptq", {{"", "clip", "0.9"}}), options, pool,
                              rrs_examples::AtomicFile(p.out));
            }),
            {"linears", "another model, method or calibration"});
}

TEST(Calibration, BadDataLeavesNothing) {
  const QuantizeProgram p;
  const std::vector<std::string> files = p.c.folder.list();
  std::string same;
  for (int i = 0; i < 5000; ++i) same += "z";
  for (const std::string& content : {std::string(), std::string(" the"), same}) {
    const std::string bad = p.c.folder.write("bad.txt", content);
    EXPECT_NE(p.quantize(bad, false), 0);
    std::filesystem::remove(bad);
    EXPECT_EQ(p.c.folder.list(), files);
  }
}

}  // namespace
