// ModelSource: both formats of a tiny model agree in configuration, tokenizer and tensors; RoPE
// orders; every refusal by name; damaged files are refused or read, never a crash.

#include "../../examples/llm/model_source.hpp"

#include <cmath>
#include <limits>

#include "tiny_model.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

constexpr Architecture kAll[] = {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3};

class ModelSourceTest : public ::testing::Test {
 protected:
  std::unique_ptr<ModelSource> open_bytes(const std::string& bytes) {
    return open_model(folder.write("model.gguf", bytes));
  }
  std::unique_ptr<ModelSource> open(const GgufBuilder& b) { return open_bytes(b.bytes()); }
  std::string refused(const GgufBuilder& b) {
    return refusal([&] { open(b); });
  }
  TempFolder folder;
};

void expect_same_config(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.architecture, b.architecture);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.ffn, b.ffn);
  EXPECT_EQ(a.heads, b.heads);
  EXPECT_EQ(a.kv_heads, b.kv_heads);
  EXPECT_EQ(a.head_size, b.head_size);
  EXPECT_EQ(a.vocab, b.vocab);
  EXPECT_EQ(a.context, b.context);
  EXPECT_EQ(a.rope_base, b.rope_base);
  EXPECT_EQ(a.rope_divisors, b.rope_divisors);
  EXPECT_NEAR(a.rms_epsilon, b.rms_epsilon, 1e-11);
  EXPECT_EQ(a.tied_head, b.tied_head);
  EXPECT_EQ(a.qkv_bias, b.qkv_bias);
  EXPECT_EQ(a.output_bias, b.output_bias);
  EXPECT_EQ(a.qk_norm, b.qk_norm);
  EXPECT_EQ(a.add_bos, b.add_bos);
  EXPECT_EQ(a.bos, b.bos);
  EXPECT_EQ(a.ends, b.ends);
}

TEST_F(ModelSourceTest, BothFormatsGiveTheSameModel) {
  int compared = 0;
  for (const Architecture architecture : kAll) {
    for (const bool tied : {false, true}) {
      const TinyModel m = tiny_model(architecture, tied);
      TempFolder hf_folder;
      write_tiny_hf(m, hf_folder, 2, rrs_examples::Dtype::kF16);
      const auto gguf = open(tiny_gguf(m));
      const auto hf = open_model(hf_folder.path());
      expect_same_config(gguf->config(), hf->config());
      expect_same_config(gguf->config(), [&] {
        ModelConfig c = m.config;
        c.bos = static_cast<TokenId>(m.vocabulary.bos);
        c.ends = {static_cast<TokenId>(m.vocabulary.end)};
        return c;
      }());
      const bool llama = architecture == Architecture::kLlama;
      EXPECT_EQ(hf->config().rope_order, RopeOrder::kHalfSplit);
      EXPECT_EQ(gguf->config().rope_order, llama ? RopeOrder::kInterleaved : RopeOrder::kHalfSplit);
      EXPECT_EQ(gguf->tokenizer().encode("hello 42"), hf->tokenizer().encode("hello 42"));
      for (const TinyTensor& t : m.tensors) {
        const bool permuted = llama && rotated_rows(t.name);
        EXPECT_EQ(hf->read(t.name), t.values) << t.name;
        EXPECT_EQ(gguf->read(t.name), permuted ? interleaved(t, m.config.head_size) : t.values);
        EXPECT_EQ(hf->info(t.name)->type, "F16");
        EXPECT_EQ(gguf->info(t.name)->rows, t.rows);
        ++compared;
      }
      EXPECT_EQ(gguf->info("output").has_value(), !tied);
    }
  }
  EXPECT_EQ(compared, 2 * (20 + 26 + 24) + 3);
}

