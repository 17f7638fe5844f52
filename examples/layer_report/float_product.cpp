#define EIGEN_DONT_PARALLELIZE
#include "layer_report/float_product.hpp"

#include <Eigen/Core>

namespace layer_report {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void eigen_product(const Layer& layer, std::vector<float>* y) {
  const Eigen::Map<const RowMajor> x(layer.input.values.data(), layer.m(), layer.k());
  const Eigen::Map<const RowMajor> w(layer.weight.values.data(), layer.n(), layer.k());
  Eigen::Map<RowMajor>(y->data(), layer.m(), layer.n()).noalias() = x * w.transpose();
}

std::string eigen_text() {
  return "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." +
         std::to_string(EIGEN_MAJOR_VERSION) + "." + std::to_string(EIGEN_MINOR_VERSION) +
         ", one thread, compiled without -m flags (" + Eigen::SimdInstructionSetsInUse() +
         "); bench_gemm compares with a tuned BLAS";
}

}  // namespace layer_report
