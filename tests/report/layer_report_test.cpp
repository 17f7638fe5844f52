// layer_report on the shipped layers: records, numbers, expectations, and files that lie.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "../llm/test_files.hpp"
#include "layer_report/args.hpp"
#include "layer_report/json.hpp"
#include "layer_report/layers.hpp"
#include "layer_report/measure.hpp"
#include "layer_report/svg.hpp"
#include "layer_report/table.hpp"
#include "rrs/reference/linear.hpp"
#include "rrs/reference/pack.hpp"
#include "rrs/rrs.hpp"
#include "run_program.hpp"
#include "support/half.hpp"
#include "support/random.hpp"
#include "support/safetensors.hpp"

namespace {

using layer_report::Layer;
using layer_report::LayerReport;
using layer_report::Matrix;
using layer_report::Record;
using layer_report::Report;
using layer_report::UserError;
using rrs_examples::Dtype;
using rrs_llm_test::read_all;
using rrs_llm_test::TempFolder;
using rrs_test::run_program;

const char* const kShipped = RRS_SOURCE_DIR "/examples/data/smollm2-layers.safetensors";
constexpr std::size_t kMethods = 50;  // 15 presets, 36 variants of rrs, one of which is both

const std::vector<Layer>& shipped_layers() {
  static const std::vector<Layer> layers = layer_report::load_layers(kShipped);
  return layers;
}

const Layer& shipped_layer(const std::string& name) {
  for (const Layer& layer : shipped_layers()) {
    if (layer.name == name) return layer;
  }
  throw std::runtime_error("no layer " + name);
}

// Measured once for all tests; one timing round, since times are not tested.
const Report& shipped_report() {
  static const Report report = [] {
    Report r = layer_report::describe_run(kShipped, 1);
    for (const Layer& layer : shipped_layers()) {
      r.layers.push_back(layer_report::measure_layer(layer, layer_report::all_methods(), 1));
    }
    return r;
  }();
  return report;
}

const Record& record(const std::string& layer, const std::string& method) {
  for (const LayerReport& l : shipped_report().layers) {
    if (l.name != layer) continue;
    for (const Record& r : l.records) {
      if (r.method.name == method && !r.method.grid) return r;
    }
  }
  throw std::runtime_error("no record " + layer + " " + method);
}

void write_all(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

// ---- small files, built by hand -----------------------------------------------------------------

struct Part {
  std::string name;
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

Part part(const std::string& name, std::size_t rows, std::size_t cols, std::uint64_t seed) {
  return {
      name, {rows, cols}, rrs_test::normal_vector(static_cast<std::int64_t>(rows * cols), seed)};
}

std::string encode(const std::vector<float>& values, Dtype dtype) {
  std::string bytes;
  for (const float v : values) {
    const std::uint32_t f32 = rrs_examples::bits_from_float(v);
    const std::uint16_t half =
        dtype == Dtype::kF16 ? rrs_examples::f32_to_f16(v) : rrs_examples::f32_to_bf16(v);
    if (dtype == Dtype::kF32)
      bytes.append(reinterpret_cast<const char*>(&f32), 4);
    else
      bytes.append(reinterpret_cast<const char*>(&half), 2);
  }
  return bytes;
}

void write_parts(const std::string& path, const std::vector<Part>& parts,
                 Dtype dtype = Dtype::kF32) {
  std::vector<std::string> bytes;
  std::vector<rrs_examples::Tensor> tensors;
  bytes.reserve(parts.size());
  for (const Part& p : parts) {
    bytes.push_back(encode(p.values, dtype));
    tensors.push_back({p.name, dtype, p.shape,
                       reinterpret_cast<const std::byte*>(bytes.back().data()),
                       bytes.back().size()});
  }
  rrs_examples::write_safetensors(path, tensors);
}

std::string load_error(const std::string& path) {
  try {
    (void)layer_report::load_layers(path);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

// ---- an independent computation in double
// ---------------------------------------------------------

// x H with Hadamard blocks of 32, from the definition: entry (i, j) is (-1)^popcount(i & j).
std::vector<double> rotate_blocks(const std::vector<double>& x) {
  std::vector<double> out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t block = i / 32 * 32;
    for (std::size_t j = 0; j < 32; ++j) {
      const bool negative = __builtin_popcountll(j & (i % 32)) % 2 != 0;
      out[i] += (negative ? -x[block + j] : x[block + j]) / std::sqrt(32.0);
    }
  }
  return out;
}

// One scale for x[first, last), codes, and back.
void quantize_set(std::vector<double>* x, std::size_t first, std::size_t last, bool full,
                  double qmax) {
  double positive = 0.0, negative = 0.0;
  for (std::size_t k = first; k < last; ++k) {
    positive = (std::max)(positive, (*x)[k]);
    negative = (std::max)(negative, -(*x)[k]);
  }
  const bool up = positive >= negative;
  const double e = up ? positive : negative, o = up ? negative : positive;
  const double s = full ? (up ? -1.0 : 1.0) * (std::max)(e / (qmax + 1.0), o / qmax) : e / qmax;
  for (std::size_t k = first; k < last; ++k) {
    const double code = std::nearbyint((*x)[k] / s);
    (*x)[k] = s * (std::min)((std::max)(code, -qmax - 1.0), qmax);
  }
}

// Median error of a preset with window one, blocks of 32 or no rotation: weights by the library
// (packed, then decoded by the oracle), the rest here.
double independent_median(const Layer& layer, const rrs::Scheme& scheme) {
  const auto weight = rrs::prepare_weight(
      rrs::MatrixView<const float>(layer.weight.values.data(), layer.n(), layer.k()), scheme);
  if (!weight) throw std::runtime_error(weight.status().message());
  const std::vector<double> dense = rrs::reference::dequantize(weight->view());
  const auto k = static_cast<std::size_t>(layer.k());
  const std::size_t group = scheme.activation.group == rrs::kRowGroup
                                ? k
                                : static_cast<std::size_t>(scheme.activation.group);
  std::vector<double> errors;
  for (std::int64_t t = 0; t < layer.m(); ++t) {
    std::vector<double> x(layer.input.row(t), layer.input.row(t) + layer.k());
    const std::vector<double> exact = x;
    if (scheme.rotation.kind == rrs::RotationKind::kBlock) x = rotate_blocks(x);
    for (std::size_t first = 0; first < k; first += group) {
      quantize_set(&x, first, first + group, scheme.activation.range == rrs::Range::kFull,
                   rrs::max_code(scheme.activation.bits));
    }
    double error = 0.0, norm = 0.0;
    for (std::int64_t n = 0; n < layer.n(); ++n) {
      double y = 0.0, d = 0.0;
      for (std::size_t i = 0; i < k; ++i) {
        const double yi = exact[i] * static_cast<double>(layer.weight.row(n)[i]);
        y += yi;
        d += x[i] * dense[static_cast<std::size_t>(n) * k + i] - yi;
      }
      error += d * d;
      norm += y * y;
    }
    errors.push_back(std::sqrt(error / norm));
  }
  std::sort(errors.begin(), errors.end());
  return 0.5 * (errors[(errors.size() - 1) / 2] + errors[errors.size() / 2]);
}

// ---- records
// --------------------------------------------------------------------------------------

TEST(LayerReport, JsonHasEveryRecordAndExactlyTheKeys) {
  const auto json = nlohmann::json::parse(layer_report::json_text(shipped_report()));
  ASSERT_TRUE(json.is_array());
  ASSERT_EQ(json.size(), 3 * kMethods);
  const std::set<std::string> keys = {
      "layer",       "method",          "window",       "activation_bits", "activation_group",
      "weight_bits", "weight_group",    "error_median", "error",           "victim_error",
      "error_worst", "bits_per_weight", "prepare_ms",   "gemm_ms",         "kernel",
      "simulated"};
  std::size_t simulated = 0, grid = 0;
  std::set<std::string> distinct;
  for (const auto& r : json) {
    std::set<std::string> found;
    for (const auto& item : r.items()) found.insert(item.key());
    EXPECT_EQ(found, keys);
    EXPECT_TRUE(r["simulated"].is_boolean());
    for (const char* key :
         {"error_median", "error", "victim_error", "error_worst", "bits_per_weight",
          "activation_bits", "activation_group", "weight_bits", "weight_group"}) {
      EXPECT_TRUE(r[key].is_number()) << key << " of " << r["method"];
    }
    for (const char* key : {"prepare_ms", "gemm_ms"}) {
      EXPECT_EQ(r[key].is_null(), r["simulated"].get<bool>()) << r["method"];
    }
    if (r["simulated"]) ++simulated;
    if (r["method"] == "rrs") {
      ++grid;
      distinct.insert(r["layer"].get<std::string>() + r["window"].get<std::string>() + "/" +
                      r["activation_group"].dump() + "/" + r["activation_bits"].dump());
    }
  }
  EXPECT_EQ(simulated, 3u);
  EXPECT_EQ(grid, 3u * 36u);
  EXPECT_EQ(distinct.size(), 3u * 36u);
}

// Codes, one f16 scale per output, and the divisor of the input where there is one.
TEST(LayerReport, BitsAreAllThatIsStored) {
  int checked = 0;
  for (const LayerReport& layer : shipped_report().layers) {
    const double scales = 16.0 / static_cast<double>(layer.k);
    const double divisor = 32.0 / static_cast<double>(layer.n);
    for (const Record& r : layer.records) {
      double expected = 0.0;
      if (r.method.name == "rtn") expected = 4.0 + scales;
      if (r.method.name == "smoothquant_w4a4") expected = 4.0 + scales + divisor;
      if (r.method.name == "smoothquant_w8a8") expected = 8.0 + scales + divisor;
      if (expected == 0.0) continue;
      EXPECT_NEAR(r.bits_per_weight, expected, 1e-12) << layer.name << " " << r.method.name;
      ++checked;
    }
  }
  EXPECT_EQ(checked, 9);
}

TEST(LayerReport, ErrorsAreOrderedAsTheyMustBe) {
  int checked = 0;
  for (const LayerReport& layer : shipped_report().layers) {
    for (const Record& r : layer.records) {
      const std::string which = layer.name + " " + r.method.name;
      EXPECT_GT(r.errors.median, 0.0) << which;
      EXPECT_LE(r.errors.median, r.errors.worst) << which;
      EXPECT_LE(r.errors.all, r.errors.worst * 1.0000001) << which;
      EXPECT_TRUE(std::isfinite(r.errors.victims)) << which;
      EXPECT_GE(r.bits_per_weight, 4.0) << which;
      EXPECT_LT(r.bits_per_weight, 9.0) << which;
      EXPECT_FALSE(r.kernel.empty()) << which;
      ++checked;
    }
  }
  EXPECT_EQ(checked, static_cast<int>(3 * kMethods));
}

// At 16 bits activations are not quantized, so neither window nor group can matter.
TEST(LayerReport, FloatActivationsIgnoreWindowAndGroup) {
  int checked = 0;
  for (const LayerReport& layer : shipped_report().layers) {
    const double expected = record(layer.name, "rrs_w4a16").errors.median;
    for (const Record& r : layer.records) {
      if (r.method.name != "rrs" || r.method.scheme.activation.bits != 16) continue;
      EXPECT_EQ(r.errors.median, expected) << layer.name;
      ++checked;
    }
  }
  EXPECT_EQ(checked, 3 * 12);
}

// The only difference may be codes that fall on the other side of a rounding boundary in f32.
TEST(LayerReport, MedianAgreesWithAnIndependentComputationInDouble) {
  int checked = 0;
  for (const char* name : {"rtn", "rrs", "rrs_w4a8"}) {
    const rrs::Scheme scheme = *rrs::presets::by_name(name);
    for (const char* layer : {"blk.12.attn_q", "blk.18.attn_output"}) {
      const double expected = independent_median(shipped_layer(layer), scheme);
      EXPECT_NEAR(record(layer, name).errors.median, expected, 2e-3 * expected)
          << name << " on " << layer;
      ++checked;
    }
  }
  EXPECT_EQ(checked, 6);
}

// The same against the library's own oracle, for what the above does not cover: full rotation,
// sorted groups, shared windows, float activations.
TEST(LayerReport, MedianAgreesWithTheOracle) {
  const Layer& layer = shipped_layer("blk.12.attn_q");
  const std::vector<double> exact = layer_report::float64_product(layer);
  int checked = 0;
  for (const char* name : {"quarot", "rs_g32", "rrs_published", "rrs_rows16", "rrs_w4a16"}) {
    const rrs::Scheme scheme = *rrs::presets::by_name(name);
    const auto weight = rrs::prepare_weight(
        rrs::MatrixView<const float>(layer.weight.values.data(), layer.n(), layer.k()), scheme);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    const std::vector<double> oracle =
        rrs::reference::linear(layer.input.values.data(), layer.m(), weight->view(), scheme);
    const std::vector<float> y(oracle.begin(), oracle.end());
    const double expected = layer_report::measure_errors(y, exact, layer.m(), layer.n(), 0).median;
    EXPECT_NEAR(record(layer.name, name).errors.median, expected, 2e-3 * expected) << name;
    ++checked;
  }
  EXPECT_EQ(checked, 5);
}

TEST(LayerReport, TheDefaultBeatsQuarotOnAnOrdinaryLayer) {
  const double rrs = record("blk.12.attn_q", "rrs").errors.median;
  const double quarot = record("blk.12.attn_q", "quarot").errors.median;
  EXPECT_LE(rrs, 0.80 * quarot) << rrs << " against " << quarot;
}

TEST(LayerReport, TheDefaultProtectsVictimsOfTheSpike) {
  const double rrs = record("blk.11.ffn_down", "rrs").errors.victims;
  const double published = record("blk.11.ffn_down", "rrs_published").errors.victims;
  EXPECT_LE(rrs, 0.55 * published) << rrs << " against " << published;
}

TEST(LayerReport, SpikeIsTheFirstRowWithTheLargestMagnitude) {
  Matrix x{4, 2, {1.0f, 2.0f, -5.0f, 0.0f, 5.0f, 5.0f, 0.0f, 0.0f}};
  EXPECT_EQ(layer_report::spike_row(x), 1);
  for (const LayerReport& layer : shipped_report().layers) {
    if (layer.name == "blk.11.ffn_down") {
      EXPECT_EQ(layer.spike, 0);
    }
  }
}

TEST(LayerReport, MetricsOnNumbersDoneByHand) {
  // Tokens: relative errors 1/2, 0, undefined (zero reference), 3; the spike is the last.
  const std::vector<double> reference = {2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0};
  const std::vector<float> y = {2.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 4.0f, 0.0f};
  const layer_report::Errors e = layer_report::measure_errors(y, reference, 4, 2, 3);
  EXPECT_DOUBLE_EQ(e.median, 0.5);
  EXPECT_DOUBLE_EQ(e.worst, 3.0);
  EXPECT_DOUBLE_EQ(e.all, std::sqrt(10.0 / 6.0));
  EXPECT_DOUBLE_EQ(e.victims, std::sqrt(1.0 / 5.0));
  EXPECT_DOUBLE_EQ(layer_report::median({4.0, 1.0, 3.0, 2.0}), 2.5);
  EXPECT_TRUE(std::isnan(layer_report::median({})));
  EXPECT_TRUE(std::isnan(layer_report::median({1.0, std::nan("")})));
}

// ---- outputs
// --------------------------------------------------------------------------------------

TEST(LayerReport, TextAndPictureNameEveryLayerAndPreset) {
  const Report& report = shipped_report();
  const std::string svg = layer_report::svg_text(report);
  EXPECT_EQ(svg.rfind("<svg ", 0), 0u);
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  int checked = 0;
  for (const LayerReport& layer : report.layers) {
    const std::string text = layer_report::layer_text(layer);
    EXPECT_NE(svg.find(layer.name), std::string::npos);
    EXPECT_NE(text.find(layer.name), std::string::npos);
    rrs::presets::for_each([&](const rrs::NamedPreset& preset) {
      EXPECT_NE(text.find(std::string("\n  ") + preset.name), std::string::npos) << preset.name;
      EXPECT_NE(svg.find(std::string(">") + preset.name), std::string::npos) << preset.name;
      ++checked;
    });
  }
  EXPECT_EQ(checked, 45);
  EXPECT_NE(layer_report::footer_text(report).find(report.machine), std::string::npos);
}

TEST(LayerReport, UndefinedNumbersBecomeNullAndLookLikeDashes) {
  Report report = shipped_report();
  report.layers.resize(1);
  report.layers[0].name = "a<&>b";
  report.layers[0].records.resize(1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  report.layers[0].records[0].errors = {nan, std::numeric_limits<double>::infinity(), nan, nan};
  const auto json = nlohmann::json::parse(layer_report::json_text(report));
  for (const char* key : {"error_median", "error", "victim_error", "error_worst"}) {
    EXPECT_TRUE(json[0][key].is_null()) << key;
  }
  const std::string svg = layer_report::svg_text(report);
  EXPECT_NE(svg.find("a&lt;&amp;&gt;b"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(layer_report::layer_text(report.layers[0]).find("nan"), std::string::npos);
}

// ---- files --------------------------------------------------------------------------------------

TEST(LayerReport, ReadsEveryElementType) {
  const std::vector<Part> parts = {part("p.weight", 5, 33, 1), part("p.input", 3, 33, 2),
                                   part("p.calibration", 2, 33, 3)};
  const TempFolder folder;
  const std::string path = folder.file("types");
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBf16}) {
    write_parts(path, parts, dtype);
    const std::vector<Layer> layers = layer_report::load_layers(path);
    ASSERT_EQ(layers.size(), 1u);
    EXPECT_EQ(layers[0].name, "p");
    EXPECT_EQ(layers[0].calibration.rows, 2);
    for (std::size_t i = 0; i < parts[0].values.size(); ++i) {
      const float v = parts[0].values[i];
      const float bound = dtype == Dtype::kF32 ? 0.0f : std::fabs(v) * 0x1p-8f + 0x1p-24f;
      EXPECT_NEAR(layers[0].weight.values[i], v, bound);
    }
  }
}

TEST(LayerReport, OddShapesAndEmptyContentRun) {
  const TempFolder folder;
  const std::string path = folder.file("odd"), json = folder.file("odd.json"),
                    svg = folder.file("odd.svg");
  struct Case {
    std::size_t m, n, k;
    bool zero;
  };
  int checked = 0;
  for (const Case& c : {Case{1, 1, 1, false}, Case{2, 5, 33, false}, Case{3, 17, 577, false},
                        Case{4, 8, 64, true}}) {
    std::vector<Part> parts = {part("p.weight", c.n, c.k, 1), part("p.input", c.m, c.k, 2)};
    if (c.zero) parts[1].values.assign(parts[1].values.size(), 0.0f);
    write_parts(path, parts);
    ::testing::internal::CaptureStdout();
    EXPECT_EQ(
        run_program({path.c_str(), "--json", json.c_str(), "--svg", svg.c_str(), "--rounds", "1"}),
        0);
    const std::string text = ::testing::internal::GetCapturedStdout();
    EXPECT_NE(text.find("no p.calibration"), std::string::npos);
    EXPECT_EQ(nlohmann::json::parse(read_all(json)).size(), kMethods);
    EXPECT_EQ(read_all(svg).find("nan"), std::string::npos);
    EXPECT_EQ(text.find("nan"), std::string::npos);
    ++checked;
  }
  EXPECT_EQ(checked, 4);
}

TEST(LayerReport, WrongTensorsGetAMessageThatNamesThem) {
  const Part weight = part("p.weight", 4, 8, 1), input = part("p.input", 3, 8, 2);
  Part nan = input, flat = input, renamed = input, empty = input;
  nan.values[9] = std::numeric_limits<float>::quiet_NaN();
  flat.shape = {24};
  renamed.name = "q.input";
  empty.shape = {0, 8};
  empty.values.clear();
  struct Case {
    std::vector<Part> parts;
    const char* expected;
  };
  const std::vector<Case> cases = {
      {{weight}, "'p.input' is missing: 'p.weight' needs it"},
      {{input}, "'p.weight' is missing: 'p.input' needs it"},
      {{weight, input, part("q.calibration", 3, 8, 4)}, "'q.weight' is missing"},
      {{weight, part("p.input", 3, 9, 2)}, "'p.input' has 9 columns, but 'p.weight' has 8"},
      {{weight, input, part("p.calibration", 3, 7, 2)}, "'p.calibration' has 7 columns"},
      {{weight, flat}, "'p.input' has shape [24], expected [M, K]"},
      {{weight, empty}, "'p.input' has shape [0, 8]: it is empty"},
      {{weight, nan}, "'p.input' holds nan in row 1, column 1"},
      {{weight, renamed}, "'q.weight' is missing: 'q.input' needs it"},
      {{part("other", 2, 2, 1)}, "no layer found"},
      {{part(".weight", 2, 2, 1), part(".input", 2, 2, 1)}, "has no layer name"}};
  const TempFolder folder;
  const std::string path = folder.file("wrong");
  for (const Case& c : cases) {
    write_parts(path, c.parts);
    const std::string message = load_error(path);
    EXPECT_NE(message.find(c.expected), std::string::npos) << message << "\n" << c.expected;
    EXPECT_NE(message.find(path), std::string::npos) << message;
  }
  EXPECT_EQ(cases.size(), 11u);
}

TEST(LayerReport, TruncatedAndLyingFilesAreRefused) {
  const TempFolder folder;
  const std::string path = folder.file("lying");
  write_parts(path, {part("p.weight", 4, 8, 1), part("p.input", 3, 8, 2)});
  const std::string good = read_all(path);
  ASSERT_EQ(load_error(path), "");
  for (std::size_t length = 0; length < good.size(); ++length) {
    write_all(path, good.substr(0, length));
    EXPECT_NE(load_error(path), "") << "prefix of " << length << " bytes";
  }
  // Any byte of length and header changed: refused, or still a sound file; never a crash.
  const std::size_t header = good.size() - (4 * 8 + 3 * 8) * sizeof(float);
  std::size_t refused = 0;
  for (std::size_t i = 0; i < header; ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    write_all(path, bad);
    if (!load_error(path).empty()) ++refused;
  }
  EXPECT_GT(refused, header / 3);
  write_all(path, good + "x");
  EXPECT_NE(load_error(path), "");
  std::remove(path.c_str());
  EXPECT_NE(load_error(path), "") << "the file is gone";
}

}  // namespace
