// The published protocol against sums in double, and what a record says of every method.

#include <cmath>
#include <map>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include "../../examples/llm/perplexity.hpp"
#include "../../examples/llm/progress.hpp"
#include "engine_support.hpp"
#include "support/each_isa.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

struct Contest {
  TempFolder folder;
  TinyModel model = tiny_model(Architecture::kLlama, true);
  std::unique_ptr<Session> session;

  explicit Contest(int kv_bits = 16) {
    SessionOptions options;
    options.model = write_tiny_gguf(model, folder);
    options.threads = 2;
    options.kv.bits = kv_bits;
    session = std::make_unique<Session>(options);
    session->set_calibration_tokens(random_tokens(model, 64, 21));
  }

  std::vector<MethodRecord> run(const std::vector<std::string>& methods,
                                const std::vector<TokenId>& tokens, std::size_t windows,
                                std::size_t context) {
    std::vector<Contestant> contestants;
    contestants.push_back(session->prepare(make_method("fp", {}), 16));
    for (const std::string& name : methods) {
      contestants.push_back(session->prepare(make_method(name, {})));
    }
    return measure_perplexity(contestants, tokens, windows, context, session->pool(), nullptr);
  }
};

TEST(Perplexity, IsThePublishedProtocol) {
  Contest contest;
  const std::size_t context = 24;
  const std::vector<TokenId> tokens = random_tokens(contest.model, 3 * context + 11, 4);
  ASSERT_EQ(window_count(tokens.size(), context, 0), 3u);
  ASSERT_EQ(window_count(tokens.size(), context, 2), 2u);
  expect_in(refusal([&] { window_count(23, 24, 0); }), {"23", "24"});
  const MethodRecord r = contest.run({}, tokens, 3, context).front();
  std::vector<double> means;
  for (std::size_t w = 0; w < 3; ++w) {
    const std::vector<TokenId> window(
        tokens.begin() + static_cast<std::ptrdiff_t>(w * context),
        tokens.begin() + static_cast<std::ptrdiff_t>((w + 1) * context));
    const std::vector<Row> logits = reference_logits(contest.model, window);
    double nll = 0.0;
    for (std::size_t t = 0; t + 1 < context; ++t) {
      double sum = 0.0;
      for (const double l : logits[t]) sum += std::exp(l);
      nll += std::log(sum) - logits[t][static_cast<std::size_t>(window[t + 1])];
    }
    means.push_back(nll / static_cast<double>(context - 1));
  }
  const double mean = (means[0] + means[1] + means[2]) / 3.0;
  double squares = 0.0;
  for (const double m : means) squares += (m - mean) * (m - mean);
  EXPECT_NEAR(r.perplexity, std::exp(mean), 1e-3 * std::exp(mean));
  EXPECT_NEAR(r.standard_error, std::exp(mean) * std::sqrt(squares / 6.0), 1e-2 * r.perplexity);
  EXPECT_GT(r.standard_error, 0.0);
  EXPECT_EQ(r.windows, 3u);
  EXPECT_EQ(r.ratio, 1.0);
}

TEST(Perplexity, ComparisonWithItselfIsZeroAndWithNoiseIsNot) {
  Contest contest;
  const std::vector<TokenId> tokens = random_tokens(contest.model, 96, 8);
  const auto records = contest.run({"fp", "rtn"}, tokens, 2, 48);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[1].perplexity, records[0].perplexity);
  EXPECT_NEAR(records[1].kld_mean, 0.0, 1e-7);
  EXPECT_EQ(records[1].top1, 1.0);
  EXPECT_GT(records[2].kld_mean, 1e-4);
  EXPECT_GT(records[2].kld_p99, records[2].kld_mean);
  EXPECT_LT(records[2].top1, 1.0);
  EXPECT_NEAR(records[2].ratio, records[2].perplexity / records[0].perplexity, 1e-12);
}

