#include "bench_peers/peaks.hpp"

#include <cstdint>

#include "bench_peers/clock_rate.hpp"
#include "rrs/core/cpu.hpp"
#include "rrs/core/dispatch.hpp"
#include "rrs/gemm/amx_tiles.hpp"
#include "support/clock.hpp"
#include "support/statistics.hpp"

namespace rrs_bench {
namespace {

constexpr std::int64_t kLoops = 4000000;
constexpr std::int64_t kTileLoops = 200000;
constexpr int kChains = 12;  // more than latency times throughput of any of these

// kLoops times twelve independent instructions on registers of `Clobber` width.
#define RRS_PEAK_LOOP(NAME, TARGET, LINE)                                                        \
  __attribute__((target(TARGET))) void NAME() {                                                  \
    for (std::int64_t i = 0; i < kLoops; ++i) {                                                  \
      __asm__ volatile(LINE("0") LINE("1") LINE("2") LINE("3") LINE("4") LINE("5") LINE("6")     \
                           LINE("7") LINE("8") LINE("9") LINE("10") LINE("11")::                 \
                               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
                                 "xmm8", "xmm9", "xmm10", "xmm11");                              \
    }                                                                                            \
  }

#define RRS_MADDUBS_YMM(r) "vpmaddubsw %%ymm12, %%ymm13, %%ymm" r "\n\t"
#define RRS_MADDUBS_ZMM(r) "vpmaddubsw %%zmm12, %%zmm13, %%zmm" r "\n\t"
#define RRS_DPBUSD_YMM(r) "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm" r "\n\t"
#define RRS_DPBUSD_ZMM(r) "vpdpbusd %%zmm12, %%zmm13, %%zmm" r "\n\t"
#define RRS_FMADD_YMM(r) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" r "\n\t"
#define RRS_FMADD_ZMM(r) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" r "\n\t"

RRS_PEAK_LOOP(maddubs_ymm, "avx2", RRS_MADDUBS_YMM)
RRS_PEAK_LOOP(dpbusd_ymm, "avxvnni", RRS_DPBUSD_YMM)
RRS_PEAK_LOOP(maddubs_zmm, "avx512bw", RRS_MADDUBS_ZMM)
RRS_PEAK_LOOP(dpbusd_zmm, "avx512vnni", RRS_DPBUSD_ZMM)
RRS_PEAK_LOOP(fmadd_ymm, "avx2,fma", RRS_FMADD_YMM)
RRS_PEAK_LOOP(fmadd_zmm, "avx512f", RRS_FMADD_ZMM)

#undef RRS_PEAK_LOOP

#if RRS_HAS_AMX
// Per round trip kChains instructions as well, on the four tiles of sums that the kernel has.
void dot_tiles() {
  rrs::amx::load_config(rrs::amx::tile_config(16, 64));
  for (std::int64_t i = 0; i < kTileLoops; ++i) {
    rrs::amx::dot_tile<0, 4, 6>();
    rrs::amx::dot_tile<1, 4, 7>();
    rrs::amx::dot_tile<2, 4, 6>();
    rrs::amx::dot_tile<3, 4, 7>();
    rrs::amx::dot_tile<0, 5, 6>();
    rrs::amx::dot_tile<1, 5, 7>();
    rrs::amx::dot_tile<2, 5, 6>();
    rrs::amx::dot_tile<3, 5, 7>();
    rrs::amx::dot_tile<0, 4, 6>();
    rrs::amx::dot_tile<1, 4, 7>();
    rrs::amx::dot_tile<2, 4, 6>();
    rrs::amx::dot_tile<3, 4, 7>();
  }
  rrs::amx::release();
}
#else
void dot_tiles() {}
#endif

struct Candidate {
  const char* level;
  const char* instruction;
  bool present;
  double macs;  // per instruction
  void (*loop)();
  std::int64_t loops = kLoops;
};

InstructionPeak measure_peak(const Candidate& c, int rounds) {
  core_ghz();  // finds its unit
  std::vector<double> rates, ghz;
  for (int i = 0; i < rounds; ++i) {
    const Seconds start = now();
    c.loop();
    ghz.push_back(core_ghz());  // before the system calls of the other clock
    rates.push_back(static_cast<double>(c.loops) * kChains * c.macs / since(start).cpu);
  }
  return {c.level, c.instruction, summarize(rates).median, summarize(ghz).median};
}

}  // namespace

std::vector<InstructionPeak> measure_instruction_peaks(int rounds) {
  const bool f = __builtin_cpu_supports("avx512f"), bw = __builtin_cpu_supports("avx512bw");
  const bool avxvnni = (rrs::cpu_features() & rrs::kCpuAvxVnni) != 0;
  const bool vnni = __builtin_cpu_supports("avx512vnni");
  const bool amx = rrs::isa_supported(rrs::Isa::kAmx);
  const Candidate candidates[] = {{"avx2", "vpmaddubsw ymm", true, 32, &maddubs_ymm},
                                  {"avxvnni", "vpdpbusd ymm", avxvnni, 32, &dpbusd_ymm},
                                  {"avx512", "vpmaddubsw zmm", bw, 64, &maddubs_zmm},
                                  {"avx512vnni", "vpdpbusd zmm", vnni, 64, &dpbusd_zmm},
                                  {"amx", "tdpbsud", amx, 16.0 * 16 * 64, &dot_tiles, kTileLoops},
                                  {"avx2", "vfmadd231ps ymm", true, 8, &fmadd_ymm},
                                  {"avx512", "vfmadd231ps zmm", f, 16, &fmadd_zmm}};
  std::vector<InstructionPeak> peaks;
  for (const Candidate& c : candidates) {
    if (c.present) peaks.push_back(measure_peak(c, rounds));
  }
  return peaks;
}

}  // namespace rrs_bench
