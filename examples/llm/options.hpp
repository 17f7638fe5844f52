#pragma once
// What the program's commands share: their options, and how options become settings.
//
// From: the command line; to: cmd_*.cpp, one file per subcommand. A subcommand is one function that
// adds its options to a CLI::App and a callback that runs it; commands.cpp lists them.

#include <cstddef>
#include <string>
#include <vector>

#include "../support/output_files.hpp"
#include "generate.hpp"
#include "method.hpp"
#include "session.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace rrs_llm {

// Everything any command takes; each uses its part.
struct Options {
  SessionOptions session;
  std::vector<std::string> methods;
  std::vector<Setting> settings;
  std::vector<std::string> overrides;
  std::string weights;
  std::string recipe;
  std::string recipe_out;
  std::string text;
  std::string json;
  std::string out;
  std::string prompt;
  bool resume = false;  // quantize's
  bool calibration_windows_given = false;
  std::size_t windows = 0;
  std::size_t context = 2048;
  std::size_t sample_windows = 4;  // inspect's
  std::size_t sample_context = 512;
  std::size_t modules = 20;
  GenerateOptions generate;
};

void add_session_options(CLI::App* app, Options* o);
// --method (one, or several separated by commas), --calibration and the scheme's options.
void add_method_options(CLI::App* app, Options* o, bool several);
void add_kv_option(CLI::App* app, Options* o);

// A command with `weights`, a file that has its method and settings, refuses those beside it.
void exclude_method_options(CLI::App* app, CLI::Option* weights);

// --activation-bits and friends, then the overrides. Throws when no method there is takes any, or
// one of them or of a method's own; `added`: what the command will set itself.
std::vector<Setting> all_settings(const Options& o, const std::vector<Setting>& added = {});
std::string only_method(const Options& o);
// --method, where rrs-plan without a recipe of its own takes that of --recipe; with --recipe but no
// such method, rrs-plan is one more.
std::vector<std::string> method_texts(const Options& o);
void add_recipe_option(CLI::App* app, Options* o);

void print(const std::string& text);  // to stdout, at once

// An option for a file to write. A command hands these to OutputFiles with input_files(), before
// its work.
CLI::Option* add_output_option(CLI::App* app, const std::string& name, std::string* path,
                               const std::string& help);
// Every file that an option names to be read, and the calibration text that is read without one.
std::vector<rrs_examples::NamedPath> input_files(const Options& o);

// The subcommands.
void define_perplexity(CLI::App* app, Options* o);
void define_generate(CLI::App* app, Options* o);
void define_quantize(CLI::App* app, Options* o);
void define_inspect(CLI::App* app, Options* o);
void define_curve(CLI::App* app, Options* o);
void define_plan(CLI::App* app, Options* o);
void define_doctor(CLI::App* app, Options* o);

}  // namespace rrs_llm