// A cache that is asked for shows in the record and its hash; one that is only named does not.
TEST(Perplexity, TheCacheIsPartOfTheRecord) {
  const auto record = [](int bits, int value_bits, std::optional<int> group) {
    Contest contest;
    KvChoice choice;
    choice.bits = bits;
    choice.value_bits = value_bits;
    choice.group = group;
    std::vector<Contestant> all;
    all.push_back(contest.session->prepare(make_method("fp", {}), 16));
    all.push_back(contest.session->prepare(make_method("rrs", {}), choice));
    const std::vector<TokenId> tokens = random_tokens(contest.model, 40, 2);
    const auto records = measure_perplexity(all, tokens, 1, 40, contest.session->pool(), nullptr);
    expect_in(records_json(records),
              {"\"kv_value_bits\": " + std::to_string(value_bits == 0 ? bits : value_bits)});
    if (value_bits != 0 && value_bits != bits) {
      expect_in(records_table(records),
                {" " + std::to_string(bits) + "/" + std::to_string(value_bits) + " "});
    }
    return records[1];
  };
  const MethodRecord plain = record(4, 0, std::nullopt);
  const MethodRecord named = record(4, 4, 32);
  EXPECT_EQ(named.config_hash, plain.config_hash);
  EXPECT_EQ(named.perplexity, plain.perplexity);
  std::set<std::string> hashes{plain.config_hash};
  std::set<double> perplexities{plain.perplexity};
  // 16 bits of keys and values, with quantized counterparts, run on the library's cache, too.
  for (const MethodRecord& r :
       {record(4, 0, 16), record(4, 0, rrs::kKvTokenGroup), record(4, 8, std::nullopt),
        record(8, 4, std::nullopt), record(4, 16, std::nullopt), record(16, 4, std::nullopt),
        record(16, 0, std::nullopt)}) {
    hashes.insert(r.config_hash);
    perplexities.insert(r.perplexity);
  }
  EXPECT_EQ(hashes.size(), 8u);
  EXPECT_EQ(perplexities.size(), 7u);  // the tiny model's heads are groups of 16 either way
}

TEST(Perplexity, EveryMethodRunsAllItsLinears) {
  int methods = 0;
  for (const int kv : {16, 4}) {
    Contest contest(kv);
    std::vector<std::string> names;
    for (const std::string& name : method_names()) {
      if (name != "fp" && name != "q4_0-native") names.push_back(name);
    }
    const std::vector<TokenId> tokens = random_tokens(contest.model, 40, 2);
    const auto records = contest.run(names, tokens, 1, 40);
    ASSERT_EQ(records.size(), names.size() + 1);
    for (const MethodRecord& r : records) {
      std::size_t linears = 0, simulated = 0;
      for (const LinearCount& c : r.linears) {
        linears += c.count;
        simulated += c.simulated ? c.count : 0;
        EXPECT_FALSE(c.kernel.empty());
      }
      EXPECT_EQ(linears, 2 * kLinearsPerLayer) << r.method;
      EXPECT_EQ(simulated, r.method == "rs" ? 8u : 0u) << r.method;
      EXPECT_EQ(r.simulated, r.method == "rs");
      EXPECT_TRUE(std::isfinite(r.perplexity) && r.perplexity > 1.0) << r.method;
      EXPECT_GT(r.tokens_per_second, 0.0);
      const double bits = r.bits_per_weight;
      EXPECT_TRUE(r.method == "fp" ? bits == 32.0 : bits > 4.0 && bits < 9.5) << r.method << bits;
      ++methods;
    }
  }
  EXPECT_EQ(methods, 2 * (static_cast<int>(rrs::presets::kCount) + 1));
}

// Every linear of one precision: what the record must say.
void expect_one(const MethodRecord& r, const std::string& precision, const char* kernel) {
  ASSERT_EQ(r.linears.size(), 1u) << r.method;
  EXPECT_EQ(r.linears[0].count, 2 * kLinearsPerLayer) << r.method;
  EXPECT_EQ(r.linears[0].precision, precision) << r.method;
  EXPECT_EQ(r.linears[0].kernel, kernel) << r.method;
}

