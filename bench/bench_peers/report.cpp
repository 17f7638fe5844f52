#include "bench_peers/report.hpp"

#include <cmath>
#include <cstdio>

#include "support/table.hpp"

namespace rrs_bench {
namespace {

// 1 - gemm / layer: preparation as it is in a layer, with X and the workspace pushed out of the
// caches by the product. Preparation alone, in a loop, finds them there.
Summary share_in_layer(const Measured* layer, const Measured* gemm) {
  Summary s = times_faster(layer, gemm);
  const double rest = 1.0 - s.median;
  s.spread *= s.median / std::fabs(rest);
  s.median = rest;
  return s;
}

std::string ratio_text(const Summary& s) {
  if (std::isnan(s.median)) return "-";
  return number(s.median, 2) + " +-" + number(100 * s.spread, 0) + "%";
}

// ggml's fastest 4-bit product of a level; repacked: only of weights in a repacked layout.
const Measured* ggml_4bit(const std::vector<Measured>& all, const std::string& level,
                          bool repacked = false) {
  const Measured* best = nullptr;
  for (const Measured& m : all) {
    const bool right = (m.info.method == "Q4_0" || m.info.method == "Q4_K") &&
                       m.info.level == level &&
                       (!repacked || m.info.kernel.find("REPACK") != std::string::npos);
    if (right && (best == nullptr || m.seconds() < best->seconds())) best = &m;
  }
  return best;
}

const Measured* rrs_of(const std::vector<Measured>& all, const char* method,
                       const std::string& level, const char* part) {
  return fastest(all, {"rrs", method, level, part});
}

}  // namespace

void report_case(const Case& c, const std::vector<Measured>& all, JsonRecords* records) {
  std::printf("\nM %lld, K %lld, N %lld\n", static_cast<long long>(c.m),
              static_cast<long long>(c.k), static_cast<long long>(c.n));
  Table table({"library", "method", "level", "part", "CPU ms", "wall ms", "+-%", "GMAC/s",
               "x OpenBLAS", "x oneDNN", "x ggml", "kernel"});
  const Measured* blas = fastest(all, {"", "sgemm", "", ""});
  for (const Measured& m : all) {
    const Summary time = summarize(m.series.seconds());
    const Measured* whole = m.info.part == "prepare" ? nullptr : &m;  // a part has no rival
    const Summary by_blas = times_faster(whole, blas);
    const Summary by_onednn = times_faster(whole, fastest(all, {"", "u8s8", m.info.level, ""}));
    const Summary by_ggml = times_faster(whole, ggml_4bit(all, m.info.level));
    const double gmacs = 1e-9 * c.macs() / time.median;
    const double cpu_ms = 1e3 * summarize(m.series.cpu).median;
    const double wall_ms = 1e3 * summarize(m.series.wall).median;
    table.add({m.info.label, m.info.method, m.info.level, m.info.part, number(cpu_ms, 3),
               number(wall_ms, 3), number(100 * time.spread, 1),
               m.info.part == "prepare" ? "-" : number(gmacs, 1), ratio_text(by_blas),
               ratio_text(by_onednn), ratio_text(by_ggml), m.info.kernel});
    records->add({{"kind", "layer"},
                  {"m", c.m},
                  {"k", c.k},
                  {"n", c.n},
                  {"library", m.info.label},
                  {"method", m.info.method},
                  {"level", m.info.level},
                  {"part", m.info.part},
                  {"kernel", m.info.kernel},
                  {"cpu_ms", cpu_ms},
                  {"wall_ms", wall_ms},
                  {"spread", time.spread},
                  {"gmacs", gmacs},
                  {"x_openblas", by_blas.median},
                  {"x_openblas_spread", by_blas.spread},
                  {"x_onednn", by_onednn.median},
                  {"x_onednn_spread", by_onednn.spread},
                  {"x_ggml", by_ggml.median},
                  {"x_ggml_spread", by_ggml.spread}});
  }
  table.print();
}

void report_targets(const std::vector<Target>& targets, JsonRecords* records) {
  std::printf("\n");
  Table table({"target", "level", "measured", "+-%", "asked", "met"});
  for (const Target& t : targets) {
    if (std::isnan(t.value.median)) continue;  // not measured in this run
    const bool met = t.at_most ? t.value.median <= t.bound : t.value.median >= t.bound;
    table.add({t.what, t.level, number(t.value.median, 3), number(100 * t.value.spread, 1),
               (t.at_most ? "<= " : ">= ") + number(t.bound, 2), met ? "yes" : "NO"});
    records->add({{"kind", "target"},
                  {"what", t.what},
                  {"level", t.level},
                  {"value", t.value.median},
                  {"spread", t.value.spread},
                  {"bound", t.bound},
                  {"at_most", t.at_most},
                  {"met", met}});
  }
  table.print();
}

std::vector<Target> layer_targets(const std::vector<Measured>& all) {
  struct Bounds {
    const char* level;
    double openblas, onednn, ggml, w8a8, w4a8;
  };
  constexpr Bounds kBounds[] = {{"avx2", 2.7, 1.3, 2.5, 0.75, 0.85},
                                {"avx512vnni", 4.1, 0.95, 3.0, 0.85, 0.98}};
  const Measured* blas = fastest(all, {"", "sgemm", "", ""});
  std::vector<Target> targets;
  for (const Bounds& b : kBounds) {
    const std::string level = b.level;
    const Measured* g128 = rrs_of(all, "rrs_g128", level, "layer");
    const Measured* rrs = rrs_of(all, "rrs", level, "layer");
    const Measured* onednn = fastest(all, {"", "u8s8", level, ""});
    const auto add = [&](const char* what, const Summary& value, double bound) {
      targets.push_back({what, level, value, bound, false});
    };
    add("rrs_g128 layer / OpenBLAS, best kernel", times_faster(g128, blas), b.openblas);
    add("rrs_g128 layer / OpenBLAS of this level",
        times_faster(g128, fastest(all, {"", "sgemm", level == "avx2" ? level : "avx512", ""})),
        b.openblas);
    add("rrs_g128 layer / oneDNN u8s8", times_faster(g128, onednn), b.onednn);
    add("rrs_g128 layer / ggml best 4-bit", times_faster(g128, ggml_4bit(all, level)), b.ggml);
    add("rrs_g128 layer / ggml best 4-bit, repacked",
        times_faster(g128, ggml_4bit(all, level, true)), b.ggml);
    add("rrs / rrs_g128, layer", times_faster(rrs, g128), 0.88);
    add("W8A8 gemm / oneDNN u8s8",
        times_faster(rrs_of(all, "smoothquant_w8a8", level, "gemm"), onednn), b.w8a8);
    add("W4A8 / W4A4, layer, group 128",
        times_faster(rrs_of(all, "rrs_w4a8_g128", level, "layer"), g128), b.w4a8);
    for (const char* method : {"rrs_g128", "rrs"}) {
      const Measured* layer = rrs_of(all, method, level, "layer");
      targets.push_back({std::string("preparation alone / layer, ") + method, level,
                         times_faster(layer, rrs_of(all, method, level, "prepare")), 0.03, true});
      targets.push_back({std::string("1 - gemm / layer, ") + method, level,
                         share_in_layer(layer, rrs_of(all, method, level, "gemm")), 0.03, true});
    }
  }
  targets.push_back({"avx512 / avx2, rrs_g128 gemm", "avx512",
                     times_faster(rrs_of(all, "rrs_g128", "avx512", "gemm"),
                                  rrs_of(all, "rrs_g128", "avx2", "gemm")),
                     1.6, false});
  return targets;
}

}  // namespace rrs_bench