TEST_F(ModelSourceTest, ReadsRowRanges) {
  const TinyModel m = tiny_model(Architecture::kQwen2, false);
  TempFolder hf_folder;
  write_tiny_hf(m, hf_folder);
  const auto gguf = open(tiny_gguf(m));
  const auto hf = open_model(hf_folder.path());
  const TinyTensor& t = m.find("blk.1.ffn_down");
  for (const ModelSource* source : {gguf.get(), hf.get()}) {
    std::vector<float> rows(3 * t.columns);
    source->read_rows(t.name, 5, 3, rows.data());
    EXPECT_TRUE(std::equal(rows.begin(), rows.end(), t.values.begin() + 5 * 96));
    source->read_rows(t.name, t.rows, 0, rows.data());
    const std::size_t huge = std::numeric_limits<std::size_t>::max();
    for (const auto& [first, count] :
         {std::pair{t.rows, std::size_t{1}}, {std::size_t{1}, huge}, {huge, std::size_t{1}}}) {
      const auto message =
          refusal([&, f = first, n = count] { source->read_rows(t.name, f, n, rows.data()); });
      expect_in(message, {source->path(), "blk.1.ffn_down", "outside"});
    }
    expect_in(refusal([&] { source->read("blk.9.attn_q"); }), {"blk.9.attn_q", "missing"});
    expect_in(refusal([&] { source->raw_blocks("nothing"); }), {"nothing", "missing"});
    EXPECT_FALSE(source->raw_blocks(t.name).has_value());
  }
}

TEST_F(ModelSourceTest, GivesRawBlocks) {
  for (const std::uint32_t type : {2u, 3u, 8u}) {
    const TinyModel m = tiny_model(Architecture::kLlama, true);
    GgufBuilder b = tiny_gguf(m);
    // The same file with one matrix in 4-bit blocks.
    const std::string name = "blk.0.ffn_up.weight";
    const std::size_t block = type == 2 ? 18 : type == 3 ? 20 : 34;
    std::string bytes;
    for (std::size_t i = 0; i < 96 * 2 * block; ++i) bytes += static_cast<char>(i * 5 & 0x3f);
    const std::size_t at = b.records.find(GgufBuilder::text(name));
    const std::size_t fields = at + 8 + name.size() + 4 + 16;
    const std::string kept = b.records;
    while (b.data.size() % 32 != 0) b.data += '\0';
    b.records = kept.substr(0, fields) + raw(type) + raw(std::uint64_t{b.data.size()}) +
                kept.substr(fields + 12);
    b.data += bytes;
    const auto source = open(b);
    const auto raw_blocks = source->raw_blocks("blk.0.ffn_up");
    ASSERT_TRUE(raw_blocks.has_value());
    EXPECT_EQ(static_cast<std::uint32_t>(raw_blocks->type), type);
    EXPECT_EQ(raw_blocks->rows, 96u);
    EXPECT_EQ(raw_blocks->columns, 64u);
    EXPECT_EQ(raw_blocks->row_bytes, 2 * block);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(raw_blocks->data), bytes.size()), bytes);
    EXPECT_EQ(source->info("blk.0.ffn_up")->type, type == 2 ? "Q4_0" : type == 3 ? "Q4_1" : "Q8_0");
    EXPECT_EQ(source->read("blk.0.ffn_up").size(), 96u * 64);
  }
}

// The metadata of a tiny llama with one entry replaced or added.
GgufBuilder with_u32(const TinyModel& m, const std::string& key, std::uint32_t value) {
  GgufBuilder b = tiny_gguf(m);
  const std::string head = GgufBuilder::text(key) + raw(std::uint32_t{4});
  const std::size_t at = b.metadata.find(head);
  if (at == std::string::npos) {
    b.u32(key, value);
  } else {
    b.metadata.replace(at + head.size(), 4, raw(value));
  }
  return b;
}

