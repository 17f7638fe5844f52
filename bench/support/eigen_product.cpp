// Built once per instruction set, with RRS_BENCH_EIGEN_FUNCTION naming the entry.
#define EIGEN_DONT_PARALLELIZE
#include "support/eigen_product.hpp"

#include <Eigen/Core>

namespace rrs_bench {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

__attribute__((visibility("default"))) void RRS_BENCH_EIGEN_FUNCTION(const EigenProduct& p) {
  const Eigen::Map<const RowMajor> x(p.x, p.m, p.k);
  const Eigen::Map<const RowMajor> w(p.w, p.n, p.k);
  Eigen::Map<RowMajor> y(p.y, p.m, p.n);
  const Eigen::Index count = p.last - p.first;
  y.middleCols(p.first, count).noalias() = x * w.middleRows(p.first, count).transpose();
}

}  // namespace rrs_bench
