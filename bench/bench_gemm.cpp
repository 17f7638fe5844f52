// bench_gemm: GMAC/s of every precision, group size and level. Against other libraries:
// bench_peers.
//
//   bench_gemm [--n N] [--k K] [--m 1,8,128,512] [--isa name] [--precision a4] [--group g]
//   [--rounds r]
// One thread. Every line is measured in interleaved rounds (the machine's drift hits all alike);
// the table shows medians. Weights of M = 1 that fit the last level cache stay there: use --n 32768
// for streaming from DRAM.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "rrs/core/dispatch.hpp"
#include "rrs/gemm/gemm.hpp"
#include "support/gemm_tiles.hpp"

namespace {

using rrs_test::GemmCase;
using rrs_test::GemmData;

struct Options {
  std::int64_t n = 4096, k = 4096;
  std::vector<std::int64_t> m{1, 8, 128, 512};
  std::string isa, precision;
  int group = -1;
  int rounds = 7;
};

// CPU time of this thread: other processes cost cache, not time slices.
double seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// One measured line: a packed problem at one level.
struct Line {
  const rrs::KernelTable* table = nullptr;
  const rrs::GemmKernel* kernel = nullptr;
  const GemmData* data = nullptr;
  rrs_test::PackedTiles tiles;
  std::string label;
  std::vector<double> rates;  // GMAC/s per round

  double median() {
    std::sort(rates.begin(), rates.end());
    return rates[rates.size() / 2];
  }
};

// Calls `run` until 20 ms have passed; GMAC/s.
template <class Run>
double rate(double macs, const Run& run) {
  int calls = 0;
  const double start = seconds();
  double now = start;
  do {
    run();
    ++calls;
    now = seconds();
  } while (now - start < 0.02);
  return macs * calls / (now - start) * 1e-9;
}

void run_line(const Line& line, std::vector<float>* y) {
  rrs::GemmProblem p = rrs_test::gemm_problem(*line.data, line.tiles);
  p.output.y = y->data();
  p.output.row_stride = line.data->c.n;
  rrs::run_gemm(*line.table, *line.kernel, p, rrs::SerialExecutor{});
}

struct Precision {
  const char* name;
  int activation_bits, weight_bits;
};
constexpr Precision kPrecisions[] = {
    {"w4a4", 4, 4}, {"w4a8", 8, 4}, {"w8a8", 8, 8}, {"w4a16", 16, 4}, {"w8a16", 16, 8}};

bool wanted(const std::string& filter, const char* name) {
  return filter.empty() || filter == name;
}

void measure(const Options& o, std::int64_t m) {
  std::vector<GemmData> data;
  data.reserve(32);
  std::vector<Line> lines;
  for (const Precision& p : kPrecisions) {
    for (const int group : {32, 64, 128}) {
      if (!wanted(o.precision, p.name) || (o.group >= 0 && o.group != group)) continue;
      data.push_back(rrs_test::make_gemm_data(
          GemmCase{m, o.n, o.k, p.activation_bits, p.weight_bits, group, group, false}));
      for (int i = 0; i < rrs::kIsaCount; ++i) {
        if (!rrs::isa_supported(static_cast<rrs::Isa>(i))) continue;
        const rrs::KernelTable& table = *rrs::kTables[i];
        if (!wanted(o.isa, table.name)) continue;
        if (i == 0 && (o.isa.empty() || m > 8)) continue;  // scalar only when asked for
        Line line;
        line.table = &table;
        line.data = &data.back();
        line.kernel = &rrs_test::kernel_of(table.gemm, line.data->c);
        line.tiles = rrs_test::pack_tiles(*line.data, table.pack, line.kernel->max_rows);
        line.label = "g" + std::to_string(group) + " " + line.kernel->name;
        lines.push_back(std::move(line));
      }
    }
  }
  std::vector<float> y(static_cast<std::size_t>(m * o.n));
  const double macs = static_cast<double>(m) * static_cast<double>(o.n) * static_cast<double>(o.k);
  for (int round = 0; round < o.rounds; ++round) {
    for (Line& line : lines) line.rates.push_back(rate(macs, [&] { run_line(line, &y); }));
  }
  for (Line& line : lines) {
    const double rate_ = line.median();
    const double bytes = static_cast<double>(line.data->weights.size()) / macs +
                         2.0 * static_cast<double>(line.data->scales.size()) / macs;
    std::printf("M %4ld  %-40s %8.1f  weights %.1f GB/s\n", static_cast<long>(m),
                line.label.c_str(), rate_, rate_ * bytes);
  }
  std::fflush(stdout);
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--n") o.n = std::atol(argv[i + 1]);
    if (key == "--k") o.k = std::atol(argv[i + 1]);
    if (key == "--isa") o.isa = argv[i + 1];
    if (key == "--precision") o.precision = argv[i + 1];
    if (key == "--group") o.group = std::atoi(argv[i + 1]);
    if (key == "--rounds") o.rounds = std::atoi(argv[i + 1]);
    if (key == "--m") {
      o.m.clear();
      for (char* at = argv[i + 1]; *at != 0;) {
        o.m.push_back(std::strtol(at, &at, 10));
        if (*at == ',') ++at;
      }
    }
  }
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv);
  std::printf("N %ld K %ld, one thread, GMAC/s (medians of %d rounds)\n", static_cast<long>(o.n),
              static_cast<long>(o.k), o.rounds);
  for (const std::int64_t m : o.m) measure(o, m);
  return 0;
}
