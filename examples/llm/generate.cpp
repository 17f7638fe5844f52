#include "generate.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

namespace rrs_llm {
namespace {

// splitmix64: a few lines, and the same numbers on every platform.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  double next() noexcept {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }

 private:
  std::uint64_t state_;
};

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of all that passed: attention, norms, head, the choice of a token.
double outside_share(const EngineTimes& times, double elapsed) {
  return elapsed > 0.0 ? 1.0 - times.linears / elapsed : 0.0;
}

void check_options(const std::vector<TokenId>& prompt, const GenerateOptions& o) {
  if (prompt.empty()) throw std::runtime_error("prompt: has no tokens");
  if (!(o.temperature >= 0.0 && std::isfinite(o.temperature))) {
    throw std::runtime_error("temperature: must be 0 (greedy) or more");
  }
  if (!(o.top_p > 0.0 && o.top_p <= 1.0)) {
    throw std::runtime_error("top-p: must be above 0 and at most 1");
  }
}

}  // namespace

TokenId choose_token(const float* logits, std::size_t vocab, const GenerateOptions& options,
                     double random) {
  const auto best = std::max_element(logits, logits + vocab);
  if (!(options.temperature > 0.0)) return static_cast<TokenId>(best - logits);
  std::vector<double> p(vocab);
  double all = 0.0;
  for (std::size_t i = 0; i < vocab; ++i) {
    p[i] = std::exp((static_cast<double>(logits[i]) - static_cast<double>(*best)) /
                    options.temperature);
    all += p[i];
  }
  // Tokens below this are less than 1 - top_p together, so none is among those kept; sorting all of
  // a vocabulary takes longer than a token's forward pass.
  const double least = (1.0 - options.top_p) * all / static_cast<double>(vocab);
  std::vector<TokenId> order;
  for (std::size_t i = 0; i < vocab; ++i) {
    if (p[i] >= least) order.push_back(static_cast<TokenId>(i));
  }
  // By logit, ties by id: the order does not depend on the sorting algorithm.
  std::sort(order.begin(), order.end(), [logits](TokenId a, TokenId b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  const auto weight = [&](std::size_t i) { return p[static_cast<std::size_t>(order[i])]; };
  std::size_t kept = 0;
  double mass = 0.0;
  while (kept < order.size() && mass < options.top_p * all) mass += weight(kept++);
  double left = random * mass;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    if (left < weight(i)) return order[i];
    left -= weight(i);
  }
  return order[kept == 0 ? 0 : kept - 1];
}

GenerateResult generate(Engine* engine, const std::vector<TokenId>& prompt,
                        const GenerateOptions& options,
                        const std::function<void(TokenId)>& on_token) {
  check_options(prompt, options);
  const ModelConfig& c = engine->config();
  // Models pad their vocabulary: rows beyond the tokenizer's tokens have no text.
  const std::size_t vocab = (std::min)(c.vocab, engine->parts().source.tokenizer().size());
  std::vector<float> logits(static_cast<std::size_t>(engine->logits_stride()));
  Random random(options.seed);
  GenerateResult result;
  Sequence sequence = engine->start();
  engine->reset_times();
  const Clock::time_point start = Clock::now();
  const float* hidden = engine->forward(prompt, &sequence);
  engine->logits(hidden + (prompt.size() - 1) * c.hidden, 1, logits.data());
  result.prefill_seconds = seconds(start);
  result.prefill_outside = outside_share(engine->times(), result.prefill_seconds);
  engine->reset_times();
  const Clock::time_point decode = Clock::now();
  while (result.tokens.size() < options.tokens) {
    const TokenId token = choose_token(logits.data(), vocab, options, random.next());
    if (std::find(c.ends.begin(), c.ends.end(), token) != c.ends.end()) {
      result.ended = true;
      break;
    }
    result.tokens.push_back(token);
    if (on_token) on_token(token);
    const bool full = static_cast<std::size_t>(sequence.length()) >= c.context;
    if (full || result.tokens.size() == options.tokens) break;
    hidden = engine->forward({token}, &sequence);
    engine->logits(hidden, 1, logits.data());
    ++result.decoded;
  }
  result.decode_seconds = seconds(decode);
  result.decode_outside = outside_share(engine->times(), result.decode_seconds);
  result.kv_bytes = sequence.kv_bytes();
  return result;
}

}  // namespace rrs_llm
