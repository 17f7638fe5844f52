// Which peers run, each in which environment.
#pragma once

#include <string>
#include <vector>

#include "bench_peers/session.hpp"

namespace rrs_bench {

// Every peer of this build in every environment worth comparing, restricted to the named peers when
// there are any: OpenBLAS with its default, AVX-512 and AVX2 kernels; oneDNN uncapped and capped at
// the levels of this library; ggml per backend library where the installation has several.
std::vector<PeerSpec> peer_specs(const std::vector<std::string>& peers);

// What --methods may name for these peers (empty: all of this build).
std::vector<std::string> methods_of(const std::vector<std::string>& peers);

// RRS_BENCH_LEVELS restricts the levels, by names between commas; RRS_ISA, to it and those below.
bool wants_level(const std::string& name);

// This library alone, at some levels (names between commas; empty: all).
PeerSpec rrs_spec(const std::string& levels);

}  // namespace rrs_bench
