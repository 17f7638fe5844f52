#pragma once
// The outlier doctor: why a model breaks at 4 bits, and what to do, measured.
//
// From: Session and a text; to: doctor_page.hpp. Per module (linears that read one input): QFeM's
// score with the tokens that spike, the surface |x| of tokens and channels through the pipeline,
// and the error of each method's integer kernels on the float model's own input, against the float
// output:
//   relative error  sqrt(noise / signal), noise = sum (y' - y)^2, signal = sum y^2
//   SQNR            10 log10(signal / noise) dB
// summed over the module's linears and all tokens. Share of the activations in the squared error of
// 4-bit activations: 1 - noise(W4A16) / noise(W4A4), the same weights in both.
// Modules are measured with what needs no calibration text: RTN weights. (SmoothQuant and GPTQ
// would take longer than all the rest, and are a command on the page.) Where tokens spike, the
// whole model is also measured with QFeP's prefix, which is searched on the calibration text, not
// on the text measured. Memory: the float model, one prepared copy per kind of weight, one window
// of inputs.

#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "plan_measure.hpp"
#include "recipe.hpp"
#include "rrs/calibrate/spikes.hpp"
#include "session.hpp"

namespace rrs_llm {

// |x| of one module's input, largest of each cell; rows are runs of tokens, columns of channels.
struct Surface {
  static constexpr std::size_t kRows = 16;
  static constexpr std::size_t kColumns = 48;
  std::array<std::array<float, kColumns>, kRows> cells{};
  float largest = 0.0f;
  float median = 0.0f;  // of all values
};

struct OutputError {
  double signal = 0.0;
  double noise = 0.0;
  double dot = 0.0;    // y . y'
  double other = 0.0;  // sum y'^2
  double largest = 0.0;

  double relative() const;
  double sqnr_db() const;
  double cosine() const;
};

enum class Action { kFourBits, kEightBits, kSixteenBits, kBetterWeights };

struct ModuleReport {
  PlanModule module;
  rrs::ModuleSpikes spikes;
  Surface raw, rotated, smoothed;   // smoothed: in steps of the 4-bit code
  std::vector<OutputError> errors;  // per method
  double activation_share = 0.0;    // of the squared error of `rrs`
  Action action = Action::kFourBits;
  std::string reason;
};

struct SpikeToken {
  std::string module;
  std::size_t window = 0;
  std::size_t position = 0;
  std::string before;  // text of the tokens before it
  std::string token;
  float scale = 0.0f;
  double ratio = 0.0;  // to the window's median
};

struct DoctorMethod {
  std::string method;   // as on the command line
  std::string meaning;  // in plain words
};

// The methods that are compared, in this order.
enum DoctorMethodIndex { kPlain, kUnrotated, kQuarot, kRotated, kA8, kA16 };
inline constexpr std::size_t kDoctorMethods = 6;
const std::array<DoctorMethod, kDoctorMethods>& doctor_methods();
// Of the whole model only, and only where tokens spike.
inline constexpr const char* kSpikeRemedy = "rrs+qfep";
// A token that spikes is this many times as large as its window's median.
inline constexpr double kSpikeRatio = 20.0;

struct DoctorReport {
  std::string model_path, model_name, text_path, architecture;
  std::size_t windows = 0, context = 0;
  std::vector<ModuleReport> modules;
  std::vector<SpikeToken> spikes;     // largest ratio first
  std::vector<MethodRecord> records;  // fp, some of the methods, kSpikeRemedy, the recipe last
  std::string calibration_path;       // empty: the text that the program ships
  std::string prefix;                 // of kSpikeRemedy: "1 5758 3717"; empty where not measured
  std::string prefix_problem;         // why it was not, although tokens spike
  Recipe recipe;
};

struct DoctorOptions {
  std::string text_path;
  std::string calibration_path;  // as in the report; the session reads it
  std::size_t windows = 2;
  std::size_t context = 512;
};

using DoctorProgress = std::function<void(const std::string& what, double done, double all)>;

DoctorReport examine(Session* session, const std::vector<TokenId>& tokens,
                     const DoctorOptions& options, const DoctorProgress& progress);

// Fills action and reason of every module, and the recipe's settings and log.
void advise(DoctorReport* report);
// Of the whole model on the text measured: a recipe must lower the KL divergence of uniform `rrs`,
// and not raise its perplexity.
bool recipe_helps(const DoctorReport& report);
// Some module's score, the mean over windows, says that tokens spike.
bool tokens_spike(const DoctorReport& report);
// kSpikeRemedy was measured, and lowers KL divergence and not raises perplexity against `rrs`.
bool prefix_helps(const DoctorReport& report);
// Part of the weights in the squared error that rotation leaves, over all modules. Above half,
// better weights help more than activation bits.
double weights_share(const DoctorReport& report);
// The record of a method; fp's where there is none.
const MethodRecord& record_of(const DoctorReport& report, const std::string& method);

// For tests: cells of x [rows][cols].
Surface make_surface(const float* x, std::int64_t rows, std::int64_t cols);

}  // namespace rrs_llm
