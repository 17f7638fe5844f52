#pragma once
// Engines over tiny models, and their logits, for the tests of examples/llm.

#include <memory>
#include <string>
#include <vector>

#include "../../examples/llm/prepare.hpp"
#include "../../examples/llm/session.hpp"
#include "reference_forward.hpp"

namespace rrs_llm_test {

inline std::vector<rrs_llm::TokenId> random_tokens(const TinyModel& m, std::size_t count,
                                                   std::uint32_t seed) {
  std::vector<rrs_llm::TokenId> tokens;
  std::uint32_t state = seed * 2654435761u + 1u;
  for (std::size_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<rrs_llm::TokenId>((state >> 8) % m.config.vocab));
  }
  return tokens;
}

// A model on disk, open, with its engine of one method.
struct TinyEngine {
  std::unique_ptr<rrs_llm::ModelSource> source;
  std::unique_ptr<rrs_llm::ThreadPool> pool;
  std::unique_ptr<rrs_llm::Engine> engine;

  TinyEngine(const std::string& path, const std::string& method, int kv_bits = 16, int threads = 1,
             const rrs_llm::Calibration* calibration = nullptr)
      : source(rrs_llm::open_model(path)), pool(std::make_unique<rrs_llm::ThreadPool>(threads)) {
    const rrs_llm::Method m = rrs_llm::make_method(method, {});
    rrs_llm::PrepareOptions options;
    options.calibration = calibration;
    engine = std::make_unique<rrs_llm::Engine>(std::make_shared<const rrs_llm::ModelParts>(*source),
                                               rrs_llm::prepare_linears(*source, m, options, *pool),
                                               rrs_llm::store_factory(m.kv(kv_bits)), *pool);
  }

  // Logits of every token, the tokens cut into calls of the given sizes (the last takes the rest).
  std::vector<std::vector<float>> logits(const std::vector<rrs_llm::TokenId>& tokens,
                                         const std::vector<std::size_t>& cuts = {}) {
    rrs_llm::Sequence sequence = engine->start();
    std::vector<std::vector<float>> rows;
    const std::size_t vocab = engine->config().vocab;
    const auto stride = static_cast<std::size_t>(engine->logits_stride());
    std::size_t at = 0;
    for (std::size_t i = 0; at < tokens.size(); ++i) {
      const std::size_t left = tokens.size() - at;
      const std::size_t count = i < cuts.size() ? (std::min)(cuts[i], left) : left;
      const std::vector<rrs_llm::TokenId> part(
          tokens.begin() + static_cast<std::ptrdiff_t>(at),
          tokens.begin() + static_cast<std::ptrdiff_t>(at + count));
      const float* hidden = engine->forward(part, &sequence);
      std::vector<float> out(count * stride);
      engine->logits(hidden, static_cast<std::int64_t>(count), out.data());
      for (std::size_t r = 0; r < count; ++r) {
        rows.emplace_back(out.begin() + static_cast<std::ptrdiff_t>(r * stride),
                          out.begin() + static_cast<std::ptrdiff_t>(r * stride + vocab));
      }
      at += count;
    }
    return rows;
  }
};

inline std::string write_tiny_gguf(const TinyModel& m, const TempFolder& folder) {
  return folder.write("tiny.gguf", tiny_gguf(m).bytes());
}

inline rrs_llm::Calibration tiny_calibration(const std::string& path, const TinyModel& m) {
  TinyEngine fp(path, "fp");
  rrs_llm::CalibrationOptions options;
  options.windows = 2;
  options.context = 20;
  options.hessians = true;
  return rrs_llm::calibrate(fp.engine.get(), random_tokens(m, 41, 99), options);
}

// NaN fails.
inline double worst_difference(const std::vector<std::vector<float>>& rows,
                               const std::vector<Row>& expected) {
  double worst = 0.0;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    for (std::size_t i = 0; i < rows[t].size(); ++i) {
      const double d = std::abs(static_cast<double>(rows[t][i]) - expected[t][i]);
      if (!(d <= worst)) worst = d;
    }
  }
  return worst;
}

// Y [rows][N] of a linear on the input that the cache is set to.
inline std::vector<float> applied(const rrs_llm::Linear& linear, rrs_llm::InputCache* input,
                                  const rrs_llm::ThreadPool& pool) {
  const std::int64_t n = linear.packed()->n;
  std::vector<float> y(static_cast<std::size_t>(input->rows() * n));
  rrs_llm::LinearOutput out;
  out.y = y.data();
  out.stride = n;
  linear.apply(*input, out, pool);
  return y;
}

// The same on x [rows][K].
inline std::vector<float> applied(const rrs_llm::Linear& linear, const std::vector<float>& x,
                                  const rrs_llm::ThreadPool& pool) {
  rrs_llm::InputCache input;
  const std::int64_t k = linear.packed()->k;
  input.set(x.data(), static_cast<std::int64_t>(x.size()) / k, k);
  return applied(linear, &input, pool);
}

// A tiny model with what its calibration gave, and methods prepared from both.
struct TinyMethods {
  TempFolder folder;
  TinyModel model = tiny_model(rrs_llm::Architecture::kLlama, true);
  std::string path = write_tiny_gguf(model, folder);
  std::string out = folder.file("out.safetensors");
  std::vector<rrs_llm::TokenId> tokens = random_tokens(model, 30, 17);
  rrs_llm::Calibration calibration;  // empty: for the derived to fill
  std::unique_ptr<rrs_llm::ModelSource> source = rrs_llm::open_model(path);
  rrs_llm::ThreadPool pool{1};

  rrs_llm::LinearStack stack(const std::string& method) const {
    rrs_llm::PrepareOptions options;
    options.calibration = &calibration;
    return rrs_llm::prepare_linears(*source, rrs_llm::make_method(method, {}), options, pool);
  }
  std::vector<std::vector<float>> logits(const std::string& method, int threads = 1) const {
    return TinyEngine(path, method, 16, threads, &calibration).logits(tokens);
  }
};

}  // namespace rrs_llm_test