// The kernels are looked up in the level's table here, by the name of the method. The engines are
// made at one level and run at all of them: what they were made with is not what is recorded.
TEST(Perplexity, RecordsNameTheKernelThatRan) {
  Contest contest;
  std::vector<Contestant> contestants;
  for (const char* name : {"fp", "rrs", "rrs_w4a8", "rrs_w4a16", "smoothquant_w8a8"}) {
    contestants.push_back(contest.session->prepare(make_method(name, {})));
  }
  int levels = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    const std::vector<TokenId> tokens = random_tokens(contest.model, 60, 2);
    for (const std::size_t context : {std::size_t{30}, std::size_t{20}, std::size_t{4}}) {
      const auto records =
          measure_perplexity(contestants, tokens, 2, context, contest.session->pool(), nullptr);
      ASSERT_EQ(records.size(), 5u);
      // The amx level runs few rows on the VNNI kernels: below 24 in groups of 32, else below 5.
      const auto ran = [&](std::size_t least) -> const rrs::GemmKernels& {
        const bool few = table.isa == rrs::Isa::kAmx && context < least;
        return (few ? rrs_test::table_of(rrs::Isa::kAvx512Vnni) : table).gemm;
      };
      expect_one(records[1], "w4a4", ran(24).w4a4.name);
      expect_one(records[2], "w4a8", ran(24).w4a8.name);
      expect_one(records[3], "w4a16", table.gemm.w4a16.name);
      expect_one(records[4], "w8a8", ran(5).w8a8.name);
    }
    ++levels;
  });
  EXPECT_EQ(levels, static_cast<int>(rrs_test::supported_isas().size()));
}

TEST(Perplexity, LinearsThatDidNotRunAreNotCounted) {
  Contest contest;
  std::vector<Contestant> contestants;
  for (const char* name : {"fp", "rrs"}) {
    contestants.push_back(contest.session->prepare(make_method(name, {})));
  }
  const std::vector<TokenId> tokens = random_tokens(contest.model, 40, 2);
  const auto run = [&] {
    return measure_perplexity(contestants, tokens, 2, 20, contest.session->pool(), nullptr);
  };
  EXPECT_EQ(run()[1].linears.at(0).count, 2 * kLinearsPerLayer);
  contestants[1].engine->limit_layers(1);
  const auto records = run();
  EXPECT_EQ(records[0].linears.at(0).count, 2 * kLinearsPerLayer);
  EXPECT_EQ(records[1].linears.at(0).count, kLinearsPerLayer);
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    EXPECT_EQ(contestants[1].engine->runs(0, l).calls, 2);
    EXPECT_EQ(contestants[1].engine->runs(0, l).rows, 40);
    EXPECT_EQ(contestants[1].engine->runs(1, l).calls, 0);
  }
  contestants[1].engine->limit_layers(0);
  EXPECT_EQ(run()[1].linears.at(0).count, 2 * kLinearsPerLayer);  // counts start anew
}

TEST(Perplexity, OverridesShowInTheRecord) {
  Contest contest;
  std::vector<Contestant> contestants;
  contestants.push_back(contest.session->prepare(make_method("fp", {}), 16));
  std::vector<Setting> settings = parse_override("ffn_down=a8");
  for (const Setting& s : parse_override("blk.0.attn_q=fp")) settings.push_back(s);
  contestants.push_back(contest.session->prepare(make_method("rrs", settings)));
  const auto records = measure_perplexity(contestants, random_tokens(contest.model, 20, 3), 1, 20,
                                          contest.session->pool(), nullptr);
  std::map<std::string, std::size_t> counts;
  for (const LinearCount& c : records[1].linears) counts[c.precision] += c.count;
  EXPECT_EQ(counts, (std::map<std::string, std::size_t>{{"w4a4", 11}, {"w4a8", 2}, {"fp", 1}}));
}

