#pragma once
// The real model of the tests that need one: where examples/llm/fetch_smollm2.sh puts it.

#include <cstdlib>
#include <string>

namespace rrs_llm_test {

inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

inline std::string model_path() {
  const std::string cache = environment("XDG_CACHE_HOME");
  return (cache.empty() ? environment("HOME") + "/.cache" : cache) +
         "/rrs/SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace rrs_llm_test
