// ASER in the engine: branches reach every linear, files keep them, the output comes closer.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../examples/llm/quantized_file.hpp"
#include "engine_support.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

struct Tiny : TinyMethods {
  Tiny() { calibration = tiny_calibration(path, model); }
  std::string error_of(const std::string& method, bool file) const {
    try {
      PrepareOptions options;
      options.calibration = &calibration;
      const Method m = make_method(method, {});
      if (file) {
        write_quantized(*source, m, options, pool, rrs_examples::AtomicFile(out));
      } else {
        prepare_linears(*source, m, options, pool);
      }
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  }
};

double distance(const std::vector<std::vector<float>>& a,
                const std::vector<std::vector<float>>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < a[i].size(); ++j) {
      sum += std::pow(static_cast<double>(a[i][j]) - static_cast<double>(b[i][j]), 2);
    }
  }
  return std::sqrt(sum);
}

TEST(Aser, EveryLinearGetsItsBranch) {
  const Tiny t;
  const LinearStack base = t.stack("rrs"), with = t.stack("rrs+aser@rank=8");
  for (std::size_t layer = 0; layer < with.size(); ++layer) {
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const Linear& linear = *with[layer][l];
      ASSERT_NE(linear.packed(), nullptr);
      EXPECT_EQ(linear.packed()->low_rank.rank, 8);
      EXPECT_EQ(linear.info().precision, "w4a4+r8");
      const rrs::WeightView& w = *linear.packed();
      EXPECT_GE(linear.info().stored_bytes - base[layer][l]->info().stored_bytes,
                2 * 8 * (w.n + w.k));
    }
  }
}

// Half the bits of the branch and another branch, but nearly the same model.
TEST(Aser, EightBitsAreStoredAndCostLittle) {
  const Tiny t;
  const std::string name = "rrs-w4a16+aser@rank=32@outliers=0";
  const LinearStack wide = t.stack(name), narrow = t.stack(name + "@rank-bits=8");
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    const rrs::WeightView& w = *narrow[0][l]->packed();
    EXPECT_EQ(w.low_rank.bits, 8);
    EXPECT_EQ(narrow[0][l]->info().precision, "w4a16+r32i8");
    EXPECT_EQ(wide[0][l]->info().precision, "w4a16+r32");
    EXPECT_EQ(wide[0][l]->info().stored_bytes - narrow[0][l]->info().stored_bytes,
              32 * (w.n + w.k) - 4 * 32);
  }
  const auto fp = t.logits("fp"), sixteen = t.logits(name), eight = t.logits(name + "@rank-bits=8");
  EXPECT_LT(distance(eight, sixteen), 0.2 * distance(sixteen, fp));
  EXPECT_GT(distance(eight, sixteen), 0.0);
}

TEST(Aser, SiblingsArePreparedOnceAndStrangersAnew) {
  const Tiny t;
  const LinearStack base = t.stack("rrs"), with = t.stack("rrs+aser@rank=8@outliers=0");
  const std::int64_t k = with[0][kQ]->packed()->k;
  std::vector<float> x(static_cast<std::size_t>(3 * k));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i * i));
  const std::vector<float> kept = x;
  InputCache fresh, cache, mixed;
  for (const std::size_t sibling : {kK, kV}) {
    x = kept;
    fresh.set(x.data(), 3, k);
    const std::vector<float> expected = applied(*with[0][sibling], &fresh, t.pool);
    cache.set(x.data(), 3, k);
    applied(*with[0][kQ], &cache, t.pool);
    std::fill(x.begin(), x.end(), 1.0f);  // nobody looks at the input again
    EXPECT_EQ(applied(*with[0][sibling], &cache, t.pool), expected);
    // What a linear without branches prepared does not hold those of another.
    x = kept;
    mixed.set(x.data(), 3, k);
    applied(*base[0][kQ], &mixed, t.pool);
    EXPECT_EQ(applied(*with[0][sibling], &mixed, t.pool), expected);
  }
}

TEST(Aser, FilesAndThreadsGiveTheSameBits) {
  const Tiny t;
  int cases = 0;
  for (const char* name :
       {"aser-w4a8@rank=8", "aser-w4a6@rank=8@outliers=3", "rrs+aser@rank=8",
        "rrs-gptq-zigzag+aser@rank=4", "rrs-w4a16+aser@rank=5", "aser-w4a8@rank=8@rank-bits=8",
        "rrs+aser@rank-share=0.3@outliers=3", "aser-w4a8@rank-share=0.2@outliers=3@rank-bits=8"}) {
    PrepareOptions options;
    options.calibration = &t.calibration;
    write_quantized(*t.source, make_method(name, {}), options, t.pool,
                    rrs_examples::AtomicFile(t.out));
    TinyEngine mapped(t.path, "fp");  // for its parts
    QuantizedFile file = open_quantized(t.out, *mapped.source);
    mapped.engine = std::make_unique<Engine>(std::make_shared<const ModelParts>(*mapped.source),
                                             std::move(file.linears),
                                             store_factory(file.method.kv(16)), *mapped.pool);
    const auto direct = t.logits(name);
    EXPECT_EQ(mapped.logits(t.tokens), direct) << name;
    EXPECT_EQ(t.logits(name, 3), direct) << name;
    ++cases;
  }
  EXPECT_EQ(cases, 8);
}