// The table and the JSON say how many linears ran how, with the settings that +qfem ends in.
TEST(Perplexity, ExemptLinearsAreCountedInTableAndJson) {
  Contest contest;
  std::vector<bool> exempt(2 * kInputsPerLayer, false);
  exempt[0] = exempt[kInputsPerLayer + 3] = true;  // layer 0: q, k, v; layer 1: down
  const std::size_t count = 4, all = 2 * kLinearsPerLayer;
  std::vector<Contestant> contestants;
  contestants.push_back(contest.session->prepare(make_method("fp", {}), 16));
  for (const int bits : {16, 8}) {
    Method m = make_method("rtn", {});
    m.qfem_bits = bits;
    contestants.push_back(contest.session->prepare(with_exemptions(m, exempt)));
  }
  const auto records = measure_perplexity(contestants, random_tokens(contest.model, 20, 3), 1, 20,
                                          contest.session->pool(), nullptr);
  const std::string table = records_table(records);
  const nlohmann::json json = nlohmann::json::parse(records_json(records));
  for (std::size_t i = 0; i < 2; ++i) {
    const std::map<std::string, std::size_t> expected{{"w4a4", all - count},
                                                      {i == 0 ? "w4a16" : "w4a8", count}};
    std::map<std::string, std::size_t> counts, in_json;
    for (const LinearCount& c : records[i + 1].linears) {
      counts[c.precision] += c.count;
      expect_in(table, {std::to_string(c.count) + " x " + c.precision + " " + c.kernel});
    }
    for (const auto& c : json.at(i + 1).at("linears")) {
      in_json[c.at("precision")] += c.at("count").get<std::size_t>();
    }
    EXPECT_EQ(counts, expected);
    EXPECT_EQ(in_json, expected);
  }
}

TEST(Perplexity, NativeTakesTheFilesCodes) {
  TinyModel m = tiny_model(Architecture::kQwen2, true);
  const TempFolder folder;
  const std::string path = folder.write("q4.gguf", tiny_gguf(m, q4_linears(2)).bytes());
  const std::vector<TokenId> tokens = random_tokens(m, 30, 6);
  TinyEngine native(path, "q4_0-native"), fp(path, "fp");
  const auto a = native.logits(tokens), f = fp.logits(tokens);
  double worst = 0.0;
  for (std::size_t t = 0; t < a.size(); ++t) {
    for (std::size_t i = 0; i < a[t].size(); ++i) {
      worst = (std::max)(worst, static_cast<double>(std::fabs(a[t][i] - f[t][i])));
    }
  }
  EXPECT_GT(worst, 0.0);
  EXPECT_LT(worst, 1.0);  // 8-bit activations are all that differs
  EXPECT_EQ(native.logits(tokens, std::vector<std::size_t>(30, 1)), a);
  for (const LayerLinears& layer : native.engine->linears()) {
    for (const auto& linear : layer) {
      const LinearInfo info = linear->info();
      EXPECT_EQ(info.precision, "w4a8");
      EXPECT_NEAR(8.0 * static_cast<double>(info.stored_bytes) / static_cast<double>(info.weights),
                  4.5, 0.01);
    }
  }
  const std::string plain = write_tiny_gguf(m, folder);
  expect_in(refusal([&] { TinyEngine refused(plain, "q4_0-native"); }),
            {"blk.0.attn_q", "F32", "q4_0-native"});
}

// In both formats; only where the metadata says so.
TEST(Perplexity, ABosStandsOnceAtTheStartOfTheStream) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder, hf;
  const std::string text = folder.write("text.txt", "the hello 123 the hello the abc hello");
  const auto stream = [&](const std::string& model) {
    SessionOptions options;
    options.model = model;
    return Session(options).tokens_of_file(text);
  };
  const std::vector<TokenId> plain = stream(write_tiny_gguf(m, folder));
  const auto bos = static_cast<TokenId>(m.vocabulary.bos);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), bos), 0);
  std::vector<TokenId> expected{bos};
  expected.insert(expected.end(), plain.begin(), plain.end());
  m.config.add_bos = true;
  EXPECT_EQ(stream(write_tiny_gguf(m, folder)), expected);
  write_tiny_hf(m, hf);
  hf.write("tokenizer_config.json", R"({"add_bos_token":true,"bos_token":"<s>"})");
  EXPECT_EQ(stream(hf.path()), expected);
  hf.write("tokenizer_config.json", R"({"add_bos_token":false,"bos_token":"<s>"})");
  EXPECT_EQ(stream(hf.path()), plain);
  EXPECT_GE(plain.size(), 12u);
}

