// The command line of layer_report.
#pragma once

#include <stdexcept>
#include <string>

namespace layer_report {

// What the user got wrong: printed as one line, exit code 2.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string file;  // safetensors
  std::string json;  // empty: not written
  std::string svg;   // empty: not written
  int rounds = 9;    // timing rounds; medians are reported
  bool help = false;
};

// Throws UserError for unknown, repeated or incomplete options, and for a missing FILE.
Options parse_arguments(int argc, const char* const* argv);

extern const char* const kHelp;

}  // namespace layer_report
