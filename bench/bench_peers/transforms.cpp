#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "bench_peers/parts.hpp"
#include "rrs/rrs.hpp"
#include "support/data.hpp"
#include "support/machine.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

constexpr int kLogOrders[] = {11, 12};
// Per timed call: reading the clock takes some 300 ns, five times as long as the copy of 8 KB.
constexpr int kRepeats = 256;

double bound_of(rrs::Isa isa) { return isa < rrs::Isa::kAvx512 ? 10.0 : 5.0; }

}  // namespace

std::vector<Target> run_transforms(const PeerOptions& o, JsonRecords* records) {
  std::vector<Target> targets;
  std::printf("\n");
  Table table({"transform in L1", "level", "ns", "x memcpy"});
  for (const int log2 : kLogOrders) {
    const std::int64_t n = std::int64_t{1} << log2;
    rrs::AlignedBuffer memory(static_cast<std::size_t>(2 * n) * sizeof(float));
    auto* row = reinterpret_cast<float*>(memory.data());
    float* copy = row + n;
    const std::vector<float> x = normal_vector(n, 1.0f, 1);
    std::memcpy(row, x.data(), x.size() * sizeof(float));
    const float scale = rrs::rotation_scale(n);  // keeps repeated transforms bounded
    std::vector<Contender> contenders{{"memcpy", [=] {
                                         for (int r = 0; r < kRepeats; ++r) {
                                           std::memcpy(copy, row,
                                                       static_cast<std::size_t>(n) * sizeof(float));
                                           __asm__ volatile("" : : "r"(copy) : "memory");
                                         }
                                       }}};
    std::vector<rrs::Isa> levels;
    for (int i = 1; i <= static_cast<int>(highest_level()); ++i) {
      const auto isa = static_cast<rrs::Isa>(i);
      if (!rrs::isa_supported(isa)) continue;
      levels.push_back(isa);
      const auto hadamard = rrs::kTables[i]->rotate.hadamard;
      contenders.push_back({rrs::kIsaNames[i], [=] {
                              for (int r = 0; r < kRepeats; ++r) hadamard(row, 1, log2, scale);
                            }});
    }
    const std::vector<Series> series = measure_rounds(contenders, o.rounds);
    for (std::size_t i = 0; i < series.size(); ++i) {
      const Summary ratio = summarize_ratio(series[i].seconds(), series[0].seconds());
      const Summary time = summarize(series[i].seconds());
      const double ns = 1e9 / kRepeats * time.median;
      const std::string name = i == 0 ? "memcpy" : "FWHT";
      table.add({name + " " + std::to_string(n), contenders[i].name, number(ns, 1),
                 number(ratio.median, 2)});
      records->add({{"kind", "transform"},
                    {"n", n},
                    {"level", contenders[i].name},
                    {"ns", ns},
                    {"spread", time.spread},
                    {"x_memcpy", ratio.median},
                    {"x_memcpy_spread", ratio.spread}});
      if (i == 0) continue;
      targets.push_back({"FWHT " + std::to_string(n) + " / memcpy in L1", contenders[i].name, ratio,
                         bound_of(levels[i - 1]), true});
    }
  }
  table.print();
  return targets;
}

}  // namespace rrs_bench
