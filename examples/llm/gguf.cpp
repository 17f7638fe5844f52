#include "gguf.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "gguf_parse.hpp"

namespace rrs_llm {
namespace {

constexpr std::uint32_t kOldest = 2;
constexpr std::uint32_t kNewest = 3;
constexpr std::size_t kDefaultAlignment = 32;
constexpr std::size_t kLargestAlignment = 1u << 20;
constexpr std::size_t kSmallestEntry = 8 + 4 + 1;           // key length, type, one byte
constexpr std::size_t kSmallestRecord = 8 + 4 + 8 + 4 + 8;  // name length, dims, type, offset

std::uint32_t parse_version(GgufCursor& cursor) {
  const std::byte* magic = cursor.take(4, "magic");
  if (std::memcmp(magic, "GGUF", 4) != 0) cursor.fail("magic", "not a GGUF file");
  const auto version = cursor.value<std::uint32_t>("version");
  if (version < kOldest || version > kNewest) {
    const bool swapped = version > 0xffffffu;  // 2 or 3 seen from the other byte order
    cursor.fail("version", std::to_string(version) + " is not 2 or 3" +
                               (swapped ? " (a big-endian file?)" : ""));
  }
  return version;
}

// Integers of any width; nullopt-like: *negative tells a value below zero.
std::uint64_t integer_bits(MetadataType type, const std::byte* data, bool* negative, bool* ok) {
  const std::size_t size = metadata_scalar_size(type);
  std::uint64_t bits = 0;
  std::memcpy(&bits, data, size);
  const bool is_signed = type == MetadataType::kI8 || type == MetadataType::kI16 ||
                         type == MetadataType::kI32 || type == MetadataType::kI64;
  const bool is_unsigned = type == MetadataType::kU8 || type == MetadataType::kU16 ||
                           type == MetadataType::kU32 || type == MetadataType::kU64;
  *ok = is_signed || is_unsigned;
  *negative = is_signed && ((bits >> (8 * size - 1)) & 1u) != 0;
  if (*negative && size < 8) bits |= ~std::uint64_t{0} << (8 * size);
  return bits;
}

// Sorted by offset, no tensor may begin before the one before it ended.
void check_overlap(const std::vector<GgufTensor>& tensors, const std::string& path) {
  std::vector<const GgufTensor*> sorted;
  sorted.reserve(tensors.size());
  for (const GgufTensor& tensor : tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->data < b->data; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1]->data + sorted[i - 1]->size > sorted[i]->data) {
      throw std::runtime_error(path + ": tensor " + quoted_name(sorted[i]->name) +
                               ": field 'offset': overlaps tensor " +
                               quoted_name(sorted[i - 1]->name));
    }
  }
}

// Points the record at its bytes within the data section.
GgufTensor place(TensorRecord record, GgufCursor& cursor, std::size_t data_size,
                 std::size_t alignment) {
  cursor.set_context("tensor " + quoted_name(record.tensor.name));
  if (record.data_offset % alignment != 0) {
    cursor.fail("offset", std::to_string(record.data_offset) + " is not a multiple of " +
                              std::to_string(alignment));
  }
  if (record.data_offset > data_size || record.tensor.size > data_size - record.data_offset) {
    cursor.fail("offset", std::to_string(record.tensor.size) + " bytes at " +
                              std::to_string(record.data_offset) + " exceed the " +
                              std::to_string(data_size) + " data bytes of the file");
  }
  record.tensor.data = cursor.here() + record.data_offset;
  return std::move(record.tensor);
}

}  // namespace

Gguf::Gguf(const std::string& path) : file_(path) {
  GgufCursor cursor(file_);
  version_ = parse_version(cursor);
  const auto tensor_count = cursor.count(kSmallestRecord, "tensor count");
  const auto entry_count = cursor.count(kSmallestEntry, "metadata count");
  for (std::size_t i = 0; i < entry_count; ++i) {
    cursor.set_context("metadata entry " + std::to_string(i));
    const std::string key(cursor.string("key"));
    cursor.set_context("metadata " + quoted_name(key));
    const MetadataType type = parse_metadata_type(cursor);
    if (!metadata_.emplace(key, parse_metadata_value(cursor, type, 0)).second) {
      cursor.fail("key", "appears twice");
    }
  }
  std::vector<TensorRecord> records;
  for (std::size_t i = 0; i < tensor_count; ++i) {
    cursor.set_context("tensor record " + std::to_string(i));
    records.push_back(parse_tensor_record(cursor));
    if (!index_.emplace(records.back().tensor.name, i).second) cursor.fail("name", "appears twice");
  }
  const std::size_t alignment = uint_or("general.alignment", kLargestAlignment, kDefaultAlignment);
  if (alignment < 8 || (alignment & (alignment - 1)) != 0) {
    fail_key("general.alignment", std::to_string(alignment) + " is not a power of two from 8 on");
  }
  // A file without tensors may end before the padding.
  const std::size_t padding = (alignment - cursor.position() % alignment) % alignment;
  cursor.set_context("tensor data");
  cursor.take(tensor_count == 0 ? std::min(padding, cursor.remaining()) : padding, "padding");
  const std::size_t data_size = cursor.remaining();
  for (TensorRecord& record : records) {
    tensors_.push_back(place(std::move(record), cursor, data_size, alignment));
  }
  check_overlap(tensors_, path);
}

