#include "model_source.hpp"

#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "../support/quoted_name.hpp"

namespace rrs_llm {
namespace {

std::string shape(std::size_t rows, std::size_t columns) {
  return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
}

}  // namespace

std::vector<float> ModelSource::read(std::string_view name) const {
  const auto tensor = info(name);
  if (!tensor) {
    throw std::runtime_error(path() + ": tensor " + rrs_examples::quoted_name(name) + ": missing");
  }
  std::vector<float> values(tensor->rows * tensor->columns);
  read_rows(name, 0, tensor->rows, values.data());
  return values;
}

std::unique_ptr<ModelSource> open_model(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) ? open_hf_model(path) : open_gguf_model(path);
}

void check_model(const ModelSource& source) {
  for (const ExpectedTensor& expected : expected_tensors(source.config())) {
    const std::string where =
        source.path() + ": tensor " + rrs_examples::quoted_name(expected.name);
    const auto tensor = source.info(expected.name);
    if (!tensor) throw std::runtime_error(where + ": missing");
    if (tensor->rows != expected.rows || tensor->columns != expected.columns) {
      throw std::runtime_error(where + ": shape " + shape(tensor->rows, tensor->columns) +
                               " is not " + shape(expected.rows, expected.columns));
    }
  }
  const std::size_t tokens = source.tokenizer().size();
  if (tokens > source.config().vocab) {
    throw std::runtime_error(source.path() + ": tokenizer: " + std::to_string(tokens) +
                             " tokens exceed the vocabulary of " +
                             std::to_string(source.config().vocab) + " embedding rows");
  }
}

void check_rows(const std::string& path, std::string_view name, std::size_t rows, std::size_t first,
                std::size_t count) {
  if (first <= rows && count <= rows - first) return;
  throw std::runtime_error(path + ": tensor " + rrs_examples::quoted_name(name) + ": rows [" +
                           std::to_string(first) + ", +" + std::to_string(count) +
                           ") are outside its " + std::to_string(rows));
}

}  // namespace rrs_llm
