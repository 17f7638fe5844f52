#include "perplexity.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "float_kernels.hpp"
#include "rrs/core/hash.hpp"

namespace rrs_llm {
namespace {

constexpr std::int64_t kChunkRows = 96;  // logits that exist at a time, beside those of fp

// What is known of one method so far.
struct Tally {
  std::vector<double> window_nll;
  std::vector<double> window_kld;
  std::vector<float> divergences;
  std::size_t agreements = 0;
  std::size_t positions = 0;
};

// The float logits of the current window, with what is needed of them again and again.
struct Reference {
  std::vector<float> logits;
  std::vector<double> log_sums;
  std::vector<std::int64_t> best;
};

std::int64_t best_of(const float* row, std::int64_t n) {
  return std::max_element(row, row + n) - row;
}

class WindowScorer {
 public:
  WindowScorer(Engine* engine, const ThreadPool& pool)
      : engine_(engine),
        pool_(pool),
        vocab_(static_cast<std::int64_t>(engine->config().vocab)),
        stride_(engine->logits_stride()) {}

  // Sum of negative log-likelihoods of tokens 1.. of the window; fills the reference.
  double score_reference(const std::vector<TokenId>& window, Reference* reference) {
    const auto positions = static_cast<std::int64_t>(window.size()) - 1;
    reference->logits.resize(static_cast<std::size_t>(positions * stride_));
    reference->log_sums.resize(static_cast<std::size_t>(positions));
    reference->best.resize(static_cast<std::size_t>(positions));
    const float* hidden = run(window);
    return chunks(positions, [&](std::int64_t first, std::int64_t rows) {
      float* logits = reference->logits.data() + first * stride_;
      engine_->logits(hidden + first * width(), rows, logits);
      return each_row(rows, [&](std::int64_t r) {
        const float* row = logits + r * stride_;
        const auto at = static_cast<std::size_t>(first + r);
        reference->log_sums[at] = float_kernels().log_sum_exp(row, vocab_);
        reference->best[at] = best_of(row, vocab_);
        return reference->log_sums[at] - static_cast<double>(row[window[at + 1]]);
      });
    });
  }

  // The same sum alone.
  double score(const std::vector<TokenId>& window) {
    const auto positions = static_cast<std::int64_t>(window.size()) - 1;
    const float* hidden = run(window);
    std::vector<float> logits(
        static_cast<std::size_t>((std::min)(kChunkRows, positions) * stride_));
    return chunks(positions, [&](std::int64_t first, std::int64_t rows) {
      engine_->logits(hidden + first * width(), rows, logits.data());
      return each_row(rows, [&](std::int64_t r) {
        const float* row = logits.data() + r * stride_;
        return float_kernels().log_sum_exp(row, vocab_) -
               static_cast<double>(row[window[static_cast<std::size_t>(first + r) + 1]]);
      });
    });
  }

  double score(const std::vector<TokenId>& window, const Reference& reference, Tally* tally) {
    const auto positions = static_cast<std::int64_t>(window.size()) - 1;
    const std::size_t base = tally->divergences.size();
    tally->divergences.resize(base + static_cast<std::size_t>(positions));
    std::vector<char> agrees(static_cast<std::size_t>(positions));
    const float* hidden = run(window);
    std::vector<float> logits(
        static_cast<std::size_t>((std::min)(kChunkRows, positions) * stride_));
    const double nll = chunks(positions, [&](std::int64_t first, std::int64_t rows) {
      engine_->logits(hidden + first * width(), rows, logits.data());
      return each_row(rows, [&](std::int64_t r) {
        const float* row = logits.data() + r * stride_;
        const auto at = static_cast<std::size_t>(first + r);
        const double log_sum = float_kernels().log_sum_exp(row, vocab_);
        const float* other = reference.logits.data() + (first + r) * stride_;
        tally->divergences[base + at] = static_cast<float>(
            float_kernels().divergence(other, reference.log_sums[at], row, log_sum, vocab_));
        agrees[at] = row[reference.best[at]] >= float_kernels().max_row(row, vocab_) ? 1 : 0;
        return log_sum - static_cast<double>(row[window[at + 1]]);
      });
    });
    double sum = 0.0;
    for (std::size_t i = base; i < tally->divergences.size(); ++i) {
      sum += static_cast<double>(tally->divergences[i]);
    }
    tally->window_kld.push_back(sum / static_cast<double>(positions));
    for (const char agree : agrees) tally->agreements += agree != 0 ? 1 : 0;
    return nll;
  }

