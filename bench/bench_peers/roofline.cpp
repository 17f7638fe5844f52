#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "bench_peers/chart.hpp"
#include "bench_peers/parts.hpp"
#include "bench_peers/peaks.hpp"
#include "bench_peers/specs.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

struct Slope {
  std::string name;
  double bytes_per_second;
};

// Read bandwidth from memory, and from the cache level that holds a weight.
std::vector<Slope> measure_slopes(const PeerOptions& o) {
  const Sessions sessions = start_sessions({{"memory", "stream", {}}}, 1);
  std::vector<Slope> slopes;
  for (const std::int64_t bytes : {o.dram_bytes, o.cache_bytes}) {
    const Case c{1, 4096, 4096, bytes, "read", ""};
    const std::vector<Measured> all = measure_case(sessions, c, RoundOptions{});
    const Measured* read = fastest(all, {});  // of the patterns
    if (read == nullptr) continue;
    slopes.push_back({"read " + std::to_string(bytes >> 20) + " MB, " + read->info.kernel,
                      read->info.weight_bytes / read->seconds()});
  }
  return slopes;
}

// Multiply-accumulates per byte that must move: weight once, X and Y once.
double intensity(const Case& c, const Measured& m) {
  const double bytes = m.info.weight_bytes + 4.0 * static_cast<double>(c.m * (c.k + c.n));
  return c.macs() / bytes;
}

// Flat roofs with their labels; of two that nearly coincide the lower one is labelled below.
double draw_peaks(const std::vector<InstructionPeak>& peaks, double low, double high,
                  Chart* chart) {
  double top = 0.0;
  for (const InstructionPeak& p : peaks) {
    const double gmacs = 1e-9 * p.macs_per_second;
    bool below = false;
    for (const InstructionPeak& other : peaks) {
      const double ratio = other.macs_per_second / p.macs_per_second;
      below = below || (ratio > 1.0 && ratio < 1.2);
    }
    top = std::max(top, gmacs);
    chart->line({{low, gmacs}, {high, gmacs}}, "#999", true);
    chart->label({low, gmacs}, p.instruction + " (" + p.level + ") " + number(gmacs, 0), "#555",
                 below);
  }
  return top;
}

void draw_slopes(const std::vector<Slope>& slopes, double low, double bottom, double top,
                 Chart* chart) {
  const char* const inks[] = {"#111111", "#9a6a3a"};
  for (std::size_t i = 0; i < slopes.size(); ++i) {
    const std::string ink = inks[i % 2];
    const double rate = 1e-9 * slopes[i].bytes_per_second;
    const double from = std::max(low, bottom / rate), to = top / rate;
    chart->legend(slopes[i].name + ", " + number(rate, 0) + " GB/s", Mark::kSquare, ink);
    if (from < to) chart->line({{from, from * rate}, {to, to * rate}}, ink);
  }
}

Mark mark_of(const std::string& level) {
  if (level == "avx2") return Mark::kCircle;
  if (level == "avxvnni") return Mark::kWedge;
  if (level == "avx512") return Mark::kSquare;
  return level == "amx" ? Mark::kTriangle : Mark::kDiamond;
}

// One colour per method, one mark per level.
std::string colour_key(const Measured& m) {
  const bool ggml = m.info.label.compare(0, 4, "ggml") == 0;
  return (ggml ? "ggml " : m.info.label + " ") + m.info.method;
}

// A layer of ours is drawn whole, not its two steps as well.
bool is_drawn(const Measured& m) { return m.info.label != "rrs" || m.info.part == "layer"; }

}  // namespace

void write_roofline(const PeerOptions& o, const std::vector<CaseResult>& results,
                    JsonRecords* records) {
  const std::vector<Slope> slopes = measure_slopes(o);
  const std::vector<InstructionPeak> peaks = measure_instruction_peaks(7);
  std::printf("\n");
  Table table({"limit", "level", "measured"});
  for (const InstructionPeak& p : peaks) {
    table.add({p.instruction, p.level, number(1e-9 * p.macs_per_second, 1) + " GMAC/s"});
    records->add({{"kind", "peak"},
                  {"instruction", p.instruction},
                  {"level", p.level},
                  {"gmacs", 1e-9 * p.macs_per_second}});
  }
  for (const Slope& s : slopes) {
    table.add({s.name, "", number(1e-9 * s.bytes_per_second, 1) + " GB/s"});
    records->add(
        {{"kind", "bandwidth"}, {"source", s.name}, {"gb_per_s", 1e-9 * s.bytes_per_second}});
  }
  table.print();
  constexpr double kLow = 0.125, kHigh = 1024.0, kBottom = 1.0, kTop = 4096.0;
  Chart chart("Roofline, one thread: " + cpu_model(),
              {"MAC per byte of weight, X and Y", kLow, kHigh, true},
              {"GMAC/s", kBottom, kTop, true});
  draw_slopes(slopes, kLow, kBottom, draw_peaks(peaks, kLow, kHigh, &chart), &chart);
  std::map<std::string, int> colours;
  std::set<std::string> levels;
  for (const CaseResult& r : results) {
    for (const Measured& m : r.measured) {
      if (!is_drawn(m)) continue;
      const std::string key = colour_key(m);
      const auto [found, added] = colours.emplace(key, static_cast<int>(colours.size()));
      if (added) chart.legend(key, Mark::kSquare, colour(found->second));
      levels.insert(m.info.level);
      const double gmacs = 1e-9 * r.problem.macs() / m.seconds();
      records->add({{"kind", "roofline"},
                    {"what", key},
                    {"level", m.info.level},
                    {"kernel", m.info.kernel},
                    {"m", r.problem.m},
                    {"mac_per_byte", intensity(r.problem, m)},
                    {"gmacs", gmacs}});
      chart.point({intensity(r.problem, m), gmacs}, mark_of(m.info.level), colour(found->second),
                  key + " " + m.info.level + ", M " + std::to_string(r.problem.m) + ": " +
                      number(gmacs, 1));
    }
  }
  for (const std::string& level : levels) chart.legend(level, mark_of(level), "#777");
  chart.write(o.svg);
}

}  // namespace rrs_bench
