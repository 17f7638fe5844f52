#include "layer_report/channels.hpp"

#include <algorithm>
#include <cmath>

#include "layer_report/args.hpp"
#include "rrs/rrs.hpp"

namespace layer_report {
namespace {

ChannelMagnitudes magnitudes(const Matrix& x) {
  ChannelMagnitudes channels;
  std::vector<float> column(static_cast<std::size_t>(x.rows));
  const auto middle = column.begin() + x.rows / 2;
  for (std::int64_t k = 0; k < x.cols; ++k) {
    for (std::int64_t t = 0; t < x.rows; ++t) {
      column[static_cast<std::size_t>(t)] = std::fabs(x.row(t)[k]);
    }
    channels.largest.push_back(*std::max_element(column.begin(), column.end()));
    std::nth_element(column.begin(), middle, column.end());
    channels.median.push_back(*middle);
  }
  return channels;
}

Matrix rotated(const Matrix& x, const rrs::Rotation& rotation) {
  Matrix out = x;
  std::vector<std::byte> workspace(rrs::rotate_workspace_bytes(x.rows, x.cols, rotation));
  const rrs::Status status =
      rrs::rotate(rrs::MatrixView<const float>(x.values.data(), x.rows, x.cols), rotation,
                  rrs::MatrixView<float>(out.values.data(), x.rows, x.cols), workspace.data(),
                  workspace.size());
  if (!status && status.code != rrs::StatusCode::kNonFinite) throw UserError(status.message());
  return out;
}

// x~ / s, window one: every value in steps of the code.
void smooth(const rrs::ActivationScheme& scheme, Matrix* x) {
  const int qmax = rrs::max_code(scheme.bits);
  for (std::int64_t t = 0; t < x->rows; ++t) {
    float* row = x->values.data() + t * x->cols;
    for (std::int64_t first = 0; first < x->cols; first += scheme.group) {
      const std::int64_t last = (std::min)(first + scheme.group, x->cols);
      float positive = 0.0f, negative = 0.0f;
      for (std::int64_t k = first; k < last; ++k) {
        positive = (std::max)(positive, row[k]);
        negative = (std::max)(negative, -row[k]);
      }
      const float s = rrs::group_scale(scheme.range, scheme.clip, qmax, positive, negative);
      for (std::int64_t k = first; k < last; ++k) row[k] = s == 0.0f ? 0.0f : row[k] / s;
    }
  }
}

}  // namespace

void measure_channels(const Layer& layer, LayerReport* report) {
  const rrs::Scheme scheme = rrs::presets::rrs();
  report->before = magnitudes(layer.input);
  Matrix x = rotated(layer.input, scheme.rotation);
  report->rotated = magnitudes(x);
  smooth(scheme.activation, &x);
  report->smoothed = magnitudes(x);
}

}  // namespace layer_report
