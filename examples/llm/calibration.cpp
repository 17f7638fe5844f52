#include "calibration.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "quantized_file.hpp"
#include "rrs/calibrate/statistics.hpp"
#include "rrs/core/hash.hpp"

namespace rrs_llm {
namespace {

std::uint64_t identity_of(const Engine& engine, const std::vector<TokenId>& tokens,
                          const std::vector<std::size_t>& starts,
                          const CalibrationOptions& options) {
  const std::string model = model_fingerprint(engine.parts().source);
  std::uint64_t h = rrs::hash_bytes(model.data(), model.size(), 7);
  h = rrs::hash_bytes(tokens.data(), tokens.size() * sizeof(TokenId), h);
  h = rrs::hash_bytes(starts.data(), starts.size() * sizeof(std::size_t), h);
  if (engine.prefix() != nullptr) {
    const std::vector<TokenId>& prefix = engine.prefix()->tokens;
    h = rrs::hash_bytes(prefix.data(), prefix.size() * sizeof(TokenId), h);
  }
  return rrs::hash_bytes(&options.context, sizeof options.context, h);
}

// The hidden states of all windows.
struct Windows {
  std::size_t count = 0;
  std::size_t context = 0;
  std::size_t hidden = 0;
  std::vector<float> x;

  float* window(std::size_t w) { return x.data() + w * context * hidden; }
};

Windows embed_windows(Engine* engine, const std::vector<TokenId>& tokens,
                      const std::vector<std::size_t>& starts, std::size_t context) {
  Windows w{starts.size(), context, engine->config().hidden, {}};
  w.x.resize(w.count * context * w.hidden);
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(starts[i]);
    engine->embed_tokens({first, first + static_cast<std::ptrdiff_t>(context)}, w.window(i));
  }
  return w;
}

void set_layer(Engine* engine, std::size_t layer, const LayerLinears& linears) {
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) engine->set_linear(layer, l, linears[l]);
}

// Tokens of all windows, counted through, of which the rows are kept.
class Sampler {
 public:
  Sampler(std::size_t tokens, std::size_t rows) : rows_((std::min)(rows, tokens)) {
    if (rows_ == 0) return;
    step_ = tokens / rows_;
    if (step_ % 2 == 0) --step_;
  }
  bool on() const noexcept { return rows_ > 0; }

  // Those of x [rows][cols], whose first row is token `first`.
  void take(std::size_t first, const float* x, std::int64_t rows, std::int64_t cols,
            std::vector<float>* kept) const {
    for (std::int64_t t = 0; t < rows; ++t) {
      const std::size_t token = first + static_cast<std::size_t>(t);
      if (token % step_ != 0 || token / step_ >= rows_) continue;
      kept->insert(kept->end(), x + t * cols, x + (t + 1) * cols);
    }
  }

 private:
  std::size_t rows_ = 0;
  std::size_t step_ = 1;
};

}  // namespace

std::vector<double> Calibration::hessian(std::size_t layer, std::size_t input) const {
  if (file == nullptr) throw std::runtime_error("calibration: has no Hessians");
  return file->hessian(layer, input);
}

std::vector<std::size_t> window_starts(std::size_t tokens, std::size_t count, std::size_t length) {
  const std::size_t step = (tokens - length) / count;
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < (step == 0 ? 1 : count); ++i) starts.push_back(i * step);
  return starts;
}

void refuse_one_token(const char* what, const std::vector<TokenId>& tokens,
                      const std::vector<std::size_t>& starts, std::size_t length) {
  std::size_t compared = 0;
  for (const std::size_t start : starts) {
    for (std::size_t i = start == 0 ? 1 : start; i < start + length; ++i, ++compared) {
      if (tokens[i] != tokens[1]) return;
    }
  }
  if (compared < 2) return;
  throw std::runtime_error(std::string(what) + ": the text is one token, " +
                           std::to_string(tokens[1]) + ", over and over");
}

std::vector<std::size_t> calibration_starts(const std::vector<TokenId>& tokens,
                                            const CalibrationOptions& options) {
  const std::size_t n = tokens.size();
  if (n == 0) throw std::runtime_error("calibration: the text has no tokens");
  if (options.windows == 0) throw std::runtime_error("calibration: windows must be at least 1");
  if (options.context == 0 || n < options.context) {
    throw std::runtime_error("calibration: the text's " + std::to_string(n) +
                             " tokens do not fill one window of " +
                             std::to_string(options.context));
  }
  std::vector<std::size_t> starts = window_starts(n, options.windows, options.context);
  if (options.context > 1) refuse_one_token("calibration", tokens, starts, options.context);
  return starts;
}

std::string Calibration::text() const {
  char words[64];
  std::snprintf(words, sizeof words, "%zu tokens, %016llx", tokens,
                static_cast<unsigned long long>(identity));
  return words;
}

Calibration calibrate(Engine* engine, const std::vector<TokenId>& tokens,
                      const CalibrationOptions& options) {
  const std::vector<std::size_t> starts = calibration_starts(tokens, options);
  const std::size_t layers = engine->config().layers;
  Calibration c;
  c.tokens = starts.size() * options.context;
  for (const std::size_t start : starts) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(start);
    c.windows.emplace_back(first, first + static_cast<std::ptrdiff_t>(options.context));
  }
  c.identity = identity_of(*engine, tokens, starts, options);
  std::shared_ptr<StatisticsFile> file;
  if (options.hessians) {
    file = std::make_shared<StatisticsFile>(options.file, c.identity, options.resume);
    c.file = file;
  }
  Windows windows = embed_windows(engine, tokens, starts, options.context);
  const Sampler sampler(c.tokens, options.sample_rows);
  if (sampler.on()) c.samples.resize(layers);
  std::size_t done = 0;
  const auto rows = static_cast<std::int64_t>(options.context);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const bool finished = file != nullptr && layer < file->finished();
    if (finished && file->finished() == layers && !sampler.on()) {  // nothing needs the states
      c.layers.push_back(file->read(layer));
      continue;
    }
    if (options.float_layer) set_layer(engine, layer, options.float_layer(layer));
    LayerStatistics s;
    std::size_t window = 0;
    engine->observe(
        [&](std::size_t, std::size_t linear, const float* x, std::int64_t m, std::int64_t k) {
          if (sampler.on()) {
            sampler.take(window * options.context, x, m, k, &c.samples[layer][input_of(linear)]);
          }
          if (finished) return;
          const rrs::Status status =
              rrs::update_statistics(rrs::MatrixView<const float>(x, m, k), options.hessians,
                                     &s[input_of(linear)], engine->pool());
          if (!status) {
            throw std::runtime_error("calibration, " + linear_name(layer, linear) + ": " +
                                     status.message());
          }
        });
    for (window = 0; window < windows.count; ++window) {
      engine->run_layer(layer, rows, windows.window(window));
      done += options.context;
      if (options.progress) options.progress(done, layers * c.tokens);
    }
    if (options.float_layer) set_layer(engine, layer, {});
    if (finished) {
      c.layers.push_back(file->read(layer));
      continue;
    }
    if (file != nullptr) file->append(s);
    for (rrs::InputStatistics& input : s) std::vector<double>().swap(input.hessian);
    c.layers.push_back(std::move(s));
  }
  engine->observe(nullptr);
  return c;
}

}  // namespace rrs_llm
