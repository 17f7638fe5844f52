// rrs-llm quantize: prepare the weights once, into a file.
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

#include <CLI/CLI.hpp>

#include "../support/atomic_file.hpp"
#include "../support/write_error.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "quantized_file.hpp"

namespace rrs_llm {
namespace {

// Beside the output while it is not complete: statistics of calibrated layers, finished linears.
struct SideFiles {
  std::string statistics;
  std::string linears;

  void remove() const {
    std::remove(statistics.c_str());
    std::remove(linears.c_str());
  }
};

// The method as written: QFeM's modules are named in it.
Method quantize(const Options& o, const Method& asked, const SideFiles& side,
                rrs_examples::AtomicFile out) {
  SessionOptions open = o.session;
  PrepareOptions options;
  if (asked.needs_hessians()) {
    open.statistics = side.statistics;
    // GPTAQ's linears depend on those before them, so they are all made again.
    if (!asked.needs_stream()) options.unfinished = side.linears;
  }
  open.resume = options.resume = o.resume;
  Session session(open);
  Method method = session.resolve(asked);
  options.prefix = session.prefix(method);
  session.give_calibration(method, &options);
  session.forget_float_linears();
  Progress progress("quantizing " + method.name, "linears");
  options.progress = progress.counter();
  options.warn = options.note = [](const std::string& line) { print(line + "\n"); };
  write_quantized(session.model(), method, options, session.pool(), std::move(out));
  return method;
}

void run_quantize(const Options& o) {
  const SideFiles side{o.out + ".statistics", o.out + ".linears"};
  rrs_examples::check_outputs({{"--out", o.out},
                               {"--out's OUT.statistics", side.statistics},
                               {"--out's OUT.linears", side.linears}},
                              input_files(o));
  rrs_examples::AtomicFile out(o.out);  // what fails up to here touches nothing of an earlier run
  Method method = make_method(only_method(o), all_settings(o));
  try {
    method = quantize(o, method, side, std::move(out));
  } catch (const rrs_examples::WriteError& error) {  // like a kill: what is finished is kept
    if (!method.needs_hessians()) throw;
    throw std::runtime_error(std::string(error.what()) +
                             "; what is finished is kept: the same command with --resume goes on");
  } catch (...) {  // another error leaves nothing for --resume
    if (!o.resume) side.remove();
    throw;
  }
  if (method.needs_hessians()) side.remove();
  print(o.out + ": " + method.name + ": " + describe(method) + "\n");
}

}  // namespace

void define_quantize(CLI::App* app, Options* o) {
  add_session_options(app, o);
  add_method_options(app, o, false);
  add_recipe_option(app, o);
  add_output_option(app, "--out", &o->out, "the safetensors file to write")->required();
  app->add_flag("--resume", o->resume,
                "go on where a killed run of the same command stopped (GPTQ methods)");
  app->footer(
      "Prepares the linears once. perplexity and generate take the file with --weights, beside the "
      "same --model: weights are used where they are mapped, and logits have the same bits.\n"
      "The file appears complete or not at all. GPTQ methods keep what is finished beside it, in "
      "OUT.statistics and OUT.linears, until it does.\n"
      "Example: rrs-llm quantize --model M.gguf --method rrs --out rrs.safetensors; then rrs-llm "
      "generate --model M.gguf --weights rrs.safetensors --prompt 'Once upon a time'");
  app->callback([o] { run_quantize(*o); });
}

}  // namespace rrs_llm
