// The whole program as a function, so that tests can call it.
#pragma once

namespace layer_report {

// Arguments as main has them; returns the exit code (kHelp in args.cpp says which).
int run_program(int argc, const char* const* argv);

}  // namespace layer_report
