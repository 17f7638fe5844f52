// The same linear layer through SmoothQuant, this library and float libraries, in one run.
//
//   bench_smoothquant                          everything
//   bench_smoothquant --m 512 --shapes 4096x4096 --methods smoothquant_w8a8,rrs_g128,openblas
//
// Every number includes the preparation of activations; weights are prepared once, outside. The
// methods run in interleaved rounds; a ratio is the median over rounds of how many times faster
// than the base the method was in that round, with half the distance between quartiles as its
// spread. SmoothQuant's divisor is folded into the preceding norm, as its authors do: X comes
// divided, W multiplied, and dividing costs nothing.
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "rrs/calibrate/smoothquant.hpp"
#include "support/checked.hpp"
#include "support/data.hpp"
#include "support/eigen_product.hpp"
#include "support/flags.hpp"
#include "support/json_file.hpp"
#include "support/layer.hpp"
#include "support/machine.hpp"
#include "support/openblas.hpp"
#include "support/rounds.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

constexpr const char* kUsage =
    "usage: bench_smoothquant [--m 1,8,128,512] [--shapes 4096x4096,...] (K x N)\n"
    "  [--methods smoothquant_w8a8,...] [--threads 1] [--rounds 7] [--ms 20] [--json FILE]\n";
constexpr const char* kShapesText = "4096x4096,4096x11008,14336x4096,576x1536";
constexpr const char* kMethodsText =
    "smoothquant_w8a8,smoothquant_w4a4,rrs,rrs_g128,rrs_w4a8,openblas,eigen";
constexpr const char* kSmoothQuantBase = "smoothquant_w8a8";
constexpr const char* kFloatBase = "openblas";

struct Options {
  std::vector<std::int64_t> m;
  std::vector<Shape> shapes;
  std::vector<std::string> methods;
  int threads = 1;
  RoundOptions rounds;
  std::string json;
};

Shape parse_shape(const std::string& text, const Flags& flags) {
  long long k = 0, n = 0;
  if (std::sscanf(text.c_str(), "%lldx%lld", &k, &n) != 2 || k < 1 || n < 1) {
    flags.fail("--shapes must be KxN (found '" + text + "')");
  }
  return {k, n};
}

Options parse_options(int argc, char** argv) {
  Flags flags(argc, argv, kUsage);
  Options o;
  o.m = flags.integers("m", "1,8,128,512");
  for (const std::string& text : split(flags.text("shapes", kShapesText), ',')) {
    o.shapes.push_back(parse_shape(text, flags));
  }
  o.methods = split(flags.text("methods", kMethodsText), ',');
  o.threads = static_cast<int>(flags.integer("threads", 1));
  o.rounds.rounds = static_cast<int>(flags.integer("rounds", 7));
  o.rounds.min_seconds = 1e-3 * static_cast<double>(flags.integer("ms", 20));
  o.rounds.wall = o.threads > 1;
  o.json = flags.text("json", "");
  flags.finish();
  if (o.threads < 1 || o.rounds.rounds < 1) flags.fail("--threads and --rounds must be at least 1");
  return o;
}

// X, Y and W of one shape in float, and W of every quantized method.
struct LayerSet {
  Shape shape;
  FloatWeight weight;
  std::vector<float> divisor;  // SmoothQuant
  std::vector<std::pair<std::string, rrs::PreparedWeight>> prepared;

  explicit LayerSet(Shape s) : shape(s), weight(s) {}
};

bool is_quantized(const std::string& method) { return method != "openblas" && method != "eigen"; }
bool is_smoothquant(const std::string& method) { return method.compare(0, 11, "smoothquant") == 0; }

std::vector<float> smoothquant_divisor(const LayerSet& set) {
  constexpr std::int64_t kCalibrationRows = 64;
  const std::vector<float> x = outlier_activations(kCalibrationRows, set.shape.k, 7);
  std::vector<float> x_max, w_max;
  check(rrs::update_channel_maxima(
      rrs::MatrixView<const float>(x.data(), kCalibrationRows, set.shape.k), &x_max));
  check(rrs::update_channel_maxima(set.weight.view(), &w_max));
  rrs::Result<std::vector<float>> scales = rrs::smoothquant_scales(x_max, w_max, 0.5f);
  check(scales.status());
  return std::move(*scales);
}

std::vector<float> multiplied_columns(const std::vector<float>& w, const std::vector<float>& by) {
  std::vector<float> out(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) out[i] = w[i] * by[i % by.size()];
  return out;
}

std::vector<float> divided_columns(const std::vector<float>& x, const std::vector<float>& by) {
  std::vector<float> out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) out[i] = x[i] / by[i % by.size()];
  return out;
}

rrs::PreparedWeight prepare_method(const LayerSet& set, const std::string& method) {
  const rrs::Result<rrs::Scheme> scheme = rrs::presets::by_name(method.c_str());
  check(scheme.status());
  if (!is_smoothquant(method)) return prepare(set.weight.view(), *scheme);
  const std::vector<float> smooth = multiplied_columns(set.weight.values, set.divisor);
  return prepare({smooth.data(), set.shape.n, set.shape.k}, *scheme);
}

std::unique_ptr<LayerSet> make_layer_set(Shape shape, const std::vector<std::string>& methods) {
  auto set = std::make_unique<LayerSet>(shape);
  set->divisor = smoothquant_divisor(*set);
  for (const std::string& method : methods) {
    if (is_quantized(method)) set->prepared.emplace_back(method, prepare_method(*set, method));
  }
  return set;
}