// Activations are not quantized, so the distance to the float model is the weights' alone. Half of
// all ranks: with fewer, 40 random calibration tokens do not say what 30 other tokens gain.
TEST(Aser, ComesCloserToTheFloatModel) {
  const Tiny t;
  const auto fp = t.logits("fp");
  for (const std::string base : {"rrs-w4a16", "rrs-w4a16-gptq"}) {
    const double without = distance(t.logits(base), fp);
    EXPECT_LT(distance(t.logits(base + "+aser@rank=32@outliers=0"), fp), without) << base;
  }
}

TEST(Aser, SmoothingTravelsAsDivisor) {
  const Tiny t;
  const LinearStack with = t.stack("aser-w4a8@rank=8@outliers=3");
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    const std::vector<float>& divisor = with[0][l]->channels()->divisor;
    ASSERT_FALSE(divisor.empty());
    EXPECT_LE(std::count_if(divisor.begin(), divisor.end(), [](float d) { return d != 1.0f; }), 3);
  }
  EXPECT_TRUE(t.stack("aser-w4a8@rank=8@outliers=0")[0][kQ]->channels()->divisor.empty());
}

// Ranks of a share are found in a first pass: the file names them, and larger shares have larger
// ones. Progress counts both passes.
TEST(Aser, FilesHoldTheRanksThatAShareGives) {
  const Tiny t;
  std::vector<std::int64_t> before;
  for (const char* share : {"0.2", "0.5", "0.8"}) {
    const std::string name = std::string("rrs+aser@outliers=0@rank-share=") + share;
    PrepareOptions options;
    options.calibration = &t.calibration;
    std::size_t calls = 0;
    const std::size_t all = 2 * t.source->config().layers * kLinearsPerLayer;
    options.progress = [&](std::size_t done, std::size_t of) {
      EXPECT_EQ(done, ++calls);
      EXPECT_EQ(of, all);
    };
    write_quantized(*t.source, make_method(name, {}), options, t.pool,
                    rrs_examples::AtomicFile(t.out));
    EXPECT_EQ(calls, all);
    const QuantizedFile file = open_quantized(t.out, *t.source);
    EXPECT_EQ(file.method.name, make_method(name, {}).name);
    const LinearStack direct = t.stack(name);
    std::vector<std::int64_t> ranks;
    for (std::size_t layer = 0; layer < direct.size(); ++layer) {
      for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
        const std::int64_t rank = file.linears[layer][l]->packed()->low_rank.rank;
        EXPECT_EQ(rank, direct[layer][l]->packed()->low_rank.rank);
        EXPECT_EQ(rank, file.method.plan(layer, l).weight.aser.rank);
        if (ranks.size() < before.size()) {
          EXPECT_GT(rank, before[ranks.size()]);
        }
        ranks.push_back(rank);
      }
    }
    before = ranks;
  }
  // A linear that stays in float has no rank.
  PrepareOptions options;
  options.calibration = &t.calibration;
  const Method some =
      make_method("rrs+aser@rank-share=0.3@outliers=0", parse_override("ffn_down=fp"));
  write_quantized(*t.source, some, options, t.pool, rrs_examples::AtomicFile(t.out));
  const QuantizedFile file = open_quantized(t.out, *t.source);
  EXPECT_EQ(file.linears[0][kDown]->packed(), nullptr);
  EXPECT_GT(file.linears[0][kUp]->packed()->low_rank.rank, 0);
}

TEST(Aser, BadSettingsAreNamed) {
  const Tiny t;
  EXPECT_NE(t.error_of("rrs+aser@rank=4@outliers=4", false).find("rank"), std::string::npos);
  EXPECT_NE(t.error_of("rrs+aser@rank=4096", false).find("rank"), std::string::npos);
  EXPECT_NE(t.error_of("rrs+aser@rank-bits=4", false).find("8 or 16"), std::string::npos);
  EXPECT_NE(t.error_of("rrs+aser@rank-share=1.5", true).find("rank-share"), std::string::npos);
  EXPECT_NE(t.error_of("smoothquant-w8a8+aser@rank=4@outliers=1", false).find("SmoothQuant"),
            std::string::npos);
}

}  // namespace