 private:
  std::int64_t width() const { return static_cast<std::int64_t>(engine_->config().hidden); }

  const float* run(const std::vector<TokenId>& window) {
    Sequence sequence = engine_->start();
    return engine_->forward(window, &sequence);
  }

  template <class Chunk>
  double chunks(std::int64_t positions, const Chunk& chunk) {
    double sum = 0.0;
    for (std::int64_t first = 0; first < positions; first += kChunkRows) {
      sum += chunk(first, (std::min)(kChunkRows, positions - first));
    }
    return sum;
  }

  // Sum of value(r), in row order whatever the threads did.
  template <class Value>
  double each_row(std::int64_t rows, const Value& value) {
    std::vector<double> values(static_cast<std::size_t>(rows));
    pool_(rows, [&](std::int64_t r) noexcept { values[static_cast<std::size_t>(r)] = value(r); });
    double sum = 0.0;
    for (const double v : values) sum += v;
    return sum;
  }

  Engine* engine_;
  const ThreadPool& pool_;
  std::int64_t vocab_;
  std::int64_t stride_;
};

double mean_of(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

// Perplexity is e^mean, so its error is that of the mean times the perplexity.
void finish_perplexity(const std::vector<double>& window_nll, MethodRecord* record) {
  const double mean = mean_of(window_nll);
  record->perplexity = std::exp(mean);
  const auto n = static_cast<double>(window_nll.size());
  if (window_nll.size() < 2) return;
  double squares = 0.0;
  for (const double v : window_nll) squares += (v - mean) * (v - mean);
  record->standard_error = record->perplexity * std::sqrt(squares / (n - 1.0) / n);
}

void finish_comparison(Tally* tally, MethodRecord* record) {
  std::vector<float>& d = tally->divergences;
  if (d.empty()) return;
  record->window_kld = tally->window_kld;
  double sum = 0.0;
  for (const float value : d) sum += static_cast<double>(value);
  record->kld_mean = sum / static_cast<double>(d.size());
  const auto at = static_cast<std::ptrdiff_t>(0.99 * static_cast<double>(d.size() - 1));
  std::nth_element(d.begin(), d.begin() + at, d.end());
  record->kld_p99 = static_cast<double>(d[static_cast<std::size_t>(at)]);
  record->top1 = static_cast<double>(tally->agreements) / static_cast<double>(d.size());
}

void count_linear(const LinearInfo& info, const std::string& kernel, MethodRecord* record) {
  const auto same = [&](const LinearCount& c) {
    return c.precision == info.precision && c.kernel == kernel;
  };
  const auto at = std::find_if(record->linears.begin(), record->linears.end(), same);
  if (at != record->linears.end()) {
    ++at->count;
  } else {
    record->linears.push_back(LinearCount{info.precision, kernel, 1, info.simulated});
  }
}

// Linears that ran once on every token of every window, as the engine counted them; bits of all.
void count_linears(const Engine& engine, MethodRecord* record) {
  const auto windows = static_cast<std::int64_t>(record->windows);
  const auto tokens = static_cast<std::int64_t>(record->windows * record->context);
  std::int64_t weights = 0, bytes = 0;
  for (std::size_t layer = 0; layer < engine.linears().size(); ++layer) {
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const LinearInfo info = engine.linears()[layer][l]->info();
      weights += info.weights;
      bytes += info.stored_bytes;
      record->simulated = record->simulated || info.simulated;
      const LinearRuns& runs = engine.runs(layer, l);
      if (runs.calls == windows && runs.rows == tokens) count_linear(info, runs.kernel(), record);
    }
  }
  record->bits_per_weight = 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

MethodRecord make_record(const Contestant& c, Tally* tally, std::size_t context) {
  MethodRecord r;
  r.method = c.method;
  r.scheme = c.scheme;
  r.calibration = c.calibration;
  r.kv_bits = c.kv_bits;
  r.kv_value_bits = c.kv_value_bits;
  r.calibration_seconds = c.calibration_seconds;
  r.prepare_seconds = c.prepare_seconds;
  r.windows = tally->window_nll.size();
  r.window_nll = tally->window_nll;
  r.context = context;
  finish_perplexity(tally->window_nll, &r);
  finish_comparison(tally, &r);
  count_linears(*c.engine, &r);
  const EngineTimes& t = c.engine->times();
  r.tokens_per_second = static_cast<double>(r.windows * context) / t.total;
  r.outside_linears = 1.0 - t.linears / t.total;
  return r;
}

std::string config_hash(const Contestant& c, const std::vector<TokenId>& tokens,
                        std::size_t windows, std::size_t context) {
  const std::string text = c.method + "|" + c.scheme + "|" + c.calibration + "|kv " +
                           std::to_string(c.kv_bits) + "|" + std::to_string(windows) + " x " +
                           std::to_string(context);
  const std::uint64_t words = rrs::hash_bytes(text.data(), text.size());
  char out[20];
  std::snprintf(out, sizeof out, "%016llx",
                static_cast<unsigned long long>(
                    rrs::hash_bytes(tokens.data(), windows * context * sizeof(TokenId), words)));
  return out;
}

}  // namespace

std::size_t window_count(std::size_t tokens, std::size_t context, std::size_t most) {
  if (context < 2) throw std::runtime_error("context: must be at least 2");
  const std::size_t windows = tokens / context;
  if (windows == 0) {
    throw std::runtime_error("text: its " + std::to_string(tokens) +
                             " tokens do not fill one window of " + std::to_string(context));
  }
  return most == 0 ? windows : (std::min)(windows, most);
}

double window_nll(Engine* engine, const std::vector<TokenId>& window, const ThreadPool& pool) {
  return WindowScorer(engine, pool).score(window);
}

std::vector<MethodRecord> measure_perplexity(
    const std::vector<Contestant>& contestants, const std::vector<TokenId>& tokens,
    std::size_t windows, std::size_t context, const ThreadPool& pool,
    const std::function<void(const std::string&, double, double)>& progress) {
  std::vector<Tally> tallies(contestants.size());
  Reference reference;
  const double all = static_cast<double>(windows * contestants.size() * context);
  double done = 0.0;
  for (const Contestant& c : contestants) {
    c.engine->reset_times();
    c.engine->reset_runs();
  }
  for (std::size_t w = 0; w < windows; ++w) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(w * context);
    const std::vector<TokenId> window(first, first + static_cast<std::ptrdiff_t>(context));
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      if (progress) progress(contestants[i].method, done, all);
      Engine* engine = contestants[i].engine.get();
      double layers = 0.0;
      if (progress) {
        engine->watch([&](std::int64_t rows) {
          layers += static_cast<double>(rows);
          const double share = layers / static_cast<double>(engine->config().layers);
          progress(contestants[i].method, done + share, all);
        });
      }
      WindowScorer scorer(engine, pool);
      const double nll = i == 0 ? scorer.score_reference(window, &reference)
                                : scorer.score(window, reference, &tallies[i]);
      engine->watch(nullptr);
      tallies[i].window_nll.push_back(nll / static_cast<double>(context - 1));
      done += static_cast<double>(context);
    }
  }
  std::vector<MethodRecord> records;
  for (std::size_t i = 0; i < contestants.size(); ++i) {
    records.push_back(make_record(contestants[i], &tallies[i], context));
    records.back().config_hash = config_hash(contestants[i], tokens, windows, context);
    records.back().ratio = records.back().perplexity / records.front().perplexity;
  }
  return records;
}

}  // namespace rrs_llm
