#include "layer_report/simulate.hpp"

#include "layer_report/metrics.hpp"
#include "rrs/reference/pack.hpp"
#include "rrs/reference/smooth.hpp"

namespace layer_report {

std::vector<float> simulate_rs(const Layer& layer, const rrs::WeightView& weight) {
  const std::int64_t m = layer.m(), n = layer.n(), k = layer.k();
  const std::vector<double> x = rrs::reference::rs_ungrouped(layer.input.values.data(), m, k);
  const std::vector<double> w = rrs::reference::dequantize(weight);
  std::vector<float> y;
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t o = 0; o < n; ++o) {
      y.push_back(static_cast<float>(dot_f64(x.data() + t * k, w.data() + o * k, k)));
    }
  }
  return y;
}

}  // namespace layer_report
