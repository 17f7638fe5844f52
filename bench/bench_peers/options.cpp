#include "bench_peers/options.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "bench_peers/specs.hpp"
#include "support/flags.hpp"
#include "support/thread_pool.hpp"

namespace rrs_bench {
namespace {

constexpr const char* kUsage =
    "usage: bench_peers [--table] [--sweep] [--decode] [--scaling] [--transforms] [--clocks]\n"
    "                   [--all]\n"
    "                   [--other PROGRAM]   the same kernels in another build of bench_peers\n"
    "  without any of these: --table\n"
    "  --m 512,128,8,1   --k 4096  --n 4096   shapes; --m: of the table and --other\n"
    "  --peers rrs,openblas,eigen,onednn,ggml   of the table, decode and clocks; the others\n"
    "                    measure rrs alone\n"
    "  --methods rrs_g128,sgemm,u8s8,Q4_0,...\n"
    "  --rounds 7  --ms 20   measurements per subject, their length\n"
    "  --threads 1       of the table, sweep, decode (default: 1, then 2) and --other; scaling\n"
    "                    compares 1 and 2, clocks and transforms take 1\n"
    "  --sweep-rows 64   --dram-mb 1024  --cache-mb 24   footprints of decode\n"
    "  --json FILE  --svg FILE (roofline)  --sweep-svg FILE\n"
    "  --help\n"
    "environment: RRS_ISA=avx2, the highest level of rrs; RRS_BENCH_LEVELS=avx2,amx, only these\n";

constexpr std::int64_t kMegabyte = std::int64_t{1} << 20;
// Of a dimension, and of a footprint in MB (a terabyte).
constexpr Range kSize{1, std::int64_t{1} << 20};

std::string joined(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : ",") + word;
  return all;
}

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

void parse_parts(Flags* flags, PeerOptions* o) {
  const bool all = flags->given("all");
  o->other = flags->text("other", "");
  o->sweep = flags->given("sweep") || all;
  o->decode = flags->given("decode") || all;
  o->scaling = flags->given("scaling") || all;
  o->transforms = flags->given("transforms") || all;
  o->clocks = flags->given("clocks") || all;
  const bool parts =
      o->sweep || o->decode || o->scaling || o->transforms || o->clocks || !o->other.empty();
  o->table = flags->given("table") || all || !parts;
}

void parse_threads(Flags* flags, PeerOptions* o) {
  const bool chosen = flags->has("threads");
  const int cpus = rrs_examples::usable_cpus();  // a pool would take no more, and say nothing
  o->threads = static_cast<int>(flags->integer("threads", 1, {1, cpus}));
  o->decode_threads = {o->threads};
  if (!chosen && cpus > 1) o->decode_threads = {1, 2};
  if (chosen && !o->table && !o->sweep && !o->decode && o->other.empty() && o->worker.empty()) {
    flags->fail("--threads is of --table, --sweep, --decode and --other");
  }
}

void parse_numbers(Flags* flags, PeerOptions* o) {
  o->m = flags->integers("m", "512,128,8,1", kSize);
  o->k = flags->integer("k", 4096, kSize);
  o->n = flags->integer("n", 4096, kSize);
  o->rounds.rounds = static_cast<int>(flags->integer("rounds", 7, {1, 1000}));
  o->rounds.min_seconds = 1e-3 * static_cast<double>(flags->integer("ms", 20, {0, 60000}));
  o->rounds.wall = o->threads > 1;
  o->sweep_rows = flags->integer("sweep-rows", 64, {1, 4096});
  o->dram_bytes = flags->integer("dram-mb", 1024, kSize) * kMegabyte;
  o->cache_bytes = flags->integer("cache-mb", 24, kSize) * kMegabyte;
}

// Parts that measure this library alone must not swallow the names of other peers.
void parse_peers(Flags* flags, PeerOptions* o) {
  if (!flags->has("peers")) return;
  o->peers = flags->list("peers", "");
  for (const std::string& peer : o->peers) {
    if (peer_specs({peer}).empty()) flags->fail("--peers: no '" + peer + "' in this build");
  }
  const bool rivals = o->table || o->decode || o->clocks;
  const bool alone = o->sweep || o->scaling || !o->other.empty();
  if (!rivals && o->peers != std::vector<std::string>{"rrs"}) {
    flags->fail("--peers is of --table, --decode and --clocks: the other parts measure rrs alone");
  }
  if (alone && !contains(o->peers, "rrs")) {
    flags->fail("--peers must name rrs, which --sweep, --scaling and --other measure");
  }
}

void parse_methods(Flags* flags, PeerOptions* o) {
  const std::vector<std::string> methods = flags->list("methods", "*");
  o->methods = joined(methods);
  if (o->methods == "*") return;
  const std::vector<std::string> known = methods_of(o->peers), ours = methods_of({"rrs"});
  bool any_of_ours = false;
  for (const std::string& method : methods) {
    if (!contains(known, method)) {
      flags->fail("--methods: no '" + method + "' among " + joined(known));
    }
    any_of_ours = any_of_ours || contains(ours, method);
  }
  if (!any_of_ours && (o->sweep || o->scaling || !o->other.empty())) {
    flags->fail("--methods: --sweep, --scaling and --other need one of " + joined(ours));
  }
}

void parse_files(Flags* flags, PeerOptions* o) {
  if (flags->has("svg") && (!o->table || o->threads > 1)) {
    flags->fail("--svg draws the table of one thread: it needs --table and no --threads");
  }
  if (flags->has("sweep-svg") && !o->sweep) flags->fail("--sweep-svg needs --sweep");
  if (!o->other.empty() && access(o->other.c_str(), X_OK) != 0) {
    flags->fail("--other: cannot run '" + o->other + "'");
  }
  o->json = flags->text("json", "");
  o->svg = flags->text("svg", "");
  o->sweep_svg = flags->text("sweep-svg", "");
}

// Before the measurements, which take minutes; an older file keeps its contents until they are
// done.
void require_writable(const Flags& flags, const char* name, const std::string& path) {
  if (path.empty() || std::ofstream(path, std::ios::app)) return;
  flags.fail(std::string("--") + name + ": cannot write '" + path + "'");
}

}  // namespace

PeerOptions parse_peer_options(int argc, char** argv) {
  Flags flags(argc, argv, kUsage);
  PeerOptions o;
  o.worker = flags.text("worker", "");
  parse_parts(&flags, &o);
  parse_threads(&flags, &o);
  parse_numbers(&flags, &o);
  parse_peers(&flags, &o);
  parse_methods(&flags, &o);
  parse_files(&flags, &o);
  flags.finish();
  require_writable(flags, "json", o.json);
  require_writable(flags, "svg", o.svg);
  require_writable(flags, "sweep-svg", o.sweep_svg);
  return o;
}

}  // namespace rrs_bench
