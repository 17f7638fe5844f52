#include "commands.hpp"

#include <cstdio>
#include <exception>

#include <CLI/CLI.hpp>

#include "options.hpp"

namespace rrs_llm {

int run_program(int argc, const char* const* argv) {
  CLI::App app{"A small LLM engine on the rrs library: what each quantization method costs."};
  app.require_subcommand(1);
  app.footer(
      "Models: llama, qwen2 and qwen3, as GGUF files or Hugging Face folders. "
      "examples/llm/fetch_smollm2.sh brings a small one.\nOutputs are opened before the work and "
      "appear complete or not at all; one that is also an input, or no regular file (a link, a "
      "device), is refused.\nRRS_ISA=avx2 (or scalar, avxvnni, "
      "avx512, avx512vnni, amx) in the environment forces a level.");
  Options options;
  define_perplexity(app.add_subcommand("perplexity", "compare methods on a text"), &options);
  define_generate(app.add_subcommand("generate", "continue a prompt"), &options);
  define_quantize(app.add_subcommand("quantize", "prepare the weights once, into a file"),
                  &options);
  define_doctor(app.add_subcommand("doctor", "why 4 bits hurt and what helps: one page"), &options);
  define_plan(app.add_subcommand("plan", "activation bits per module, measured"), &options);
  define_inspect(app.add_subcommand("inspect", "tensors, scheme fit, outliers"), &options);
  define_curve(app.add_subcommand("curve", "perplexity over bits per weight, as a picture"),
               &options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "rrs-llm: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace rrs_llm
