// Quantized files: the same bits as the engine that prepared them, and nothing but the right file.

#include <filesystem>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../examples/llm/commands.hpp"
#include "../../examples/llm/inspect.hpp"
#include "../../examples/llm/quantized_file.hpp"
#include "../../examples/support/safetensors.hpp"
#include "support/sanitizer.hpp"
#include "engine_support.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

struct Quantized {
  TempFolder folder;
  TinyModel model;
  std::string path;
  std::string out = folder.file("out.safetensors");
  ThreadPool pool{1};

  explicit Quantized(Architecture architecture = Architecture::kLlama)
      : model(tiny_model(architecture, true)), path(write_tiny_gguf(model, folder)) {}

  void write(const Method& method, const Calibration* calibration = nullptr) {
    const auto source = open_model(path);
    PrepareOptions options;
    options.calibration = calibration;
    write_quantized(*source, method, options, pool, rrs_examples::AtomicFile(out));
  }
};

std::vector<std::vector<float>> mapped_logits(const std::string& model, const std::string& weights,
                                              const std::vector<TokenId>& tokens, int kv) {
  TinyEngine tiny(model, "fp");  // for its parts
  QuantizedFile file = open_quantized(weights, *tiny.source);
  tiny.engine = std::make_unique<Engine>(std::make_shared<const ModelParts>(*tiny.source),
                                         std::move(file.linears), store_factory(file.method.kv(kv)),
                                         *tiny.pool);
  return tiny.logits(tokens);
}

TEST(Quantize, MappedFilesGiveTheSameBits) {
  int cases = 0;
  for (const Architecture architecture :
       {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3}) {
    Quantized q(architecture);
    const std::vector<TokenId> tokens = random_tokens(q.model, 30, 17);
    const Calibration calibration = tiny_calibration(q.path, q.model);
    for (const char* name : {"rrs", "rrs_w4a8", "rrs_w4a16", "quarot", "rrs_published",
                             "smoothquant_w8a8", "rrs@sign-seed=7@a6", "rrs-gptq",
                             "rrs-gptq-zigzag-actorder", "quarot-gptq", "rrs-zigzag"}) {
      q.write(make_method(name, {}), &calibration);
      for (const int kv : {16, 4}) {
        EXPECT_EQ(mapped_logits(q.path, q.out, tokens, kv),
                  TinyEngine(q.path, name, kv, 1, &calibration).logits(tokens))
            << name << " kv " << kv;
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 66);
}

TEST(Quantize, OverridesTravelWithTheFile) {
  Quantized q;
  std::vector<Setting> settings = parse_override("ffn_down=a8");
  for (const Setting& s : parse_override("blk.0=fp")) settings.push_back(s);
  q.write(make_method("rrs", settings));
  const auto source = open_model(q.path);
  const QuantizedFile file = open_quantized(q.out, *source);
  EXPECT_EQ(file.linears[0][kDown]->info().precision, "fp");
  EXPECT_EQ(file.linears[1][kDown]->info().precision, "w4a8");
  EXPECT_EQ(file.linears[1][kUp]->info().precision, "w4a4");
  EXPECT_EQ(file.description, describe(make_method("rrs", settings)));
}

TEST(Quantize, WeightsAreUsedWhereTheyAreMapped) {
  Quantized q;
  q.write(make_method("rrs", {}));
  const auto source = open_model(q.path);
  const QuantizedFile file = open_quantized(q.out, *source);
  const rrs::WeightView* view = file.linears[1][kUp]->packed();
  ASSERT_NE(view, nullptr);
  std::ifstream maps("/proc/self/maps");
  std::string line;
  bool inside = false;
  while (std::getline(maps, line)) {
    std::uintptr_t first = 0, last = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &first, &last) != 2) continue;
    const auto at = reinterpret_cast<std::uintptr_t>(view->panels);
    inside = inside || (at >= first && at < last && line.find(q.out) != std::string::npos);
  }
  EXPECT_TRUE(inside);
}

