#include "layer_report/layers.hpp"

#include <cmath>
#include <string_view>

#include "layer_report/args.hpp"
#include "support/safetensors.hpp"

namespace layer_report {
namespace {

using rrs_examples::Safetensors;
using rrs_examples::Tensor;

// The report holds Y in double and several copies of X: refuse what would not fit a desktop.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 28;

std::string printable(const std::string& name) {
  std::string out;
  for (const char c : name) out += (c < 0x20 || c > 0x7e) ? '?' : c;
  return out;
}

[[noreturn]] void fail(const std::string& path, const std::string& tensor,
                       const std::string& problem) {
  throw UserError(path + ": tensor '" + printable(tensor) + "' " + problem);
}

bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

std::string shape_text(const Tensor& tensor) {
  std::string out = "[";
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    out += (i == 0 ? "" : ", ") + std::to_string(tensor.shape[i]);
  }
  return out + "]";
}

void check_shape(const std::string& path, const Tensor& tensor, const char* expected) {
  if (tensor.shape.size() != 2) {
    fail(path, tensor.name, "has shape " + shape_text(tensor) + ", expected " + expected);
  }
  if (tensor.shape[0] == 0 || tensor.shape[1] == 0) {
    fail(path, tensor.name, "has shape " + shape_text(tensor) + ": it is empty");
  }
  if (tensor.count() > static_cast<std::size_t>(kMaxElements)) {
    fail(path, tensor.name,
         "has " + std::to_string(tensor.count()) + " elements, the limit is " +
             std::to_string(kMaxElements));
  }
}

void check_finite(const std::string& path, const std::string& name, const Matrix& matrix) {
  for (std::size_t i = 0; i < matrix.values.size(); ++i) {
    if (std::isfinite(matrix.values[i])) continue;
    const auto cols = static_cast<std::size_t>(matrix.cols);
    fail(path, name,
         "holds " + std::to_string(matrix.values[i]) + " in row " + std::to_string(i / cols) +
             ", column " + std::to_string(i % cols) + "; all values must be finite");
  }
}

Matrix load_matrix(const std::string& path, const Tensor& tensor, const char* expected) {
  check_shape(path, tensor, expected);
  Matrix matrix;
  matrix.rows = static_cast<std::int64_t>(tensor.shape[0]);
  matrix.cols = static_cast<std::int64_t>(tensor.shape[1]);
  matrix.values = rrs_examples::to_f32(tensor);
  check_finite(path, tensor.name, matrix);
  return matrix;
}

void check_columns(const std::string& path, const std::string& name, const Matrix& matrix,
                   const Layer& layer) {
  if (matrix.cols == layer.k()) return;
  fail(path, name,
       "has " + std::to_string(matrix.cols) + " columns, but '" + printable(layer.name) +
           ".weight' has " + std::to_string(layer.k()) + " (both are K, the inputs)");
}

Layer load_layer(const Safetensors& file, const std::string& name) {
  const std::string& path = file.path();
  Layer layer;
  layer.name = printable(name);
  layer.weight = load_matrix(path, file.require(name + ".weight"), "[N, K]");
  const Tensor* input = file.find(name + ".input");
  if (input == nullptr) {
    fail(path, name + ".input",
         "is missing: '" + printable(name) + ".weight' needs it, as [M, " +
             std::to_string(layer.k()) + "]");
  }
  layer.input = load_matrix(path, *input, "[M, K]");
  check_columns(path, input->name, layer.input, layer);
  if (layer.m() > kMaxElements / layer.n()) {
    fail(path, input->name,
         "gives " + std::to_string(layer.m()) + " x " + std::to_string(layer.n()) +
             " outputs, the limit is " + std::to_string(kMaxElements));
  }
  if (const Tensor* calibration = file.find(name + ".calibration"); calibration != nullptr) {
    layer.calibration = load_matrix(path, *calibration, "[C, K]");
    check_columns(path, calibration->name, layer.calibration, layer);
  }
  return layer;
}

// An input or calibration without its weight is a misspelt name, not something to ignore.
void check_partners(const Safetensors& file) {
  for (const Tensor& tensor : file.tensors()) {
    for (const std::string_view suffix : {".input", ".calibration"}) {
      if (!ends_with(tensor.name, suffix)) continue;
      const std::string name = tensor.name.substr(0, tensor.name.size() - suffix.size());
      if (file.find(name + ".weight") == nullptr) {
        fail(file.path(), name + ".weight",
             "is missing: '" + printable(tensor.name) + "' needs it");
      }
    }
  }
}

std::vector<Layer> load(const Safetensors& file) {
  check_partners(file);
  constexpr std::string_view kSuffix = ".weight";
  std::vector<Layer> layers;
  for (const Tensor& tensor : file.tensors()) {
    if (!ends_with(tensor.name, kSuffix)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSuffix.size());
    if (name.empty()) fail(file.path(), tensor.name, "has no layer name before '.weight'");
    layers.push_back(load_layer(file, name));
  }
  if (layers.empty()) {
    throw UserError(file.path() +
                    ": no layer found; expected tensors NAME.weight [N, K] and NAME.input [M, K]");
  }
  return layers;
}

}  // namespace

std::vector<Layer> load_layers(const std::string& path) {
  try {
    return load(Safetensors(path));
  } catch (const UserError&) {
    throw;
  } catch (const std::runtime_error& error) {  // the reader's messages name file, tensor and field
    throw UserError(error.what());
  }
}

}  // namespace layer_report
