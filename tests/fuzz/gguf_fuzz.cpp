// Any bytes as a GGUF file: its tensors, its tokenizer, and the model that it claims to hold.
#include "fuzz.hpp"

#include <stdexcept>
#include <vector>

#include "llm/gguf.hpp"
#include "llm/model_source.hpp"
#include "llm/tokenizer.hpp"

namespace {

void read_tensors(const rrs_llm::Gguf& file) {
  constexpr std::size_t kMostColumns = 1 << 16;
  for (const rrs_llm::GgufTensor& t : file.tensors()) {
    if (t.rows == 0 || t.columns == 0 || t.columns > kMostColumns) continue;
    std::vector<float> row(t.columns);
    rrs_llm::dequantize_rows(t, 0, 1, row.data());
    rrs_llm::dequantize_rows(t, t.rows - 1, 1, row.data());
  }
}

void use_tokenizer(const rrs_llm::Tokenizer& tokenizer) {
  rrs_llm::EncodeOptions options;
  options.missing_byte = rrs_llm::MissingByte::kUnknownToken;
  options.parse_special = true;
  const std::string text = "Hello, w\xc3\xb6rld 123\n\n  <s>\xff";
  tokenizer.decode(tokenizer.encode(text, options));
}

template <class Action>
void attempt(const Action& action) {
  try {
    action();
  } catch (const std::runtime_error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::MemoryFile memory(data, size);
  attempt([&] {
    const rrs_llm::Gguf file(memory.path());
    attempt([&] { read_tensors(file); });
    attempt([&] { use_tokenizer(rrs_llm::tokenizer_from_gguf(file)); });
  });
  attempt([&] {
    const auto model = rrs_llm::open_gguf_model(memory.path());
    model->read("output_norm.weight");
  });
  return 0;
}
