#pragma once
// Perplexity of methods, side by side with the float model.
//
// Published protocol: one token stream, cut into windows of `context` tokens that do not overlap;
// in each window tokens 1..context-1 are predicted from those before them in the window; the mean
// negative log-likelihood over all of them; the tail is dropped. Against the float logits of the
// same positions: KL(fp || method), and how often the most likely token agrees.
// Windows are taken one by one, the float model first, so that only one window of float logits is
// in memory (context x vocabulary x 4 bytes).

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine.hpp"

namespace rrs_llm {

// Linears that ran on every token of every window, at one precision with one kernel: counted by the
// engine while they ran, not taken from how they were made.
struct LinearCount {
  std::string precision;
  std::string kernel;
  std::size_t count = 0;
  bool simulated = false;
};

struct MethodRecord {
  std::string method;
  std::string scheme;
  std::string calibration;  // Calibration::text; empty where the method needs none
  // Hash of what was measured on what: method, scheme, calibration, cache, context and the tokens
  // of all windows. Equal for equal runs on any machine; weights are those of `model`, a
  // model_fingerprint.
  std::string config_hash;
  std::string model;
  int kv_bits = 16;
  int kv_value_bits = 16;
  std::size_t windows = 0;
  std::size_t context = 0;
  double perplexity = 0.0;
  double standard_error = 0.0;  // of the perplexity, over windows; 0 with one window
  double ratio = 1.0;           // to fp
  double kld_mean = 0.0;
  double kld_p99 = 0.0;
  std::vector<double> window_nll;  // mean of each window: e to the mean of some is their perplexity
  std::vector<double> window_kld;  // mean of each window
  double top1 = 1.0;               // share of positions whose most likely token is fp's
  double bits_per_weight = 0.0;    // LinearInfo::stored_bytes of all linears
  double tokens_per_second = 0.0;  // prefill: forward passes, without the head
  double outside_linears = 0.0;    // share of that time
  // Of the calibration that the method used, which methods of one run may share; 0: none, or made
  // before, by `quantize`.
  double calibration_seconds = 0.0;
  double prepare_seconds = 0.0;  // weights, and the searches of +qfem and +qfep
  bool simulated = false;
  std::vector<LinearCount> linears;
};

struct Contestant {
  std::string method;
  std::string scheme;
  std::string calibration;
  int kv_bits = 16;
  int kv_value_bits = 16;
  double calibration_seconds = 0.0;
  double prepare_seconds = 0.0;
  std::unique_ptr<Engine> engine;
};

// The number of windows in the text, at most `most` (0: no limit); throws when there is none.
std::size_t window_count(std::size_t tokens, std::size_t context, std::size_t most);

// contestants[0] is the float model. `tokens`: the whole stream, BOS included where there is one.
std::vector<MethodRecord> measure_perplexity(
    const std::vector<Contestant>& contestants, const std::vector<TokenId>& tokens,
    std::size_t windows, std::size_t context, const ThreadPool& pool,
    const std::function<void(const std::string& what, double done, double all)>& progress);

// Negative log-likelihood of tokens 1.. of one window, summed.
double window_nll(Engine* engine, const std::vector<TokenId>& window, const ThreadPool& pool);

std::string records_table(const std::vector<MethodRecord>& records);
std::string records_json(const std::vector<MethodRecord>& records);

}  // namespace rrs_llm
