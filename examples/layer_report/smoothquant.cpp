#include "layer_report/smoothquant.hpp"

#include "layer_report/args.hpp"
#include "rrs/calibrate/smoothquant.hpp"

namespace layer_report {
namespace {

std::vector<float> channel_maxima(const Layer& layer, const Matrix& x) {
  std::vector<float> maxima;
  const rrs::Status status = rrs::update_channel_maxima(
      rrs::MatrixView<const float>(x.values.data(), x.rows, x.cols), &maxima);
  if (!status) throw UserError(layer.name + ", SmoothQuant: " + status.message());
  return maxima;
}

}  // namespace

std::vector<float> smoothquant_divisor(const Layer& layer, float alpha) {
  const Matrix& tokens = layer.calibration.rows > 0 ? layer.calibration : layer.input;
  auto scales = rrs::smoothquant_scales(channel_maxima(layer, tokens),
                                        channel_maxima(layer, layer.weight), alpha);
  if (!scales) throw UserError(layer.name + ", SmoothQuant: " + scales.status().message());
  return *scales;
}

}  // namespace layer_report
