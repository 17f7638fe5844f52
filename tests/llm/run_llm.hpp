#pragma once
// The program itself, called with arguments as from a shell.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "../../examples/llm/commands.hpp"

namespace rrs_llm_test {

// What it said, beside its exit code.
struct Said {
  std::string out, err;
};

// Its exit code; what it prints is dropped unless asked for.
inline int run(const std::vector<const char*>& arguments, Said* said = nullptr) {
  std::vector<const char*> argv{"rrs-llm"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = rrs_llm::run_program(static_cast<int>(argv.size()), argv.data());
  Said ignored;
  if (said == nullptr) said = &ignored;
  said->out = ::testing::internal::GetCapturedStdout();
  said->err = ::testing::internal::GetCapturedStderr();
  return code;
}

}  // namespace rrs_llm_test
