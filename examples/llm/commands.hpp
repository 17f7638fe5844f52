#pragma once
// The program rrs-llm: command line in, tables, text and files out. In a library for the tests.

namespace rrs_llm {

// Returns the exit code: 0 good, 1 could not do it (message on stderr), 2 and above from CLI11.
int run_program(int argc, const char* const* argv);

}  // namespace rrs_llm
