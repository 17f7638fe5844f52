#pragma once
// The program itself, called with arguments as from a shell.

#include <gtest/gtest.h>

#include <vector>

#include "../../examples/llm/commands.hpp"

namespace rrs_llm_test {

// Its exit code; what it prints is dropped.
inline int run(const std::vector<const char*>& arguments) {
  std::vector<const char*> argv{"rrs-llm"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = rrs_llm::run_program(static_cast<int>(argv.size()), argv.data());
  ::testing::internal::GetCapturedStdout();
  ::testing::internal::GetCapturedStderr();
  return code;
}

}  // namespace rrs_llm_test
