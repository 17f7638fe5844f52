// What the numbers were measured on: CPU, compiler, levels of rrs.
#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

#include "rrs/rrs.hpp"
#include "support/checked.hpp"

namespace rrs_bench {

// The first "model name" of /proc/cpuinfo.
inline std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 10, "model name") != 0) continue;
    const std::size_t colon = line.find(':');
    return colon == std::string::npos ? line : line.substr(colon + 2);
  }
  return "unknown CPU";
}

inline std::string compiler() {
#if defined(__clang__)
  return std::string("clang ") + __clang_version__;
#elif defined(__GNUC__)
  return std::string("g++ ") + __VERSION__;
#else
  return "unknown compiler";
#endif
}

// Size of the last-level cache as Linux names it ("32768K"): what a footprint must exceed to come
// from DRAM, and fit into to come from cache.
inline std::string last_level_cache() {
  std::string size = "unknown";
  for (const char* index : {"2", "3"}) {
    std::ifstream file(std::string("/sys/devices/system/cpu/cpu0/cache/index") + index + "/size");
    file >> size;
  }
  return size;
}

// "scalar avx2 avx512 avx512vnni": what this machine can run.
inline std::string supported_levels() {
  std::string all;
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    if (!rrs::isa_supported(static_cast<rrs::Isa>(i))) continue;
    all += (all.empty() ? "" : " ") + std::string(rrs::kIsaNames[i]);
  }
  return all;
}

// The level of calls that ask for none, or why there is none.
inline std::string active_level() {
  const rrs::KernelTable* table = nullptr;
  const rrs::Status status = rrs::select_kernels(std::nullopt, &table);
  return status.ok() ? table->name : status.message();
}

// The same as a level; stops where there is none.
inline rrs::Isa highest_level() {
  const rrs::KernelTable* table = nullptr;
  check(rrs::select_kernels(std::nullopt, &table));
  return *rrs::isa_by_name(table->name);
}

inline std::string command_line(int argc, char** argv) {
  std::string all;
  for (int i = 0; i < argc; ++i) all += (i == 0 ? "" : " ") + std::string(argv[i]);
  for (const char* name : {"RRS_BENCH_LEVELS", "RRS_ISA"}) {
    const char* value = std::getenv(name);
    if (value != nullptr) all = std::string(name) + "=" + value + " " + all;
  }
  return all;
}

}  // namespace rrs_bench