TEST_F(ModelSourceTest, RefusesUnsupportedGguf) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  GgufBuilder other;
  other.string("general.architecture", "mamba");
  expect_in(refused(other), {"model.gguf", "general.architecture", "'mamba'"});
  expect_in(refused(GgufBuilder{}), {"general.architecture", "missing"});
  const auto with = [&](const char* key, std::uint32_t value) {
    return refused(with_u32(m, std::string("llama.") + key, value));
  };
  expect_in(with("block_count", 0), {"layers", "0"});
  expect_in(with("block_count", 3), {"blk.2.attn_norm", "missing"});
  expect_in(with("block_count", 1), {"blk.1.", "not part of a llama"});
  expect_in(with("embedding_length", 32), {"shape", "32"});
  expect_in(with("embedding_length", 0xffffffffu), {"embedding_length", "4294967295"});
  expect_in(with("attention.head_count", 0), {"head_count", "0"});
  expect_in(with("attention.head_count_kv", 3), {"kv heads", "3"});
  expect_in(with("attention.head_count_kv", 8), {"kv heads", "8"});
  expect_in(with("attention.value_length", 8), {"value_length", "8"});
  expect_in(with("rope.dimension_count", 8), {"rope.dimension_count", "8", "16"});
  expect_in(with("context_length", 0), {"context", "0"});
  expect_in(with("expert_count", 4), {"expert_count"});
  GgufBuilder extra = tiny_gguf(m);
  extra.f32_tensor("blk.0.attn_norm_2.weight", {1}, {1});
  expect_in(refused(extra), {"blk.0.attn_norm_2.weight", "not part"});
  GgufBuilder scaling = tiny_gguf(m);
  scaling.string("llama.rope.scaling.type", "yarn");
  expect_in(refused(scaling), {"rope.scaling.type", "'yarn'"});
  GgufBuilder nan_base = tiny_gguf(m);
  const std::size_t at = nan_base.metadata.find("llama.rope.freq_base") + 20 + 4;
  nan_base.metadata.replace(at, 4, raw(std::numeric_limits<float>::quiet_NaN()));
  expect_in(refused(nan_base), {"rope base"});
  TinyModel small = tiny_model(Architecture::kLlama, true);
  small.vocabulary.tokens.push_back("one more");
  small.vocabulary.types.push_back(1);
  expect_in(refused(tiny_gguf(small)), {"tokenizer", "exceed"});
}

TEST_F(ModelSourceTest, RopeScalingOfGguf) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  GgufBuilder linear = tiny_gguf(m);
  linear.string("llama.rope.scaling.type", "linear");
  linear.f32("llama.rope.scaling.factor", 4.0f);
  EXPECT_EQ(open(linear)->config().rope_divisors, std::vector<float>(8, 4.0f));
  EXPECT_EQ(open(linear)->config().rope_scaling, RopeScaling::kLinear);
  GgufBuilder llama3 = tiny_gguf(m);
  const std::vector<float> divisors{1, 1, 1, 2, 3, 8, 8, 8};
  llama3.f32_tensor("rope_freqs.weight", {8}, divisors);
  EXPECT_EQ(open(llama3)->config().rope_divisors, divisors);
  EXPECT_EQ(open(llama3)->config().rope_scaling, RopeScaling::kLlama3);
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity()}) {
    GgufBuilder b = tiny_gguf(m);
    b.f32_tensor("rope_freqs.weight", {8}, std::vector<float>(8, bad));
    expect_in(refused(b), {"rope divisor"});
  }
  GgufBuilder window = tiny_gguf(m);
  window.u32("llama.attention.sliding_window", 50);
  EXPECT_EQ(open(window)->config().context, 50u);
}

TEST(RopeDivisors, Llama3FollowsItsRule) {
  const auto divisors = llama3_divisors({8.0, 1.0, 4.0, 8192.0}, 500000.0, 128);
  ASSERT_EQ(divisors.size(), 64u);
  int kept = 0, ramp = 0, slowed = 0;
  for (std::size_t i = 0; i < 64; ++i) {
    const double frequency = std::pow(500000.0, -2.0 * static_cast<double>(i) / 128.0);
    const double wavelength = 2.0 * std::acos(-1.0) / frequency;
    double expected = 1.0;
    if (wavelength > 8192.0) {
      expected = 8.0;
      ++slowed;
    } else if (wavelength >= 2048.0) {
      const double smooth = (8192.0 / wavelength - 1.0) / 3.0;
      expected = frequency / ((1.0 - smooth) * frequency / 8.0 + smooth * frequency);
      ++ramp;
    } else {
      ++kept;
    }
    EXPECT_FLOAT_EQ(divisors[i], static_cast<float>(expected)) << i;
  }
  EXPECT_GT(kept, 20);
  EXPECT_GT(ramp, 3);
  EXPECT_GT(slowed, 20);
}

