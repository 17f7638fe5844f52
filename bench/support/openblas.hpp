// OpenBLAS with the kernel that is fastest here.
//
// OpenBLAS chooses a kernel when it is loaded; Debian's 0.3.21 takes Haswell on AVX-512 CPUs that
// are newer than it. So the program runs itself once per candidate as a probe (a small product, a
// few rounds), sets OPENBLAS_CORETYPE to the faster one, and starts itself again.
#pragma once

#include <cblas.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "support/clock.hpp"
#include "support/data.hpp"
#include "support/statistics.hpp"

namespace rrs_bench {

// Y [m,n] = X [m,k] W [n,k]^T. One row is a matrix-vector product, which OpenBLAS does faster as
// such.
inline void openblas_product(const float* x, const float* w, float* y, std::int64_t m,
                             std::int64_t n, std::int64_t k) {
  const int rows = static_cast<int>(m), outputs = static_cast<int>(n), inputs = static_cast<int>(k);
  if (m == 1) {
    cblas_sgemv(CblasRowMajor, CblasNoTrans, outputs, inputs, 1.0f, w, inputs, x, 1, 0.0f, y, 1);
  } else {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, outputs, inputs, 1.0f, x, inputs, w,
                inputs, 0.0f, y, outputs);
  }
}

inline std::string openblas_name() { return std::string("OpenBLAS ") + openblas_get_corename(); }

namespace detail {

inline constexpr const char* kProbe = "RRS_BENCH_OPENBLAS_PROBE";
inline constexpr const char* kChosen = "RRS_BENCH_OPENBLAS_CHOSEN";

// Milliseconds of a 256 x 1024 x 1024 product on one thread.
inline double probe_openblas() {
  constexpr std::int64_t kM = 256, kSize = 1024;
  openblas_set_num_threads(1);
  const std::vector<float> x = normal_vector(kM * kSize, 1.0f, 1);
  const std::vector<float> w = normal_vector(kSize * kSize, 1.0f, 2);
  std::vector<float> y(static_cast<std::size_t>(kM * kSize));
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    const Seconds start = now();
    openblas_product(x.data(), w.data(), y.data(), kM, kSize, kSize);
    times.push_back(1e3 * since(start).cpu);
  }
  return summarize(times).median;
}

struct OpenblasProbe {
  std::string core_type;  // value of OPENBLAS_CORETYPE, empty: unset
  std::string kernel;
  double milliseconds = 0.0;
};

// Runs this program as a probe with OPENBLAS_CORETYPE = core_type.
inline OpenblasProbe run_probe(const std::string& program, const std::string& core_type) {
  OpenblasProbe probe{core_type, "", 1e30};
  std::string command = std::string(kProbe) + "=1 ";
  if (!core_type.empty()) command += "OPENBLAS_CORETYPE=" + core_type + " ";
  std::FILE* pipe = popen((command + "'" + program + "'").c_str(), "r");
  if (pipe == nullptr) return probe;
  char kernel[64] = {0};
  double milliseconds = 0.0;
  if (std::fscanf(pipe, "%63s %lf", kernel, &milliseconds) == 2) {
    probe.kernel = kernel;
    probe.milliseconds = milliseconds;
  }
  pclose(pipe);
  return probe;
}

inline std::string own_path() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : std::string();
}

}  // namespace detail

// Every candidate, measured. The default comes first.
inline std::vector<detail::OpenblasProbe> probe_openblas_kernels() {
  std::vector<detail::OpenblasProbe> all;
  const std::string program = detail::own_path();
  if (program.empty()) return all;
  all.push_back(detail::run_probe(program, ""));
  if (__builtin_cpu_supports("avx512f")) all.push_back(detail::run_probe(program, "SkylakeX"));
  if (__builtin_cpu_supports("avx2")) all.push_back(detail::run_probe(program, "Haswell"));
  return all;
}

// The first line of main(): answers a probe, or chooses and starts the program again. A user's own
// OPENBLAS_CORETYPE is respected.
inline void use_best_openblas(char** argv) {
  if (std::getenv(detail::kProbe) != nullptr) {
    const double milliseconds = detail::probe_openblas();
    std::printf("%s %f\n", openblas_get_corename(), milliseconds);
    std::exit(0);
  }
  if (std::getenv("OPENBLAS_CORETYPE") != nullptr || std::getenv(detail::kChosen) != nullptr)
    return;
  detail::OpenblasProbe best;
  best.milliseconds = 1e30;
  for (const detail::OpenblasProbe& probe : probe_openblas_kernels()) {
    std::fprintf(stderr, "OpenBLAS probe: %s %.2f ms\n", probe.kernel.c_str(), probe.milliseconds);
    if (probe.milliseconds < 0.98 * best.milliseconds) best = probe;
  }
  setenv(detail::kChosen, "1", 1);
  if (best.core_type.empty()) return;  // the default already is the best
  setenv("OPENBLAS_CORETYPE", best.core_type.c_str(), 1);
  execv(detail::own_path().c_str(), argv);
  std::perror("execv");  // only reached on failure: go on with the default
}

}  // namespace rrs_bench