TEST(Perplexity, JsonHasTheStatedKeys) {
  Contest contest;
  const auto records = contest.run({"rrs"}, random_tokens(contest.model, 20, 3), 1, 20);
  const nlohmann::json array = nlohmann::json::parse(records_json(records));
  ASSERT_EQ(array.size(), 2u);
  for (const char* key : {"method", "perplexity", "ratio", "kld_mean", "kld_p99", "top1",
                          "bits_per_weight", "tokens_per_second", "linears"}) {
    EXPECT_TRUE(array[1].contains(key)) << key;
  }
  EXPECT_EQ(array[1]["linears"][0]["count"], 14);
  EXPECT_TRUE(array[1].contains("model"));
  expect_in(records_table(records), {"rrs", "14 x w4a4", "fp"});
}

// What a method takes from nothing: its calibration, which methods of one run may share, and the
// rest.
TEST(Perplexity, RecordsSayWhatCalibratingTook) {
  Contest contest;
  const auto records = contest.run({"rrs", "rrs-gptq", "rrs-gptq-zigzag"},
                                   random_tokens(contest.model, 20, 3), 1, 20);
  const nlohmann::json array = nlohmann::json::parse(records_json(records));
  ASSERT_EQ(array.size(), 4u);
  const auto seconds = [&](std::size_t i) {
    return array[i].at("calibration_seconds").get<double>();
  };
  EXPECT_EQ(seconds(0), 0.0);
  EXPECT_EQ(seconds(1), 0.0);
  EXPECT_GT(seconds(2), 0.0);
  EXPECT_EQ(seconds(3), seconds(2));  // one calibration
  EXPECT_GT(array[2].at("prepare_seconds").get<double>(), 0.0);
}

TEST(Perplexity, ConfigHashTellsRunsApart) {
  Contest contest;
  const std::vector<TokenId> tokens = random_tokens(contest.model, 40, 3);
  std::vector<TokenId> other = tokens;
  other[19] = (other[19] + 1) % 7;
  const auto hash = [&](const std::string& method, const std::vector<TokenId>& text,
                        std::size_t windows, std::size_t context) {
    return contest.run({method}, text, windows, context).at(1).config_hash;
  };
  const std::string first = hash("rrs", tokens, 1, 20);
  EXPECT_EQ(first.size(), 16u);
  EXPECT_EQ(hash("rrs", tokens, 1, 20), first);
  EXPECT_NE(hash("rrs@clip=0.95", tokens, 1, 20), first);
  EXPECT_NE(hash("rrs@sign-seed=1", tokens, 1, 20), first);
  EXPECT_NE(hash("rrs", other, 1, 20), first);
  EXPECT_NE(hash("rrs", tokens, 2, 20), first);
  EXPECT_NE(hash("rrs", tokens, 1, 19), first);
  other = tokens;
  other[20] = (other[20] + 1) % 7;  // beyond the windows
  EXPECT_EQ(hash("rrs", other, 1, 20), first);
  // Weights of another calibration are other weights.
  const auto calibrated = [&](std::uint32_t text) {
    SessionOptions o;
    o.model = contest.folder.file("tiny.gguf");
    Session session(o);
    session.set_calibration_tokens(random_tokens(contest.model, 95, text));
    std::vector<Contestant> all;
    for (const char* name : {"fp", "rrs-gptq"})
      all.push_back(session.prepare(make_method(name, {})));
    return measure_perplexity(all, tokens, 1, 20, session.pool(), nullptr).at(1);
  };
  const MethodRecord one = calibrated(5), two = calibrated(6);
  EXPECT_NE(one.config_hash, two.config_hash);
  EXPECT_NE(one.calibration, two.calibration);
  EXPECT_EQ(calibrated(5).config_hash, one.config_hash);
}

TEST(Progress, SaysRateAndTimeLeft) {
  EXPECT_EQ(progress_text("reading", "tokens", 50.0, 200.0, 2.0),
            "reading:  25 %, 25 tokens/s, 0:06 left");
  EXPECT_EQ(progress_text("reading", "tokens", 0.0, 200.0, 2.0), "reading: 0 tokens");
  EXPECT_EQ(progress_text("search", "tokens", 50.0, 200.0, 2.0, ProgressEnd::kAtMost),
            "search: 25 tokens/s, at most 0:06 left");
}

}  // namespace
