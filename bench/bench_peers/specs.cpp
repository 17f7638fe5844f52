#include "bench_peers/specs.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "bench_peers/peer.hpp"
#include "rrs/core/cpu.hpp"
#include "support/flags.hpp"

#ifndef RRS_BENCH_GGML_LIBRARIES
#define RRS_BENCH_GGML_LIBRARIES ""
#endif

namespace rrs_bench {
namespace {

void add_openblas(std::vector<PeerSpec>* all) {
  all->push_back({"OpenBLAS", "openblas", {}});
  if (!__builtin_cpu_supports("avx512f")) return;
  all->push_back({"OpenBLAS", "openblas", {{"OPENBLAS_CORETYPE", "SkylakeX"}}});
  all->push_back({"OpenBLAS", "openblas", {{"OPENBLAS_CORETYPE", "Haswell"}}});
}

void add_onednn(std::vector<PeerSpec>* all) {
  for (const char* isa : {"ALL", "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2_VNNI", "AVX2"}) {
    all->push_back({"oneDNN", "onednn", {{"ONEDNN_MAX_CPU_ISA", isa}}});
  }
}

// Backend libraries beside libggml, best known names first; none of them: whatever was linked.
void add_ggml(std::vector<PeerSpec>* all) {
  const std::string folder = RRS_BENCH_GGML_LIBRARIES;
  bool found = false;
  const auto add = [&](const char* variant, bool runs) -> PeerSpec* {
    const std::string path = folder + "/libggml-cpu-" + variant + ".so";
    if (!runs || access(path.c_str(), R_OK) != 0) return nullptr;
    all->push_back({std::string("ggml ") + variant, "ggml", {{"RRS_BENCH_GGML_BACKEND", path}}});
    found = true;
    return &all->back();
  };
  const bool vnni = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  add("haswell", __builtin_cpu_supports("avx2"));
  add("alderlake", (rrs::cpu_features() & rrs::kCpuAvxVnni) != 0);
  add("skylakex", __builtin_cpu_supports("avx512bw"));
  add("icelake", vnni);
  add("zen4", vnni && __builtin_cpu_supports("avx512bf16"));
  // Built by g++ 12, its AMX leaves die of an invalid tileloadd. One row takes a leaf of VNNI, the
  // fastest that ggml has.
  const bool amx = (rrs::cpu_features() & rrs::kCpuAmxInt8) != 0;
  if (PeerSpec* spec = add("sapphirerapids", vnni && amx)) {
    spec->most_rows = 1;
    spec->may_die = true;
  }
  if (!found) all->push_back({"ggml", "ggml", {}});
}

}  // namespace

std::vector<std::string> methods_of(const std::vector<std::string>& peers) {
  const std::pair<const char*, std::vector<std::string>> all[] = {
      {"rrs", rrs_methods()},
      {"openblas", {"sgemm"}},
      {"eigen", {"product"}},
      {"onednn", {"u8s8"}},
      {"ggml", {"Q4_0", "Q4_K", "Q8_0"}}};
  std::vector<std::string> methods;
  for (const auto& [peer, of_peer] : all) {
    const bool wanted = peers.empty() || std::count(peers.begin(), peers.end(), peer) > 0;
    if (wanted && has_peer(peer)) methods.insert(methods.end(), of_peer.begin(), of_peer.end());
  }
  return methods;
}

std::vector<PeerSpec> peer_specs(const std::vector<std::string>& peers) {
  std::vector<PeerSpec> all{rrs_spec("")}, chosen;
  add_openblas(&all);
  all.push_back({"Eigen", "eigen", {}});
  add_onednn(&all);
  add_ggml(&all);
  for (const PeerSpec& spec : all) {
    bool wanted = peers.empty();
    for (const std::string& peer : peers) wanted = wanted || peer == spec.peer;
    if (wanted && has_peer(spec.peer)) chosen.push_back(spec);
  }
  return chosen;
}

bool wants_level(const std::string& name) {
  const char* levels = std::getenv("RRS_BENCH_LEVELS");
  if (levels == nullptr) return true;
  const std::vector<std::string> wanted = split(levels, ',');
  return std::find(wanted.begin(), wanted.end(), name) != wanted.end();
}

PeerSpec rrs_spec(const std::string& levels) {
  PeerSpec spec{"rrs", "rrs", {}};
  if (!levels.empty()) spec.environment.push_back({"RRS_BENCH_LEVELS", levels});
  return spec;
}

}  // namespace rrs_bench
