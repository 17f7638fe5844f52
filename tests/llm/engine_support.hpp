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

}  // namespace rrs_llm_test
