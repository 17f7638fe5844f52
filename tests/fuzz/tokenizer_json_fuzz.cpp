// Any bytes as tokenizer.json (and, behind a zero byte, tokenizer_config.json): what loads encodes
// and decodes.
#include "fuzz.hpp"

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "llm/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const std::size_t end = (std::min)(all.find('\0'), size);
  const std::string_view config = all.substr((std::min)(end + 1, size));
  try {
    const rrs_llm::Tokenizer tokenizer = rrs_llm::tokenizer_from_json(
        all.substr(0, end), "tokenizer.json", config, "tokenizer_config.json");
    rrs_llm::EncodeOptions options;
    options.parse_special = true;
    const std::string text = "Hello, w\xc3\xb6rld 123\n\n  <s>";
    const std::vector<rrs_llm::TokenId> ids = tokenizer.encode(text, options);
    fuzz::require(tokenizer.decode(ids) == text, "decode(encode(text)) is the text");
  } catch (const std::runtime_error&) {
  }
  return 0;
}
