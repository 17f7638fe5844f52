#include "bench_peers/options.hpp"

#include "bench_peers/specs.hpp"
#include "support/flags.hpp"

namespace rrs_bench {
namespace {

constexpr const char* kUsage =
    "usage: bench_peers [--table] [--sweep] [--decode] [--scaling] [--transforms] [--clocks]\n"
    "                   [--all]\n"
    "                   [--other PROGRAM]   the same kernels in another build of bench_peers\n"
    "  without any of these: --table\n"
    "  --m 512,128,8,1   --k 4096  --n 4096   shapes of the table\n"
    "  --peers rrs,openblas,eigen,onednn,ggml   --methods rrs_g128,sgemm,u8s8,Q4_0,...\n"
    "  --rounds 7  --ms 20  --threads 1   measurements per subject, their length, threads\n"
    "  --sweep-rows 64   --dram-mb 1024  --cache-mb 24   footprints of decode\n"
    "  --json FILE  --svg FILE (roofline)  --sweep-svg FILE\n";

constexpr std::int64_t kMegabyte = std::int64_t{1} << 20;

}  // namespace

PeerOptions parse_peer_options(int argc, char** argv) {
  Flags flags(argc, argv, kUsage);
  PeerOptions o;
  o.worker = flags.text("worker", "");
  o.other = flags.text("other", "");
  o.threads = static_cast<int>(flags.integer("threads", 1));
  o.m = flags.integers("m", "512,128,8,1");
  o.k = flags.integer("k", 4096);
  o.n = flags.integer("n", 4096);
  o.peers = split(flags.text("peers", ""), ',');
  o.methods = flags.text("methods", "*");
  o.rounds.rounds = static_cast<int>(flags.integer("rounds", 7));
  o.rounds.min_seconds = 1e-3 * static_cast<double>(flags.integer("ms", 20));
  o.rounds.wall = o.threads > 1;
  const bool all = flags.given("all");
  o.sweep = flags.given("sweep") || all;
  o.decode = flags.given("decode") || all;
  o.scaling = flags.given("scaling") || all;
  o.transforms = flags.given("transforms") || all;
  o.clocks = flags.given("clocks") || all;
  o.table = flags.given("table") || all;
  const bool parts =
      o.sweep || o.decode || o.scaling || o.transforms || o.clocks || !o.other.empty();
  o.table = o.table || !parts;
  o.sweep_rows = flags.integer("sweep-rows", 64);
  o.dram_bytes = flags.integer("dram-mb", 1024) * kMegabyte;
  o.cache_bytes = flags.integer("cache-mb", 24) * kMegabyte;
  o.json = flags.text("json", "");
  o.svg = flags.text("svg", "");
  o.sweep_svg = flags.text("sweep-svg", "");
  flags.finish();
  if (o.threads < 1 || o.rounds.rounds < 1 || o.k < 1 || o.n < 1) {
    flags.fail("--threads, --rounds, --k and --n must be at least 1");
  }
  for (const std::int64_t m : o.m) {
    if (m < 1) flags.fail("--m must be at least 1");
  }
  if (!o.svg.empty() && (!o.table || o.threads > 1)) {
    flags.fail("--svg draws the table of one thread: it needs --table and no --threads");
  }
  if (!o.sweep_svg.empty() && !o.sweep) flags.fail("--sweep-svg needs --sweep");
  for (const std::string& peer : o.peers) {
    if (peer_specs({peer}).empty()) flags.fail("no peer '" + peer + "' in this build");
  }
  return o;
}

}  // namespace rrs_bench
