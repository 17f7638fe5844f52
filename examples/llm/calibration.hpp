#pragma once
// Calibration: what the float model's linears see on a text, layer by layer.
//
// From: the fp engine and a token stream; to: SmoothQuant's divisors, zigzag, GPTQ, ASER, QFeM.
// Windows of `context` tokens start at i * floor((tokens - context) / windows), as the GPTQ papers
// cut them. All windows go through layer 0, then all through layer 1, ...: the hidden states of the
// windows, the Hessians of one layer and, with CalibrationOptions::float_layer, the float linears
// of one layer are in memory; Hessians of finished layers are in a file, so that a killed run goes
// on behind the last finished layer.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine.hpp"
#include "rrs/calibrate/input_statistics.hpp"

namespace rrs_llm {

// Inputs of a layer's linears: q, k, v share the first, gate and up the third.
enum InputIndex { kInputQkv, kInputO, kInputGateUp, kInputDown };
inline constexpr std::size_t kInputsPerLayer = 4;
constexpr std::size_t input_of(std::size_t linear) noexcept {
  return linear <= kV    ? kInputQkv
         : linear == kO  ? kInputO
         : linear <= kUp ? kInputGateUp
                         : kInputDown;
}

// A norm's output goes to these and to nothing else: its gain can take what their inputs are
// divided by. o reads the attention's mixed values (v could take its divisor only where every query
// head has a value head of its own) and down the product of gate and up: neither follows a norm.
constexpr bool follows_norm(std::size_t input) noexcept {
  return input == kInputQkv || input == kInputGateUp;
}

using LayerStatistics = std::array<rrs::InputStatistics, kInputsPerLayer>;

// Statistics of finished layers on disk; read back in any order.
class StatisticsFile {
 public:
  // `path` empty: an unnamed file that nobody else sees. `identity`: of model, text and settings; a
  // file with another one is refused when `resume`, overwritten otherwise.
  StatisticsFile(std::string path, std::uint64_t identity, bool resume);
  ~StatisticsFile();
  StatisticsFile(const StatisticsFile&) = delete;
  StatisticsFile& operator=(const StatisticsFile&) = delete;

  std::size_t finished() const noexcept { return records_.size(); }
  void append(const LayerStatistics& layer);
  // Without the Hessians.
  LayerStatistics read(std::size_t layer) const;
  std::vector<double> hessian(std::size_t layer, std::size_t input) const;

 private:
  struct Record {
    std::int64_t at = 0;
    std::array<std::int64_t, kInputsPerLayer> channels{}, tokens{}, starts{};
    std::array<std::int64_t, kInputsPerLayer> hessian_at{};
    std::int64_t end = 0;
  };
  bool scan_record(std::int64_t at, Record* record) const;
  void read_at(std::int64_t at, void* data, std::size_t size) const;
  void write_at(std::int64_t at, const void* data, std::size_t size);
  std::string name() const;  // of the file, for messages
  [[noreturn]] void fail(const std::string& problem) const;

  std::string path_;
  int file_ = -1;
  std::vector<Record> records_;
  std::int64_t end_ = 0;
};

struct CalibrationOptions {
  std::size_t windows = 16;
  std::size_t context = 1024;
  bool hessians = false;  // for GPTQ and ASER
  // Rows kept of every input, for SmoothQuant's search: every s-th token of the windows, s odd, so
  // that the first token of a sequence, the likely spike, is not among them more often than others.
  std::size_t sample_rows = 0;
  std::string file;     // where Hessians of finished layers go; empty: an unnamed file
  bool resume = false;  // go on behind the layers that `file` holds
  // Set: the engine has no linears; those of a layer are made when it is entered and dropped when
  // it is left. Not set: the engine's own.
  LayerSource float_layer;
  std::function<void(std::size_t done, std::size_t all)> progress;  // tokens times layers
};

struct Calibration {
  std::vector<LayerStatistics> layers;  // without Hessians
  // [layer][input]: rows [sample_rows][K]; empty unless asked for.
  std::vector<std::array<std::vector<float>, kInputsPerLayer>> samples;
  std::size_t tokens = 0;
  std::vector<std::vector<TokenId>> windows;   // for GPTAQ
  std::uint64_t identity = 0;                  // of model, text and settings
  std::shared_ptr<const StatisticsFile> file;  // null without Hessians

  // "16384 tokens, 7dc7cbf7a28403bd": equal for equal statistics.
  std::string text() const;
  const rrs::InputStatistics& input(std::size_t layer, std::size_t input) const {
    return layers[layer][input];
  }
  // X^T X [K][K] in the model's own basis; throws when there are none.
  std::vector<double> hessian(std::size_t layer, std::size_t input) const;
};

// First tokens of `count` windows of `length` in a text: i * floor((tokens - length) / count); one
// window where they would coincide. length <= tokens.
std::vector<std::size_t> window_starts(std::size_t tokens, std::size_t count, std::size_t length);

// Throws for windows that hold one token, over and over; `what` begins the message. The first of
// `tokens` is not looked at: some tokenizers add a BOS there.
void refuse_one_token(const char* what, const std::vector<TokenId>& tokens,
                      const std::vector<std::size_t>& starts, std::size_t length);

// window_starts of a calibration. Throws for a text that is empty, shorter than a window, or one
// token throughout.
std::vector<std::size_t> calibration_starts(const std::vector<TokenId>& tokens,
                                            const CalibrationOptions& options);

// `engine` is the fp one; its observer is replaced. With a prefix set, windows stand behind it and
// the prefix itself does not count.
Calibration calibrate(Engine* engine, const std::vector<TokenId>& tokens,
                      const CalibrationOptions& options);

}  // namespace rrs_llm
