#include "layer_report/args.hpp"

#include <cstdlib>

namespace layer_report {
namespace {

constexpr int kMaxRounds = 1000;

int parse_rounds(const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != 0 || value < 1 || value > kMaxRounds) {
    throw UserError("--rounds: '" + text + "' is not a number from 1 to " +
                    std::to_string(kMaxRounds));
  }
  return static_cast<int>(value);
}

void set_once(std::string* field, const std::string& name, const std::string& value) {
  if (!field->empty())
    throw UserError(name + " is given twice: '" + *field + "' and '" + value + "'");
  if (value.empty()) throw UserError(name + ": the file name is empty");
  *field = value;
}

}  // namespace

Options parse_arguments(int argc, const char* const* argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      options.help = true;
      return options;
    }
    if (argument.empty() || argument[0] != '-') {
      set_once(&options.file, "FILE.safetensors", argument);
      continue;
    }
    if (argument != "--json" && argument != "--svg" && argument != "--rounds") {
      throw UserError("unknown option '" + argument + "' (--help lists them)");
    }
    if (i + 1 == argc) throw UserError(argument + " needs a value (--help explains)");
    const std::string value = argv[++i];
    if (argument == "--json") set_once(&options.json, argument, value);
    if (argument == "--svg") set_once(&options.svg, argument, value);
    if (argument == "--rounds") options.rounds = parse_rounds(value);
  }
  if (options.file.empty()) throw UserError("no FILE.safetensors given (--help explains)");
  return options;
}

const char* const kHelp =
    R"(layer_report: what 4-bit quantization does to your linear layers.

  layer_report FILE.safetensors [--json FILE] [--svg FILE] [--rounds N]

FILE holds one or more layers, as F32, F16 or BF16 tensors:
  NAME.weight       [N, K]  the weight, one row per output
  NAME.input        [M, K]  activations captured at the layer's input, one row per token
  NAME.calibration  [C, K]  optional: other tokens, from which SmoothQuant takes its scales
                            (without it, the input itself is used, which flatters SmoothQuant)
In Python:  safetensors.torch.save_file({"q.weight": w, "q.input": x}, "layers.safetensors")

Every layer goes through every preset of the library, and `rrs` also through windows x activation
groups x activation bits. Errors compare the quantized product with the float64 product of the
unquantized operands, y = x W^T:
  median    over tokens of ||dy|| / ||y||: the number to compare methods by
  all       ||dY|| / ||Y|| in Frobenius norm over all tokens; one spike token can dominate it
  victims   the same over all tokens but the spike: the first row with the largest |x|
  worst     largest ||dy|| / ||y|| of a token
  b/w       stored bits per weight: codes, scales, padding, SmoothQuant's divisors
  prep ms   rotate, smooth, quantize and pack the activations (every call)
  gemm ms   the integer product (weights are prepared beforehand, and not timed)
  speed     time of Eigen's float product / (prep + gemm); one thread, medians of up to N rounds in
            which all methods take turns (--rounds, default 9; slow ones sit some out)
A method marked * is simulated in float: it has no integer product, and no times.

  --json FILE   array of records: layer, method, window, activation_bits, activation_group,
                weight_bits, weight_group, error_median, error, victim_error, error_worst,
                bits_per_weight, prepare_ms, gemm_ms, kernel, simulated.
                Group 0 is the whole row. null: undefined, or not timed.
  --svg FILE    a picture: channel magnitudes before rotation, after it and after smoothing, and
                the error of every method
  RRS_ISA=scalar|avx2|avxvnni|avx512|avx512vnni|amx in the environment forces the kernels.

Outputs are opened before the work and appear complete or not at all; FILE itself, or what is no
regular file (a link, a device), is refused.
Exit code 0; 2 when an argument or the file is wrong, 1 when an output cannot be written.
)";

}  // namespace layer_report
