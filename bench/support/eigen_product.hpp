// Y = X W^T by Eigen, one thread, compiled for one instruction set.
//
// Eigen takes its instruction set from the compiler's flags, and this repository uses none. So that
// the comparison is with Eigen at its best, eigen_product.cpp is built into shared libraries with
// -m flags and hidden symbols (bench/CMakeLists.txt): nothing of them leaks into the kernels that
// are measured.
#pragma once

#include <cstdint>

namespace rrs_bench {

// X [m,k], W [n,k], Y [m,n] from output `first` to `last`, all row-major and contiguous.
struct EigenProduct {
  const float* x;
  const float* w;
  float* y;
  std::int64_t m;
  std::int64_t n;
  std::int64_t k;
  std::int64_t first;
  std::int64_t last;
};

void eigen_product_avx2(const EigenProduct& p);    // -mavx2 -mfma
void eigen_product_avx512(const EigenProduct& p);  // -mavx512f and its companions

// The best of the two that this CPU has.
inline bool eigen_has_avx512() { return __builtin_cpu_supports("avx512f") != 0; }
inline void eigen_product(const EigenProduct& p) {
  if (eigen_has_avx512()) {
    eigen_product_avx512(p);
  } else {
    eigen_product_avx2(p);
  }
}

}  // namespace rrs_bench