TEST(Quantize, AnotherModelVersionOrMethodIsRefusedByName) {
  Quantized q;
  q.write(make_method("rrs", {}));
  const TempFolder other_folder;
  const std::string other_path =
      write_tiny_gguf(tiny_model(Architecture::kLlama, true, 2), other_folder);
  const auto other = open_model(other_path);
  expect_in(refusal([&] { open_quantized(q.out, *other); }),
            {"out.safetensors", "'model'", other_path});
  const auto source = open_model(q.path);
  expect_in(refusal([&] { open_quantized(q.path, *source); }), {"tiny.gguf"});
  // The same tensors under other metadata.
  const rrs_examples::Safetensors file(q.out);
  std::vector<rrs_examples::Tensor> tensors;
  for (const rrs_examples::Tensor& t : file.tensors()) {
    if (t.name.rfind("__pad", 0) != 0) tensors.push_back(t);
  }
  int cases = 0;
  struct Case {
    const char *key, *value;
    std::vector<std::string> said;  // beside the file's name
  };
  for (const auto& [key, value, said] : std::vector<Case>{
           {"version", "2", {"'version'", "'2'", "'1'", "another version"}},
           {"format", "something", {"'format'", "'something'", "another kind of file"}},
           {"method", "fp", {"'method'", "fp", "no packed weights"}},
           {"method", "rs", {"'method'", "rs", "no packed weights"}},
           {"method", "nonsense", {"'method'", "'nonsense'", "not one of"}},
           {"settings", "\nactivation-bits\n99\n", {"'settings'", "'activation-bits'", "'99'"}},
           {"model", "0", {"'model'", "'0'", "another model", q.path}}}) {
    auto metadata = file.metadata();
    metadata[key] = value;
    const std::string path = q.folder.file("changed.safetensors");
    rrs_examples::write_safetensors(path, tensors, metadata);
    const std::string message = refusal([&] { open_quantized(path, *source); });
    expect_in(message, {path});
    expect_in(message, said);
    metadata.erase(key);
    rrs_examples::write_safetensors(path, tensors, metadata);
    expect_in(refusal([&] { open_quantized(path, *source); }), {key, "missing"});
    ++cases;
  }
  EXPECT_EQ(cases, 7);
  tensors.pop_back();
  const std::string path = q.folder.file("short.safetensors");
  rrs_examples::write_safetensors(path, tensors, file.metadata());
  expect_in(refusal([&] { open_quantized(path, *source); }), {"short.safetensors", "blk.1"});
}

// Of the packed weights themselves: an older or a newer library's.
TEST(Quantize, AnotherLayoutIsRefusedByName) {
  Quantized q;
  q.write(make_method("rrs", {}));
  const auto source = open_model(q.path);
  const std::string good = read_all(q.out);
  const std::size_t weight = good.find("RRSWEIGH");
  ASSERT_NE(weight, std::string::npos);
  const std::pair<std::size_t, const char*> fields[] = {
      {0, "magic"}, {8, "file_version"}, {12, "layout_version"}, {16, "byte_order"}};
  int cases = 0;
  for (const auto& [at, field] : fields) {
    for (const int change : {4, 8}) {
      std::string bytes = good;
      bytes[weight + at] = static_cast<char>(bytes[weight + at] + change);
      const std::string path = q.folder.write("other.safetensors", bytes);
      expect_in(refusal([&] { open_quantized(path, *source); }), {path, "blk.0.attn_q.rrs", field});
      ++cases;
    }
  }
  EXPECT_EQ(cases, 8);
}

TEST(Quantize, CorruptedAndTruncatedFilesAreRefused) {
  Quantized q;
  q.write(make_method("rrs", {}));
  const auto source = open_model(q.path);
  const std::string good = read_all(q.out);
  const std::string path = q.folder.file("bad.safetensors");
  const auto opens = [&](const std::string& bytes) {
    q.folder.write("bad.safetensors", bytes);
    return accepts([&] { open_quantized(path, *source); });
  };
  ASSERT_TRUE(opens(good));
  std::uint64_t header = 0;
  std::memcpy(&header, good.data(), sizeof header);
  const std::size_t data = 8 + header;
  const rrs_examples::Safetensors file(q.out);
  std::size_t refused = 0, tried = 0;
  // Every byte of a weight's own header, then the payloads here and there.
  const std::size_t weight = good.find("RRSWEIGH", data);
  ASSERT_NE(weight, std::string::npos);
  const auto flip = [&](std::size_t at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x11);
    refused += opens(bytes) ? 0u : 1u;
    ++tried;
  };
  for (std::size_t at = weight; at < weight + 320; at += 3) flip(at);
  for (const rrs_examples::Tensor& t : file.tensors()) {
    if (t.name.rfind("__pad", 0) == 0) continue;
    flip(data + static_cast<std::size_t>(t.data - file.tensors().front().data) + t.size / 2);
  }
  EXPECT_GE(tried, 107u + 14u);
  EXPECT_EQ(refused, tried);
  for (std::size_t size = 0; size < good.size(); size += 1 + good.size() / 60) {
    EXPECT_FALSE(opens(good.substr(0, size))) << size;
  }
}

