#pragma once
// Internal to the GGUF reader: a bounds-checked cursor and the record parsers built on it.
//
// Producer: gguf_parse.cpp; consumer: gguf.cpp. Offsets count bytes from the start of the file.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "../support/quoted_name.hpp"
#include "gguf.hpp"

namespace rrs_llm {

using rrs_examples::quoted_name;

class GgufCursor {
 public:
  explicit GgufCursor(const rrs_examples::MappedFile& file) : file_(file) {}

  std::size_t position() const noexcept { return position_; }
  std::size_t remaining() const noexcept { return file_.size() - position_; }
  const std::byte* here() const noexcept { return file_.data() + position_; }
  const std::string& path() const noexcept { return file_.path(); }

  // What is being read, for messages.
  void set_context(std::string context) { context_ = std::move(context); }

  const std::byte* take(std::size_t size, const char* field);
  // Count of items of at least `item_bytes` each; refused when the file cannot hold them.
  std::size_t count(std::size_t item_bytes, const char* field);
  std::string_view string(const char* field);

  template <typename Value>
  Value value(const char* field) {
    Value result;
    std::memcpy(&result, take(sizeof(Value), field), sizeof(Value));
    return result;
  }

  [[noreturn]] void fail(const char* field, const std::string& problem) const;

 private:
  const rrs_examples::MappedFile& file_;
  std::string context_ = "header";
  std::size_t position_ = 0;
};

std::size_t metadata_scalar_size(MetadataType type) noexcept;  // 0 for strings and arrays
MetadataValue parse_metadata_value(GgufCursor& cursor, MetadataType type, int depth);
MetadataType parse_metadata_type(GgufCursor& cursor);

// The record only; `data_offset` is relative to the data section, checked later.
struct TensorRecord {
  GgufTensor tensor;
  std::uint64_t data_offset = 0;
};
TensorRecord parse_tensor_record(GgufCursor& cursor);

}  // namespace rrs_llm
