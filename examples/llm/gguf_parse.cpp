#include "gguf_parse.hpp"

#include <array>
#include <limits>
#include <stdexcept>

namespace rrs_llm {
namespace {

struct ScalarInfo {
  const char* name;
  std::size_t size;
};

constexpr std::array<ScalarInfo, 13> kScalars{{{"u8", 1},
                                               {"i8", 1},
                                               {"u16", 2},
                                               {"i16", 2},
                                               {"u32", 4},
                                               {"i32", 4},
                                               {"f32", 4},
                                               {"bool", 1},
                                               {"string", 0},
                                               {"array", 0},
                                               {"u64", 8},
                                               {"i64", 8},
                                               {"f64", 8}}};

constexpr int kMaxArrayDepth = 4;
constexpr std::size_t kMaxDims = 4;
constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kSmallestArray = 12;  // element type and count

void check_bools(const GgufCursor& cursor, const std::byte* data, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto value = std::to_integer<unsigned>(data[i]);
    if (value > 1) cursor.fail("bool", "value " + std::to_string(value) + " is not 0 or 1");
  }
}

MetadataValue parse_array(GgufCursor& cursor, int depth) {
  if (depth >= kMaxArrayDepth) {
    cursor.fail("array", "nesting is deeper than " + std::to_string(kMaxArrayDepth));
  }
  MetadataValue value;
  value.type = MetadataType::kArray;
  value.element = parse_metadata_type(cursor);
  const std::size_t scalar = metadata_scalar_size(value.element);
  if (value.element == MetadataType::kString) {
    value.count = cursor.count(kLengthBytes, "array length");
    value.strings.reserve(value.count);
    for (std::size_t i = 0; i < value.count; ++i) {
      value.strings.push_back(cursor.string("array element"));
    }
  } else if (value.element == MetadataType::kArray) {
    value.count = cursor.count(kSmallestArray, "array length");
    for (std::size_t i = 0; i < value.count; ++i) {
      value.arrays.push_back(parse_array(cursor, depth + 1));
    }
  } else {
    value.count = cursor.count(scalar, "array length");
    value.data = cursor.take(value.count * scalar, "array");
    if (value.element == MetadataType::kBool) check_bools(cursor, value.data, value.count);
  }
  return value;
}

std::size_t checked_product(const GgufCursor& cursor, std::size_t a, std::size_t b) {
  if (a > std::numeric_limits<std::size_t>::max() / b) {
    cursor.fail("dims",
                "product " + std::to_string(a) + " * " + std::to_string(b) + " exceeds 64 bits");
  }
  return a * b;
}

void parse_dims(GgufCursor& cursor, GgufTensor* tensor) {
  const auto dims = cursor.value<std::uint32_t>("dimension count");
  if (dims == 0 || dims > kMaxDims) {
    cursor.fail("dimension count", std::to_string(dims) + " is not 1 to 4");
  }
  tensor->rows = 1;
  for (std::uint32_t i = 0; i < dims; ++i) {
    const auto extent = cursor.value<std::uint64_t>("dims");
    if (extent == 0) cursor.fail("dims", "dimension " + std::to_string(i) + " is 0");
    tensor->dims.push_back(extent);
    if (i > 0) tensor->rows = checked_product(cursor, tensor->rows, extent);
  }
  tensor->columns = tensor->dims[0];
}

}  // namespace

const char* metadata_type_name(MetadataType type) noexcept {
  return kScalars[static_cast<std::size_t>(type)].name;
}

std::size_t metadata_scalar_size(MetadataType type) noexcept {
  return kScalars[static_cast<std::size_t>(type)].size;
}

const std::byte* GgufCursor::take(std::size_t size, const char* field) {
  if (size > remaining()) {
    fail(field, "needs " + std::to_string(size) + " bytes at offset " + std::to_string(position_) +
                    ", but the file has " + std::to_string(remaining()) + " left");
  }
  const std::byte* data = here();
  position_ += size;
  return data;
}

std::size_t GgufCursor::count(std::size_t item_bytes, const char* field) {
  const auto items = value<std::uint64_t>(field);
  const std::size_t limit = remaining() / item_bytes;
  if (items > limit) {
    fail(field, std::to_string(items) + " exceeds " + std::to_string(limit) +
                    ", what the rest of the file can hold");
  }
  return items;
}

std::string_view GgufCursor::string(const char* field) {
  const std::size_t size = count(1, field);
  const std::byte* data = take(size, field);
  return {reinterpret_cast<const char*>(data), size};
}

void GgufCursor::fail(const char* field, const std::string& problem) const {
  throw std::runtime_error(path() + ": " + context_ + ": field '" + field + "': " + problem);
}

MetadataType parse_metadata_type(GgufCursor& cursor) {
  const auto number = cursor.value<std::uint32_t>("type");
  if (number >= kScalars.size()) {
    cursor.fail("type", "metadata type " + std::to_string(number) + " is not 0 to 12");
  }
  return static_cast<MetadataType>(number);
}

MetadataValue parse_metadata_value(GgufCursor& cursor, MetadataType type, int depth) {
  if (type == MetadataType::kArray) return parse_array(cursor, depth);
  MetadataValue value;
  value.type = type;
  if (type == MetadataType::kString) {
    value.text = cursor.string("value");
    return value;
  }
  value.data = cursor.take(metadata_scalar_size(type), "value");
  if (type == MetadataType::kBool) check_bools(cursor, value.data, 1);
  return value;
}

TensorRecord parse_tensor_record(GgufCursor& cursor) {
  TensorRecord record;
  GgufTensor& tensor = record.tensor;
  tensor.name = std::string(cursor.string("name"));
  cursor.set_context("tensor " + quoted_name(tensor.name));
  parse_dims(cursor, &tensor);
  const auto number = cursor.value<std::uint32_t>("type");
  const GgufTypeInfo* info = find_gguf_type(number);
  if (info == nullptr) cursor.fail("type", "number " + std::to_string(number) + " not supported");
  if (tensor.columns % info->block_elements != 0) {
    cursor.fail("dims", "row length " + std::to_string(tensor.columns) + " is not a multiple of " +
                            std::to_string(info->block_elements) + " (" + info->name + ")");
  }
  tensor.type = info->type;
  tensor.row_bytes =
      checked_product(cursor, tensor.columns / info->block_elements, info->block_bytes);
  tensor.size = checked_product(cursor, tensor.row_bytes, tensor.rows);
  record.data_offset = cursor.value<std::uint64_t>("offset");
  return record;
}

}  // namespace rrs_llm