// What calibrated methods store beside a weight: divisors of the inputs, their order.
TEST(Quantize, CorruptedChannelsAreRefused) {
  Quantized q;
  const Calibration calibration = tiny_calibration(q.path, q.model);
  const auto source = open_model(q.path);
  const std::string path = q.folder.file("bad.safetensors");
  int checked = 0;
  for (const auto& [method, suffix] :
       {std::pair<const char*, std::string>{"smoothquant_w8a8", ".divisor"},
        {"rrs-zigzag", ".permutation"}}) {
    q.write(make_method(method, {}), &calibration);
    const rrs_examples::Safetensors file(q.out);
    const std::string good = read_all(q.out);
    const auto* first = reinterpret_cast<const char*>(file.tensors().front().data);
    std::uint64_t header = 0;
    std::memcpy(&header, good.data(), sizeof header);
    std::size_t refused = 0, tried = 0;
    for (const rrs_examples::Tensor& t : file.tensors()) {
      const bool named = t.name.size() > suffix.size() &&
                         t.name.compare(t.name.size() - suffix.size(), suffix.size(), suffix) == 0;
      if (!named) continue;
      const auto at =
          8 + header + static_cast<std::size_t>(reinterpret_cast<const char*>(t.data) - first);
      for (const std::size_t byte : {std::size_t{0}, t.size / 2, t.size - 1}) {
        std::string bytes = good;
        bytes[at + byte] = static_cast<char>(bytes[at + byte] ^ 0x11);
        q.folder.write("bad.safetensors", bytes);
        expect_in(refusal([&] { open_quantized(path, *source); }), {"bad.safetensors", "blk."});
        ++tried;
      }
    }
    EXPECT_GE(tried, 3u * 2 * 4) << method << ": q, o, gate and down of 2 layers have one";
    for (std::size_t size = 0; size < good.size(); size += 1 + good.size() / 60, ++refused) {
      q.folder.write("bad.safetensors", good.substr(0, size));
      EXPECT_FALSE(accepts([&] { open_quantized(path, *source); })) << method << " " << size;
    }
    EXPECT_GE(refused, 59u);
    ++checked;
  }
  EXPECT_EQ(checked, 2);
}

// A record's bits are those of the file: weights, and what their inputs are divided and dealt by.
TEST(Quantize, RecordedBytesAreThoseOfTheFile) {
  Quantized q;
  const Calibration calibration = tiny_calibration(q.path, q.model);
  const auto source = open_model(q.path);
  int cases = 0;
  for (const auto& [name, arrays] : {std::pair<const char*, int>{"rrs", 0},
                                     {"smoothquant_w8a8", 1},
                                     {"smoothquant_w8a8@fold=1", 1},
                                     {"rrs-zigzag", 1},
                                     {"rrs-zigzag@alpha=0.5", 2},
                                     {"aser-w4a8@rank=8", 1},
                                     {"rrs-gptq-zigzag+aser@rank=8@outliers=4", 2},
                                     {"rrs+aser@rank=8@outliers=0", 0}}) {
    const Method method = make_method(name, {});
    q.write(method, &calibration);
    const rrs_examples::Safetensors file(q.out);
    const QuantizedFile opened = open_quantized(q.out, *source);
    PrepareOptions options;
    options.calibration = &calibration;
    const LinearStack prepared = prepare_linears(*source, method, options, q.pool);
    std::int64_t bytes = 0, weights = 0;
    for (std::size_t layer = 0; layer < prepared.size(); ++layer) {
      for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
        const std::string linear = linear_name(layer, l);
        const rrs::WeightView& w = *prepared[layer][l]->packed();
        std::int64_t beside = 0;
        for (const char* suffix : {".divisor", ".permutation"}) {
          const rrs_examples::Tensor* t = file.find(linear + suffix);
          beside += t == nullptr ? 0 : static_cast<std::int64_t>(t->size);
        }
        EXPECT_EQ(beside, arrays * 4 * w.k) << name;
        EXPECT_EQ(prepared[layer][l]->info().stored_bytes, w.stored_bytes() + beside) << name;
        EXPECT_EQ(opened.linears[layer][l]->info().stored_bytes, w.stored_bytes() + beside) << name;
        bytes += w.stored_bytes() + beside;
        weights += w.n * w.k;
      }
    }
    char expected[40];
    std::snprintf(expected, sizeof expected, "  %.2f bits per weight\n",
                  8.0 * static_cast<double>(bytes) / static_cast<double>(weights));
    expect_in(fit_text(*source, method), {expected});
    ++cases;
  }
  EXPECT_EQ(cases, 8);
}

TEST(Quantize, AnInterruptedWriteLeavesNothing) {
  Quantized q;
  const auto source = open_model(q.path);
  PrepareOptions options;
  options.progress = [](std::size_t done, std::size_t) {
    if (done == 9) throw std::runtime_error("interrupted");
  };
  expect_in(refusal([&] {
              write_quantized(*source, make_method("rrs", {}), options, q.pool,
                              rrs_examples::AtomicFile(q.out));
            }),
            {"interrupted"});
  EXPECT_EQ(q.folder.list(), std::vector<std::string>{"tiny.gguf"});
  expect_in(refusal([&] { q.write(make_method("rs", {})); }), {"rs", "no packed weights"});
  expect_in(refusal([&] { q.write(make_method("fp", {})); }), {"fp", "no packed weights"});
  EXPECT_EQ(q.folder.list(), std::vector<std::string>{"tiny.gguf"});
}

