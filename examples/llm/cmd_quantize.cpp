// rrs-llm quantize: prepare the weights once, into a file.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include <CLI/CLI.hpp>

#include "../support/atomic_file.hpp"
#include "../support/write_error.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "quantized_file.hpp"

namespace rrs_llm {
namespace {

// A file beside the output while that is not complete.
class SideFile {
 public:
  explicit SideFile(std::string path) : path_(std::move(path)), before_(state()) {}

  const std::string& path() const noexcept { return path_; }
  void remove() const { std::remove(path_.c_str()); }
  // What a killed run left stays, unless this run has begun to replace it.
  void remove_if_ours() const {
    if (state() != before_) remove();
  }

 private:
  // Equal before and after for a file that nobody has opened to write; empty where there is none.
  std::vector<std::int64_t> state() const {
    struct stat s {};
    if (::stat(path_.c_str(), &s) != 0) return {};
    return {static_cast<std::int64_t>(s.st_dev), static_cast<std::int64_t>(s.st_ino), s.st_size,
            s.st_ctim.tv_sec, s.st_ctim.tv_nsec};
  }

  std::string path_;
  std::vector<std::int64_t> before_;
};

struct SideFiles {
  SideFile statistics;  // of calibrated layers
  SideFile linears;     // finished ones
};

std::string seconds_text(double calibrating, double all, int threads) {
  char text[100], calibration[40] = "";
  if (calibrating > 0.0) {
    std::snprintf(calibration, sizeof calibration, "calibrating took %.2f s, ", calibrating);
  }
  std::snprintf(text, sizeof text, "%spreparing%s %.2f s, %d thread%s\n", calibration,
                calibrating > 0.0 ? "" : " took", all - calibrating, threads,
                threads == 1 ? "" : "s");
  return text;
}

// GPTAQ's linears depend on those before them, so they are all made again.
bool keeps_linears(const Method& method) {
  return method.needs_hessians() && !method.needs_stream();
}

// The method as written: QFeM's modules are named in it.
Method quantize(const Options& o, const Method& asked, const SideFiles& side,
                rrs_examples::AtomicFile out) {
  SessionOptions open = o.session;
  PrepareOptions options;
  if (asked.needs_hessians()) open.statistics = side.statistics.path();
  if (keeps_linears(asked)) options.unfinished = side.linears.path();
  open.resume = options.resume = o.resume;
  const auto start = std::chrono::steady_clock::now();  // searches and calibration included
  Session session(open);
  check_writable(session.model(), asked);  // before anything is calibrated
  Method method = session.resolve(asked);
  options.prefix = session.prefix(method);
  session.give_calibration(method, &options);
  session.forget_float_linears();
  options.warn = options.note = [](const std::string& line) { print(line + "\n"); };
  {
    Progress progress("quantizing " + method.name, "linears");
    options.progress = progress.counter();
    write_quantized(session.model(), method, options, session.pool(), std::move(out));
  }
  const std::chrono::duration<double> all = std::chrono::steady_clock::now() - start;
  print(seconds_text(session.calibration_seconds(method), all.count(), session.pool().threads()));
  return method;
}

void run_quantize(const Options& o) {
  const SideFiles side{SideFile(o.out + ".statistics"), SideFile(o.out + ".linears")};
  rrs_examples::check_outputs({{"--out", o.out},
                               {"--out's OUT.statistics", side.statistics.path()},
                               {"--out's OUT.linears", side.linears.path()}},
                              input_files(o));
  for (const SideFile* file : {&side.statistics, &side.linears}) {  // to open a folder fails
    if (!std::filesystem::is_directory(file->path())) rrs_examples::check_regular(file->path());
  }
  rrs_examples::AtomicFile out(o.out);  // what fails up to here touches nothing of an earlier run
  Method method = make_method(only_method(o), all_settings(o));
  try {
    method = quantize(o, method, side, std::move(out));
  } catch (const rrs_examples::WriteError& error) {  // like a kill: what is finished is kept
    if (!method.needs_hessians()) throw;
    throw std::runtime_error(std::string(error.what()) +
                             "; what is finished is kept: the same command with --resume goes on");
  } catch (...) {  // another error leaves nothing for --resume
    if (!o.resume) {
      side.statistics.remove_if_ours();
      side.linears.remove_if_ours();
    }
    throw;
  }
  if (method.needs_hessians()) side.statistics.remove();
  if (keeps_linears(method)) side.linears.remove();
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