void dequantize_rows(const GgufTensor& tensor, std::size_t first, std::size_t count, float* out) {
  if (first > tensor.rows || count > tensor.rows - first) {
    throw std::runtime_error("tensor " + quoted_name(tensor.name) + ": rows [" +
                             std::to_string(first) + ", +" + std::to_string(count) +
                             ") are outside its " + std::to_string(tensor.rows));
  }
  dequantize(tensor.type, tensor.data + first * tensor.row_bytes, count * tensor.columns, out);
}

const GgufTensor* Gguf::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const MetadataValue& Gguf::require(std::string_view key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) fail_key(key, "missing");
  return found->second;
}

void Gguf::fail_key(std::string_view key, const std::string& problem) const {
  throw std::runtime_error(path() + ": metadata " + quoted_name(key) + ": " + problem);
}

std::uint64_t Gguf::require_uint(std::string_view key, std::uint64_t limit) const {
  const MetadataValue& value = require(key);
  bool negative = false;
  bool ok = false;
  std::uint64_t bits = 0;
  if (value.data != nullptr && value.type != MetadataType::kArray) {
    bits = integer_bits(value.type, value.data, &negative, &ok);
  }
  if (!ok) fail_key(key, std::string("type ") + metadata_type_name(value.type) + ", not integer");
  if (negative) fail_key(key, std::to_string(static_cast<std::int64_t>(bits)) + " is negative");
  if (bits > limit) fail_key(key, std::to_string(bits) + " exceeds " + std::to_string(limit));
  return bits;
}

std::uint64_t Gguf::uint_or(std::string_view key, std::uint64_t limit,
                            std::uint64_t otherwise) const {
  return has(key) ? require_uint(key, limit) : otherwise;
}

double Gguf::require_float(std::string_view key) const {
  const MetadataValue& value = require(key);
  if (value.type == MetadataType::kF32) {
    float result;
    std::memcpy(&result, value.data, sizeof result);
    return static_cast<double>(result);
  }
  if (value.type != MetadataType::kF64) {
    fail_key(key, std::string("type ") + metadata_type_name(value.type) + ", not f32 or f64");
  }
  double result;
  std::memcpy(&result, value.data, sizeof result);
  return result;
}

double Gguf::float_or(std::string_view key, double otherwise) const {
  return has(key) ? require_float(key) : otherwise;
}

bool Gguf::bool_or(std::string_view key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const MetadataValue& value = require(key);
  if (value.type != MetadataType::kBool) {
    fail_key(key, std::string("type ") + metadata_type_name(value.type) + ", not bool");
  }
  return std::to_integer<unsigned>(*value.data) != 0;
}

std::string_view Gguf::require_string(std::string_view key) const {
  const MetadataValue& value = require(key);
  if (value.type != MetadataType::kString) {
    fail_key(key, std::string("type ") + metadata_type_name(value.type) + ", not string");
  }
  return value.text;
}

std::string_view Gguf::string_or(std::string_view key, std::string_view otherwise) const {
  return has(key) ? require_string(key) : otherwise;
}

const std::vector<std::string_view>& Gguf::require_strings(std::string_view key) const {
  const MetadataValue& value = require(key);
  if (value.type != MetadataType::kArray || value.element != MetadataType::kString) {
    fail_key(key, "not an array of strings");
  }
  return value.strings;
}

std::vector<std::int64_t> Gguf::require_ints(std::string_view key) const {
  const MetadataValue& value = require(key);
  if (value.type != MetadataType::kArray) fail_key(key, "not an array of integers");
  const std::size_t size = metadata_scalar_size(value.element);
  std::vector<std::int64_t> result(value.count);
  for (std::size_t i = 0; i < value.count; ++i) {
    bool negative = false;
    bool ok = false;
    std::uint64_t bits = 0;
    if (size != 0) bits = integer_bits(value.element, value.data + i * size, &negative, &ok);
    if (!ok || (!negative && bits > std::uint64_t{std::numeric_limits<std::int64_t>::max()})) {
      fail_key(key, "not an array of 64-bit signed integers");
    }
    result[i] = static_cast<std::int64_t>(bits);
  }
  return result;
}

}  // namespace rrs_llm
