#include "plan_measure.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "calibration.hpp"
#include "float_kernels.hpp"

namespace rrs_llm {
namespace {

constexpr std::int64_t kChunkRows = 96;  // logits in memory beside the reference's

// Logits of scored positions of one window, and the divergence of others from them.
class Scorer {
 public:
  Scorer(Engine* engine, const ThreadPool& pool, std::size_t step)
      : engine_(engine), pool_(pool), step_(step) {}

  void set_reference(const float* hidden, std::int64_t rows) {
    const std::vector<float> picked = pick(hidden, rows);
    count_ = static_cast<std::int64_t>(picked.size()) / width();
    reference_.resize(static_cast<std::size_t>(count_ * engine_->logits_stride()));
    log_sums_.resize(static_cast<std::size_t>(count_));
    engine_->logits(picked.data(), count_, reference_.data());
    pool_(count_, [&](std::int64_t r) noexcept {
      log_sums_[static_cast<std::size_t>(r)] = float_kernels().log_sum_exp(row(r), vocab());
    });
  }

  // Mean over scored positions of KL(reference || hidden).
  double divergence(const float* hidden, std::int64_t rows) {
    const std::vector<float> picked = pick(hidden, rows);
    const std::int64_t stride = engine_->logits_stride();
    logits_.resize(static_cast<std::size_t>((std::min)(kChunkRows, count_) * stride));
    std::vector<double> values(static_cast<std::size_t>(count_));
    for (std::int64_t first = 0; first < count_; first += kChunkRows) {
      const std::int64_t n = (std::min)(kChunkRows, count_ - first);
      engine_->logits(picked.data() + first * width(), n, logits_.data());
      pool_(n, [&](std::int64_t r) noexcept {
        const float* other = logits_.data() + r * stride;
        const auto at = static_cast<std::size_t>(first + r);
        values[at] =
            float_kernels().divergence(row(first + r), log_sums_[at], other,
                                       float_kernels().log_sum_exp(other, vocab()), vocab());
      });
    }
    return mean_error(values).mean;
  }

 private:
  std::int64_t width() const { return static_cast<std::int64_t>(engine_->config().hidden); }
  std::int64_t vocab() const { return static_cast<std::int64_t>(engine_->config().vocab); }
  const float* row(std::int64_t r) const {
    return reference_.data() + r * engine_->logits_stride();
  }
  // Rows step - 1, 2 step - 1, ...: the first position, which sees nothing, only at step 1.
  std::vector<float> pick(const float* hidden, std::int64_t rows) const {
    std::vector<float> out;
    const auto step = static_cast<std::int64_t>(step_);
    for (std::int64_t r = (std::min)(step, rows) - 1; r < rows; r += step) {
      out.insert(out.end(), hidden + r * width(), hidden + (r + 1) * width());
    }
    return out;
  }

  Engine* engine_;
  const ThreadPool& pool_;
  std::size_t step_;
  std::int64_t count_ = 0;
  std::vector<float> reference_, logits_;
  std::vector<double> log_sums_;
};

// One window's damages into per_window[module][option].
class WindowMeasurement {
 public:
  WindowMeasurement(const DamageRequest& request, const std::vector<PlanModule>& modules,
                    const ThreadPool& pool)
      : request_(request),
        modules_(modules),
        engine_(request.parts, *request.clean, request.stores, pool),
        scorer_(&engine_, pool, request.position_step) {}

  void start(const std::vector<TokenId>& window) {
    rows_ = static_cast<std::int64_t>(window.size());
    residuals_.clear();
    engine_.observe_layers([&](std::size_t, const float* x, std::int64_t rows) {
      residuals_.emplace_back(x, x + rows * static_cast<std::int64_t>(engine_.config().hidden));
    });
    Sequence sequence = engine_.start();
    scorer_.set_reference(engine_.forward(window, &sequence), rows_);
    engine_.observe_layers(nullptr);
  }

  double damage(std::size_t module, std::size_t option) {
    const PlanModule& m = modules_[module];
    put(m, *request_.options[option]);
    const double d =
        scorer_.divergence(engine_.forward_from(m.layer, residuals_[m.layer].data(), rows_), rows_);
    put(m, *request_.clean);
    return d;
  }

  double uniform(std::size_t option) {
    for (const PlanModule& m : modules_) put(m, *request_.options[option]);
    const double d =
        scorer_.divergence(engine_.forward_from(0, residuals_[0].data(), rows_), rows_);
    for (const PlanModule& m : modules_) put(m, *request_.clean);
    return d;
  }