// Runs `action` in a child process, so that what it allocates is not ours; its peak resident bytes,
// or 0 when it failed.
template <class Action>
std::size_t peak_of_child(const Action& action) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(action());
  int status = 0;
  rusage usage{};
  if (child < 0 || ::wait4(child, &status, 0, &usage) != child) return 0;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return 0;
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

// 12 layers of hidden size 1024, in f16: 0.65 GB if the whole model were ever expanded.
ModelConfig wide_config(const TinyModel& tiny) {
  ModelConfig c = tiny.config;
  c.layers = 12;
  c.hidden = 1024;
  c.ffn = 3072;
  c.heads = c.kv_heads = 16;
  c.head_size = 64;
  return c;
}

int write_wide_model(const TempFolder& folder) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  m.config = wide_config(m);
  m.tensors.clear();
  Random random(3);
  for (const ExpectedTensor& e : expected_tensors(m.config)) {
    TinyTensor t{e.name, e.rows, e.columns, std::vector<float>(e.rows * e.columns)};
    for (float& v : t.values) v = random.real();
    m.tensors.push_back(std::move(t));
  }
  write_tiny_hf(m, folder, 1, rrs_examples::Dtype::kF16);
  return 0;
}

// With a calibration, 4 windows of the model's context, 128 tokens. absmax: the clip search needs
// no memory, only time.
int quantize_quietly(const TempFolder& folder, const std::vector<std::string>& options) {
  const std::string out = folder.file("out.safetensors"), text = folder.file("text.txt");
  std::vector<const char*> arguments{
      "rrs-llm", "quantize", "--model",  folder.path().c_str(), "--threads", "2", "--weight-scale",
      "absmax",  "--out",    out.c_str()};
  for (const std::string& o : options) arguments.push_back(o.c_str());
  for (const char* o : {"--calibration", text.c_str()}) arguments.push_back(o);
  std::filesystem::remove(out);  // an existing file of the model's folder is refused
  if (std::freopen("/dev/null", "w", stdout) == nullptr) return 1;
  return run_program(static_cast<int>(arguments.size()), arguments.data());
}

TEST(Quantize, PeakMemoryIsBoundedByTheLargestTensor) {
  if (rrs_test::kSanitized) GTEST_SKIP() << "a sanitizer's own memory is much of the process";
  const ModelConfig c = wide_config(tiny_model(Architecture::kLlama, true));
  std::size_t largest = 0, all = 0;
  for (const ExpectedTensor& e : expected_tensors(c)) {
    largest = (std::max)(largest, e.rows * e.columns * 4);
    all += e.rows * e.columns * 4;
  }
  const TempFolder folder;
  ASSERT_GT(peak_of_child([&] { return write_wide_model(folder); }), 0u);
  std::string words;
  for (int i = 0; i < 400; ++i) words += " the hello " + std::to_string(i * 7919 % 1000);
  folder.write("text.txt", words);
  EXPECT_GT(all, 3 * largest + 300000000u);  // so that holding the model would fail
  // One linear is solved by GPTQ, the widest: that takes the memory of all, in little of the time.
  // Beside the bound: Hessians in double, that input's, its factors, and those of the layer's
  // others.
  const std::size_t hessian = c.ffn * c.ffn * sizeof(double);
  const std::vector<std::pair<std::vector<std::string>, std::size_t>> cases{
      {{"--method", "rrs"}, 0},
      {{"--calibration-windows", "4", "--method", "smoothquant_w8a8"}, 0},
      {{"--calibration-windows", "4", "--method", "rrs", "--override",
        "blk.11.ffn_down=solver=gptq"},
       3 * hessian}};
  int measured = 0;
  for (const auto& [options, more] : cases) {
    const std::size_t peak =
        peak_of_child([&, o = options] { return quantize_quietly(folder, o); });
    ASSERT_GT(peak, 0u) << options.back();
    std::printf("%s: peak %zu MB, largest tensor %zu MB, Hessian %zu MB, all %zu MB as f32\n",
                options.back().c_str(), peak / 1000000, largest / 1000000, hessian / 1000000,
                all / 1000000);
    std::fflush(stdout);  // a child would print it again
    EXPECT_LE(peak, 3 * largest + 300000000u + more) << options.back();
    ++measured;
  }
  EXPECT_EQ(measured, 3);
}

}  // namespace