void eigen_on(ThreadPool* pool, const EigenProduct& p) {
  const std::int64_t parts = pool->threads();
  PoolExecutor{pool}(parts, [&p, parts](std::int64_t i) {
    EigenProduct part = p;
    part.first = p.n * i / parts;
    part.last = p.n * (i + 1) / parts;
    eigen_product(part);
  });
}

// One M of a layer: inputs, output, and a contender per method. Contenders refer to it.
class Call {
 public:
  Call(const LayerSet& set, std::int64_t m, const std::vector<std::string>& methods,
       ThreadPool* pool)
      : set_(set), m_(m), pool_(pool), x_(outlier_activations(m, set.shape.k, 3)) {
    smooth_x_ = divided_columns(x_, set.divisor);
    y_.resize(static_cast<std::size_t>(m * set.shape.n));
    for (const std::string& method : methods) contenders_.push_back(make(method));
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const std::vector<Contender>& contenders() const { return contenders_; }

 private:
  Contender make(const std::string& method) {
    const std::int64_t n = set_.shape.n, k = set_.shape.k;
    if (method == "openblas") {
      return {method, [this, n, k] {
                openblas_product(x_.data(), set_.weight.values.data(), y_.data(), m_, n, k);
              }};
    }
    if (method == "eigen") {
      return {method, [this, n, k] {
                eigen_on(pool_, {x_.data(), set_.weight.values.data(), y_.data(), m_, n, k, 0, n});
              }};
    }
    for (const auto& [name, weight] : set_.prepared) {
      if (name != method) continue;
      layers_.push_back(std::make_unique<Layer>(weight, weight.scheme(), m_, pool_));
      Layer* layer = layers_.back().get();
      const float* x = is_smoothquant(method) ? smooth_x_.data() : x_.data();
      return {method, [layer, x] { layer->run(x); }};
    }
    stop("no weight for method " + method);
  }

  const LayerSet& set_;
  std::int64_t m_;
  ThreadPool* pool_;
  std::vector<float> x_, smooth_x_, y_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<Contender> contenders_;
};

std::string kernel_of(const LayerSet& set, const std::string& method, std::int64_t m) {
  if (method == "openblas") return openblas_name() + (m == 1 ? " sgemv" : " sgemm");
  if (method == "eigen") return eigen_has_avx512() ? "Eigen AVX-512" : "Eigen AVX2";
  for (const auto& [name, weight] : set.prepared) {
    if (name == method) return rrs::explain(weight.scheme(), m, set.shape.n, set.shape.k).kernel;
  }
  return "";
}

// How many times faster than `base`; NaN when the base did not run.
Summary speedup(const std::vector<Contender>& contenders, const std::vector<Series>& series,
                std::size_t of, const std::string& base) {
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    if (contenders[i].name == base) {
      return summarize_ratio(series[i].seconds(), series[of].seconds());
    }
  }
  return Summary{};
}

std::string with_spread(const Summary& s) {
  if (std::isnan(s.median)) return "-";
  return number(s.median, 2) + " +-" + number(100.0 * s.spread, 0) + "%";
}

void measure_call(const Options& o, const LayerSet& set, std::int64_t m, ThreadPool* pool,
                  JsonRecords* records) {
  const Call call(set, m, o.methods, pool);
  const std::vector<Series> series = measure_rounds(call.contenders(), o.rounds);
  std::printf("\nM %lld, K x N %lld x %lld\n", static_cast<long long>(m),
              static_cast<long long>(set.shape.k), static_cast<long long>(set.shape.n));
  Table table({"method", "ms", "GMAC/s", "x smoothquant_w8a8", "x OpenBLAS", "kernel"});
  const double macs = static_cast<double>(m * set.shape.k * set.shape.n);
  for (std::size_t i = 0; i < series.size(); ++i) {
    const std::string& method = call.contenders()[i].name;
    const double seconds = summarize(series[i].seconds()).median;
    const Summary smooth = speedup(call.contenders(), series, i, kSmoothQuantBase);
    const Summary blas = speedup(call.contenders(), series, i, kFloatBase);
    const std::string kernel = kernel_of(set, method, m);
    table.add({method, number(1e3 * seconds, 3), number(1e-9 * macs / seconds, 1),
               with_spread(smooth), with_spread(blas), kernel});
    records->add({{"method", method},
                  {"m", m},
                  {"k", set.shape.k},
                  {"n", set.shape.n},
                  {"threads", o.threads},
                  {"ms", 1e3 * seconds},
                  {"kernel", kernel},
                  {"ratio_smoothquant_w8a8", smooth.median},
                  {"spread_smoothquant", smooth.spread},
                  {"ratio_openblas", blas.median},
                  {"spread_openblas", blas.spread}});
  }
  table.print();
}

int run(int argc, char** argv) {
  const Options o = parse_options(argc, argv);
  openblas_set_num_threads(o.threads);
  ThreadPool pool(o.threads);
  JsonRecords records;
  records.describe(argc, argv);
  records.set("openblas", openblas_name());
  std::printf("%s\n", records.description().c_str());
  std::printf("%s time, %d rounds of at least %.0f ms\n", o.rounds.wall ? "wall" : "thread CPU",
              o.rounds.rounds, 1e3 * o.rounds.min_seconds);
  for (const Shape& shape : o.shapes) {
    const std::unique_ptr<LayerSet> set = make_layer_set(shape, o.methods);
    for (const std::int64_t m : o.m) measure_call(o, *set, m, &pool, &records);
  }
  if (!o.json.empty()) records.write(o.json);
  return 0;
}

}  // namespace
}  // namespace rrs_bench

int main(int argc, char** argv) {
  rrs_bench::use_best_openblas(argv);
  return rrs_bench::run(argc, argv);
}