TEST_F(ModelSourceTest, HuggingFaceConfigurations) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  write_tiny_hf(m, folder);
  const auto with = [&](const std::string& extra) {
    folder.write("config.json", tiny_config_json(m, extra));
    return open_model(folder.path())->config();
  };
  const auto refused_with = [&](const std::string& extra) { return refusal([&] { with(extra); }); };
  EXPECT_EQ(with("").rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(with(R"(,"rope_scaling":null)").rope_divisors.size(), 0u);
  EXPECT_EQ(with(R"(,"rope_scaling":{"type":"linear","factor":2})").rope_divisors,
            std::vector<float>(8, 2.0f));
  const std::string llama3 = R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
                             R"("original_max_position_embeddings":64})";
  EXPECT_EQ(with(R"(,"rope_scaling":{"rope_type":"llama3",)" + llama3).rope_divisors,
            llama3_divisors({8.0, 1.0, 4.0, 64.0}, 10000.0, 16));
  EXPECT_EQ(with(R"(,"rope_parameters":{"rope_theta":77.0,"rope_type":"default"})").rope_base, 77);
  EXPECT_EQ(with(R"(,"sliding_window":32)").context, 32u);
  EXPECT_EQ(with(R"(,"sliding_window":32,"use_sliding_window":false)").context, 128u);
  expect_in(refused_with(R"(,"rope_scaling":{"type":"dynamic","factor":2})"), {"'dynamic'"});
  expect_in(refused_with(R"(,"rope_scaling":{"type":"linear","factor":-2})"), {"rope divisor"});
  expect_in(refused_with(R"(,"rope_scaling":{"type":"linear"})"), {"factor", "missing"});
  expect_in(refused_with(R"(,"mlp_bias":true)"), {"mlp_bias"});
  expect_in(refused_with(R"(,"partial_rotary_factor":0.5)"), {"partial_rotary_factor"});
  expect_in(refused_with(R"(,"quantization_config":{})"), {"quantization_config"});
  expect_in(refused_with(R"(,"rms_norm_eps":1e-5)"), {"rms_norm_eps", "twice"});
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = tiny_config_json(m);
    text.replace(text.find(from), from.size(), to);
    folder.write("config.json", text);
    return refusal([&] { open_model(folder.path()); });
  };
  expect_in(replaced("\"llama\"", "\"gemma\""), {"config.json", "model_type", "'gemma'"});
  expect_in(replaced("silu", "gelu"), {"hidden_act", "gelu"});
  expect_in(replaced("\"hidden_size\":64", "\"hidden_size\":-64"), {"hidden_size", "-64"});
  expect_in(replaced("\"hidden_size\":64", "\"hidden_size\":32"), {"shape", "32"});
  expect_in(replaced("\"eos_token_id\":", "\"eos_token_id\":99"), {"eos", "below"});
  folder.write("generation_config.json", R"({"eos_token_id":[5,6]})");
  EXPECT_EQ(with("").ends.size(), 3u);
  folder.write("config.json", tiny_config_json(m));
  const TinyModel mistral = m;
  std::string text = tiny_config_json(mistral);
  text.replace(text.find("\"llama\""), 7, "\"mistral\"");
  folder.write("config.json", text);
  EXPECT_EQ(open_model(folder.path())->config().architecture, Architecture::kLlama);
}

TEST_F(ModelSourceTest, HuggingFaceTensorsAreChecked) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  write_tiny_hf(m, folder);
  const std::string shard = folder.file("model.safetensors");
  TinyModel changed = m;
  changed.tensors[3].rows -= 1;
  changed.tensors[3].values.resize(changed.tensors[3].rows * changed.tensors[3].columns);
  write_tiny_shard(changed, 0, changed.tensors.size(), shard, rrs_examples::Dtype::kF32);
  expect_in(refusal([&] { open_model(folder.path()); }), {"'blk.0.attn_k'", "shape", "31", "32"});
  write_tiny_shard(m, 1, m.tensors.size(), shard, rrs_examples::Dtype::kF32);
  expect_in(refusal([&] { open_model(folder.path()); }), {"'token_embd'", "missing"});
  changed = m;
  changed.tensors.push_back({"blk.0.attn_q_norm", 1, 16, std::vector<float>(16, 1.0f)});
  write_tiny_shard(changed, 0, changed.tensors.size(), shard, rrs_examples::Dtype::kF32);
  expect_in(refusal([&] { open_model(folder.path()); }), {"q_norm", "not part of a llama"});
  expect_in(refusal([] { open_model("/nonexistent/model"); }), {"/nonexistent/model"});
}