 private:
  void put(const PlanModule& m, const LinearStack& from) {
    for (const std::size_t l : m.linears) engine_.set_linear(m.layer, l, from[m.layer][l]);
  }

  const DamageRequest& request_;
  const std::vector<PlanModule>& modules_;
  Engine engine_;
  Scorer scorer_;
  std::int64_t rows_ = 0;
  std::vector<std::vector<float>> residuals_;  // per layer
};

}  // namespace

std::vector<PlanModule> plan_modules(const ModelConfig& c) {
  const double heads = static_cast<double>(c.heads * c.head_size);
  const double kv = static_cast<double>(c.kv_heads * c.head_size);
  const double hidden = static_cast<double>(c.hidden), ffn = static_cast<double>(c.ffn);
  const double macs[kInputsPerLayer] = {hidden * (heads + 2.0 * kv), heads * hidden,
                                        2.0 * hidden * ffn, ffn * hidden};
  const double edges[kInputsPerLayer] = {3.0 * hidden + heads + 2.0 * kv, heads + hidden,
                                         2.0 * (hidden + ffn), ffn + hidden};
  std::vector<PlanModule> modules;
  for (std::size_t layer = 0; layer < c.layers; ++layer) {
    for (std::size_t input = 0; input < kInputsPerLayer; ++input) {
      PlanModule m;
      m.layer = layer;
      m.input = input;
      m.macs = macs[input];
      m.edges = edges[input];
      for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
        if (input_of(l) == input) m.linears.push_back(l);
      }
      m.name = linear_name(layer, input == kInputQkv ? std::size_t{kQ} : m.linears.back());
      modules.push_back(std::move(m));
    }
  }
  return modules;
}

Damages measure_damages(const DamageRequest& request, const ThreadPool& pool) {
  const std::vector<PlanModule> modules = plan_modules(request.parts->config);
  const std::size_t options = request.options.size(), windows = request.windows.size();
  const std::size_t all = windows * modules.size() * options;
  // [option][module][window]
  std::vector<std::vector<std::vector<double>>> seen(
      options, std::vector<std::vector<double>>(modules.size()));
  std::vector<std::vector<double>> uniform(options);
  WindowMeasurement measurement(request, modules, pool);
  std::size_t done = 0;
  for (const std::vector<TokenId>& window : request.windows) {
    measurement.start(window);
    for (std::size_t o = 0; o < options; ++o) {
      uniform[o].push_back(measurement.uniform(o));
      for (std::size_t m = 0; request.per_module && m < modules.size(); ++m) {
        seen[o][m].push_back(measurement.damage(m, o));
        if (request.progress) request.progress(++done, all);
      }
    }
  }
  Damages d;
  d.mean.assign(modules.size(), std::vector<double>(options));
  d.error = d.mean;
  for (std::size_t o = 0; o < options; ++o) {
    d.uniform.push_back(mean_error(uniform[o]).mean);
    for (std::size_t m = 0; m < modules.size(); ++m) {
      const MeanError e = mean_error(seen[o][m]);
      d.mean[m][o] = e.mean;
      d.error[m][o] = e.error;
    }
  }
  return d;
}

std::vector<std::vector<TokenId>> spread_windows(const std::vector<TokenId>& tokens,
                                                 std::size_t count, std::size_t length) {
  if (length < 2 || count == 0 || tokens.size() < length) {
    throw std::runtime_error("calibration: " + std::to_string(tokens.size()) +
                             " tokens do not fill one window of " + std::to_string(length));
  }
  count = (std::min)(count, tokens.size() / length);
  const std::size_t step = count == 1 ? 0 : (tokens.size() - length) / (count - 1);
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < count; ++i) starts.push_back(i * step);
  refuse_one_token("calibration", tokens, starts, length);
  std::vector<std::vector<TokenId>> windows;
  for (const std::size_t start : starts) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(start);
    windows.emplace_back(first, first + static_cast<std::ptrdiff_t>(length));
  }
  return windows;
}

MeanError mean_error(const std::vector<double>& values) {
  MeanError e;
  const auto n = static_cast<double>(values.size());
  for (const double v : values) e.mean += v / n;
  if (values.size() < 2) return e;
  double squares = 0.0;
  for (const double v : values) squares += (v - e.mean) * (v - e.mean);
  e.error = std::sqrt(squares / (n - 1.0) / n);
  return e;
}

}  // namespace rrs_llm
