// The published protocol against sums in double, and what a record says of every method.

#include <cmath>
#include <map>

#include <nlohmann/json.hpp>

#include "../../examples/llm/perplexity.hpp"
#include "../../examples/llm/progress.hpp"
#include "engine_support.hpp"
#include "rrs/pipeline/explain.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

// Q4_0 blocks of given rows: scale 2^-5, codes from a hash, so that q4_0-native has something.
std::string q4_0_rows(const TinyTensor& t) {
  std::string bytes;
  for (std::size_t block = 0; block < t.rows * t.columns / 32; ++block) {
    bytes += raw(rrs_examples::f32_to_f16(0.03125f));
    for (std::size_t i = 0; i < 16; ++i) {
      bytes += static_cast<char>((block * 2654435761u + i * 40503u) >> 7 & 0xffu);
    }
  }
  return bytes;
}

struct Contest {
  TempFolder folder;
  TinyModel model = tiny_model(Architecture::kLlama, true);
  std::unique_ptr<Session> session;

  explicit Contest(int kv_bits = 16) {
    SessionOptions options;
    options.model = write_tiny_gguf(model, folder);
    options.threads = 2;
    options.kv_bits = kv_bits;
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

TEST(Perplexity, EveryMethodRunsAllItsLinearsOnItsKernel) {
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
    for (const MethodRecord& r : records) {
      if (r.method == "fp" || r.simulated) continue;
      const rrs::Scheme scheme = *rrs::presets::by_name(r.method.c_str());
      ASSERT_EQ(r.linears.size(), 1u) << r.method;
      EXPECT_EQ(r.linears[0].kernel, rrs::explain(scheme, 1, 64, 64).kernel) << r.method;
      EXPECT_EQ(r.linears[0].precision, "w" + std::to_string(scheme.weight.bits) + "a" +
                                            std::to_string(scheme.activation.bits));
    }
  }
  EXPECT_EQ(methods, 2 * (static_cast<int>(rrs::presets::kCount) + 1));
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

TEST(Perplexity, NativeTakesTheFilesCodes) {
  TinyModel m = tiny_model(Architecture::kQwen2, true);
  const TempFolder folder;
  const GgufBuilder b = tiny_gguf(m, [](const TinyTensor& t, GgufBuilder* builder) {
    const bool linear = t.name.rfind("blk.", 0) == 0 && t.rows > 1;
    if (linear) builder->tensor(t.name + ".weight", {t.columns, t.rows}, 2, q4_0_rows(t));
    return linear;
  });
  const std::string path = folder.write("q4.gguf", b.bytes());
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
  for (const LinearInfo& info : native.engine->linear_infos()) {
    EXPECT_EQ(info.precision, "w4a8");
    EXPECT_NEAR(8.0 * static_cast<double>(info.stored_bytes) / static_cast<double>(info.weights),
                4.5, 0.01);
  }
  const std::string plain = write_tiny_gguf(m, folder);
  expect_in(refusal([&] { TinyEngine refused(plain, "q4_0-native"); }),
            {"blk.0.attn_q", "F32", "q4_0-native"});
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
}

TEST(Progress, SaysRateAndTimeLeft) {
  EXPECT_EQ(progress_text("reading", "tokens", 50.0, 200.0, 2.0),
            "reading:  25 %, 25 tokens/s, 0:06 left");
  EXPECT_EQ(progress_text("reading", "tokens", 0.0, 200.0, 2.0), "reading: 0 tokens");
}

}  // namespace
