#pragma once
// GGUF versions 2 and 3 (little-endian) over a mapped file.
//
// From: a path; to: metadata values and tensors as views into the mapping. Layout: magic "GGUF",
// u32 version, u64 tensor count, u64 metadata count; metadata (key, type, value); tensor records
// (name, dims, type, offset); padding; tensor data. Every count, length, shape product, type and
// offset is checked before use; a violation throws std::runtime_error naming file, tensor or key,
// field, value and limit. Refused as well: duplicate keys or tensor names, overlapping tensors.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "../support/mapped_file.hpp"
#include "gguf_blocks.hpp"

namespace rrs_llm {

// The format's own numbers.
enum class MetadataType : std::uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

const char* metadata_type_name(MetadataType type) noexcept;

struct MetadataValue {
  MetadataType type = MetadataType::kU8;
  const std::byte* data = nullptr;  // a scalar's or a numeric array's bytes, unaligned
  std::string_view text;            // kString
  // kArray: numeric elements stay in the file, strings and arrays are listed.
  MetadataType element = MetadataType::kU8;
  std::size_t count = 0;
  std::vector<std::string_view> strings;
  std::vector<MetadataValue> arrays;
};

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<std::size_t> dims;  // innermost first, as in the file
  std::size_t columns = 0;        // dims[0]
  std::size_t rows = 0;           // product of the other dims
  std::size_t row_bytes = 0;
  const std::byte* data = nullptr;
  std::size_t size = 0;  // bytes
};

// Rows [first, first + count) to out (count * columns floats); the range is checked.
void dequantize_rows(const GgufTensor& tensor, std::size_t first, std::size_t count, float* out);

class Gguf {
 public:
  explicit Gguf(const std::string& path);

  const std::string& path() const noexcept { return file_.path(); }
  void release_pages() const noexcept { file_.release_pages(); }
  std::uint32_t version() const noexcept { return version_; }
  const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }  // record order
  const GgufTensor* find(std::string_view name) const;
  const std::map<std::string, MetadataValue, std::less<>>& metadata() const noexcept {
    return metadata_;
  }

  // Typed access. `require_` throws when the key is absent, all throw when the type or range is
  // wrong. Any integer type serves as unsigned if its value is in [0, limit].
  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  std::uint64_t require_uint(std::string_view key, std::uint64_t limit) const;
  std::uint64_t uint_or(std::string_view key, std::uint64_t limit, std::uint64_t otherwise) const;
  double require_float(std::string_view key) const;
  double float_or(std::string_view key, double otherwise) const;
  bool bool_or(std::string_view key, bool otherwise) const;
  std::string_view require_string(std::string_view key) const;
  std::string_view string_or(std::string_view key, std::string_view otherwise) const;
  const std::vector<std::string_view>& require_strings(std::string_view key) const;
  std::vector<std::int64_t> require_ints(std::string_view key) const;

 private:
  const MetadataValue& require(std::string_view key) const;
  [[noreturn]] void fail_key(std::string_view key, const std::string& problem) const;

  rrs_examples::MappedFile file_;
  std::uint32_t version_ = 0;
  std::map<std::string, MetadataValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace rrs_llm
