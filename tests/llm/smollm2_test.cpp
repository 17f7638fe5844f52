// The real model, when it is in the cache: SmolLM2's tokenizer on known texts and on the whole
// WikiText-2 test split, and the configuration and tensors of its file. The ids and the digest were
// made with the published tokenizer library from the same vocabulary.

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>

#include "../../examples/llm/model_source.hpp"
#include "smollm2.hpp"
#include "test_files.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

// RRS_WIKITEXT, or the copy among the examples' data. Empty when there is none.
std::string wikitext_path() {
  std::vector<std::string> candidates{environment("RRS_WIKITEXT")};
  const auto data = std::filesystem::path(RRS_SOURCE_DIR) / "examples" / "data";
  candidates.push_back((data / "wiki.test.raw").string());
  candidates.push_back((data / "wikitext-2" / "wiki.test.raw").string());
  for (const std::string& path : candidates) {
    if (!path.empty() && std::filesystem::exists(path)) return path;
  }
  return "";
}

class SmolLm2 : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(model_path())) {
      GTEST_SKIP() << "no " << model_path() << " (examples/llm/fetch_smollm2.sh brings it)";
    }
    model = open_model(model_path());
  }
  std::unique_ptr<ModelSource> model;
};

TEST_F(SmolLm2, ConfigurationIsThePublishedOne) {
  const ModelConfig& c = model->config();
  EXPECT_EQ(c.architecture, Architecture::kLlama);
  EXPECT_EQ(c.layers, 30u);
  EXPECT_EQ(c.hidden, 576u);
  EXPECT_EQ(c.ffn, 1536u);
  EXPECT_EQ(c.heads, 9u);
  EXPECT_EQ(c.kv_heads, 3u);
  EXPECT_EQ(c.head_size, 64u);
  EXPECT_EQ(c.vocab, 49152u);
  EXPECT_EQ(c.context, 8192u);
  EXPECT_EQ(c.rope_base, 100000.0);
  EXPECT_EQ(c.rope_order, RopeOrder::kInterleaved);
  EXPECT_NEAR(c.rms_epsilon, 1e-5, 1e-11);
  EXPECT_TRUE(c.tied_head);
  EXPECT_FALSE(c.add_bos);
  EXPECT_EQ(c.bos, 1);
  EXPECT_EQ(c.ends, std::vector<TokenId>{2});
}

TEST_F(SmolLm2, EveryTensorIsFinite) {
  std::size_t values = 0;
  std::size_t raw_matrices = 0;
  for (const ExpectedTensor& t : expected_tensors(model->config())) {
    const bool raw = model->raw_blocks(t.name).has_value();
    if (raw && model->info(t.name)->type == "Q4_1") ++raw_matrices;
    double sum = 0.0;
    for (const float value : model->read(t.name)) sum += std::abs(static_cast<double>(value));
    EXPECT_TRUE(std::isfinite(sum) && sum > 0.0) << t.name;
    values += t.rows * t.columns;
  }
  EXPECT_EQ(values, 134515008u);  // the published parameter count
  EXPECT_GE(raw_matrices, 180u);
}

TEST_F(SmolLm2, KnownTexts) {
  const Tokenizer& t = model->tokenizer();
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(t.encode("Hello world"), (Ids{19556, 905}));
  EXPECT_EQ(t.encode("It's 2024, isn't it?"),
            (Ids{1589, 506, 216, 34, 32, 34, 36, 28, 3247, 982, 357, 47}));
  EXPECT_EQ(t.encode("  two  spaces\n\n\tand tabs \n"),
            (Ids{216, 827, 216, 5600, 1116, 197, 397, 29416, 3717}));
  EXPECT_EQ(t.encode("na\xc3\xafve caf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e "
                     "\xf0\x9f\x98\x80"),
            (Ids{3546, 46494, 37366, 17097, 241, 115, 40993, 179, 120, 248, 40303, 218}));
  EncodeOptions special;
  special.parse_special = true;
  EXPECT_EQ(t.encode("<|im_start|>user\nhi<|im_end|>", special), (Ids{1, 4093, 198, 6004, 2}));
  // The vocabulary has no token for 21 bytes; such text is refused, not altered.
  int missing = 0;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (!t.has_byte(static_cast<unsigned char>(byte))) ++missing;
  }
  EXPECT_EQ(missing, 21);
  expect_in(refusal([&] { t.encode("a\xff"); }), {"255", "offset 1"});
  const std::string stray = "caf\xc3 \xa9\x80 \xe6\x97";
  EXPECT_EQ(t.decode(t.encode(stray)), stray);
}

TEST_F(SmolLm2, WholeWikiText) {
  const std::string path = wikitext_path();
  ASSERT_FALSE(path.empty()) << "no wiki.test.raw (RRS_WIKITEXT may name it)";
  const std::string text = read_all(path);
  ASSERT_EQ(text.size(), 1290590u);
  const auto start = std::chrono::steady_clock::now();
  const auto ids = model->tokenizer().encode(text);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(ids.size(), 303415u);
  std::uint64_t digest = 0xcbf29ce484222325u;
  for (const TokenId id : ids) {
    digest = (digest ^ static_cast<std::uint64_t>(id)) * 0x100000001b3u;
  }
  EXPECT_EQ(digest, 0xb70511543af7c998u);
  EXPECT_EQ(model->tokenizer().decode(ids), text);
  EXPECT_LT(seconds.count(), 30.0);  // generous: sanitizers, shared machines
}

}  // namespace
