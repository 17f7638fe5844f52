#pragma once
// A tiny model with tokens to calibrate on, and the program's `quantize` over it.

#include <string>
#include <vector>

#include "../../examples/llm/commands.hpp"
#include "engine_support.hpp"

namespace rrs_llm_test {

struct Calibrated {
  TempFolder folder;
  TinyModel model = tiny_model(rrs_llm::Architecture::kLlama, true);
  std::string path = write_tiny_gguf(model, folder);
  std::vector<rrs_llm::TokenId> tokens = random_tokens(model, 95, 5);

  rrs_llm::CalibrationOptions options() const {
    rrs_llm::CalibrationOptions o;
    o.windows = 3;
    o.context = 30;
    o.hessians = true;
    return o;
  }
  rrs_llm::Calibration run(const rrs_llm::CalibrationOptions& o, int threads = 1) const {
    TinyEngine fp(path, "fp", 16, threads);
    return rrs_llm::calibrate(fp.engine.get(), tokens, o);
  }
};

// A text for the program, and its command line.
struct QuantizeProgram {
  Calibrated c;
  std::string out = c.folder.file("out.safetensors");
  std::string text;

  QuantizeProgram() {
    std::string words;
    for (int i = 0; i < 900; ++i) words += " the hello " + std::to_string(i * 7919 % 1000);
    text = c.folder.write("text.txt", words);
  }
  int quantize(const std::string& calibration, bool resume,
               const char* method = "rrs-gptq-zigzag") const {
    std::vector<const char*> a{
        "rrs-llm",   "quantize", "--model",       c.path.c_str(),      "--method", method,
        "--threads", "1",        "--calibration", calibration.c_str(), "--out",    out.c_str()};
    if (std::string(method) != "rrs") {  // which reads no text, so the option is refused
      a.insert(a.end(), {"--calibration-windows", "3"});
    }
    if (resume) a.push_back("--resume");
    return rrs_llm::run_program(static_cast<int>(a.size()), a.data());
  }
};

}  // namespace rrs_llm_test