void read_everything(const ModelSource& source) {
  std::vector<float> row;
  for (const ExpectedTensor& t : expected_tensors(source.config())) {
    row.resize(t.columns);
    source.read_rows(t.name, t.rows - 1, 1, row.data());
  }
  const std::string text = "hello 12 <s>\xff";
  EncodeOptions options;
  options.parse_special = true;
  options.missing_byte = MissingByte::kUnknownToken;
  const auto ids = source.tokenizer().encode(text, options);
  source.tokenizer().decode(ids);
}

TEST_F(ModelSourceTest, SurvivesDamagedGguf) {
  TinyModel m = tiny_model(Architecture::kQwen2, true);
  const GgufBuilder b = tiny_gguf(m);
  const std::string bytes = b.bytes();
  const std::size_t head = b.head().size();
  const auto read = [&](const std::string& damaged) { read_everything(*open_bytes(damaged)); };
  // The head at many places, a prime apart so that all fields are met; sizes and records closely.
  SweepCounts counts = corruption_sweep(bytes, 0, 700, 3, read);
  const SweepCounts rest = corruption_sweep(bytes, 700, head, 41, read);
  counts.accepted += rest.accepted;
  counts.refused += rest.refused;
  EXPECT_GT(counts.accepted, 10u);
  EXPECT_GT(counts.refused, 500u);
  for (std::size_t size = 0; size < bytes.size(); size += 997) {
    EXPECT_FALSE(accepts([&] { read(bytes.substr(0, size)); })) << size;
  }
}

TEST_F(ModelSourceTest, SurvivesDamagedFolders) {
  write_tiny_hf(tiny_model(Architecture::kQwen3, false), folder);
  std::size_t total = 0;
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    const std::string bytes = read_all(folder.file(name));
    const std::size_t head = std::min<std::size_t>(bytes.size(), 4000);
    const auto read = [&](const std::string& damaged) {
      folder.write(name, damaged);
      read_everything(*open_model(folder.path()));
    };
    const std::size_t stride = head > 1000 ? 31 : 3;
    const SweepCounts counts = corruption_sweep(bytes, 0, head, stride, read);
    EXPECT_GT(counts.refused, 50u) << name;
    total += counts.accepted + counts.refused;
    for (std::size_t size = 0; size < head; size += stride) {
      EXPECT_FALSE(accepts([&] { read(bytes.substr(0, size)); })) << name << " " << size;
    }
    folder.write(name, bytes);
  }
  EXPECT_GT(total, 1500u);
  EXPECT_TRUE(accepts([&] { open_model(folder.path()); }));
}

// The small files beside them: what may be absent, and the index of shards.
TEST_F(ModelSourceTest, SurvivesDamagedOptionalFiles) {
  write_tiny_hf(tiny_model(Architecture::kQwen3, false), folder, 3);
  folder.write("generation_config.json", R"({"eos_token_id":[2,3],"temperature":0.6})");
  folder.write("tokenizer_config.json",
               R"({"add_bos_token":true,"bos_token":"<s>","eos_token":{"content":"<end>"}})");
  ASSERT_TRUE(accepts([&] { open_model(folder.path()); }));
  for (const char* name :
       {"model.safetensors.index.json", "tokenizer_config.json", "generation_config.json"}) {
    const std::string bytes = read_all(folder.file(name));
    const auto read = [&](const std::string& damaged) {
      folder.write(name, damaged);
      read_everything(*open_model(folder.path()));
    };
    const std::size_t stride = 1 + bytes.size() / 60;
    const SweepCounts counts = corruption_sweep(bytes, 0, bytes.size(), stride, read);
    EXPECT_GT(counts.refused, counts.accepted) << name;
    EXPECT_GT(counts.refused + counts.accepted, 200u) << name;
    std::size_t cuts = 0;
    for (std::size_t size = 0; size + 1 < bytes.size(); size += stride, ++cuts) {
      EXPECT_FALSE(accepts([&] { read(bytes.substr(0, size)); })) << name << " " << size;
    }
    EXPECT_GE(cuts, 30u) << name;
    folder.write(name, bytes);
  }
  EXPECT_TRUE(accepts([&] { open_model(folder.path()); }));
}

}  // namespace
