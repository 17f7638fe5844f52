#include "safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>

#include "half.hpp"
#include "json_strict.hpp"

namespace rrs_examples {
namespace {

using nlohmann::json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kMaxHeader = 100u << 20;  // the format's own limit, about 100 MB
constexpr const char* kMetadataKey = "__metadata__";
constexpr const char* kPaddingPrefix = "__pad.";

struct DtypeInfo {
  Dtype dtype;
  const char* name;
  std::size_t size;
};

constexpr std::array<DtypeInfo, 13> kDtypes{{{Dtype::kF64, "F64", 8},
                                             {Dtype::kF32, "F32", 4},
                                             {Dtype::kF16, "F16", 2},
                                             {Dtype::kBf16, "BF16", 2},
                                             {Dtype::kI64, "I64", 8},
                                             {Dtype::kI32, "I32", 4},
                                             {Dtype::kI16, "I16", 2},
                                             {Dtype::kI8, "I8", 1},
                                             {Dtype::kU64, "U64", 8},
                                             {Dtype::kU32, "U32", 4},
                                             {Dtype::kU16, "U16", 2},
                                             {Dtype::kU8, "U8", 1},
                                             {Dtype::kBool, "BOOL", 1}}};

const DtypeInfo& info_of(Dtype dtype) noexcept {
  return *std::find_if(kDtypes.begin(), kDtypes.end(),
                       [dtype](const DtypeInfo& info) { return info.dtype == dtype; });
}

[[noreturn]] void fail(const std::string& where, const std::string& problem) {
  throw std::runtime_error(where + ": " + problem);
}

std::size_t checked_product(std::size_t a, std::size_t b, const std::string& where) {
  if (b != 0 && a > std::numeric_limits<std::size_t>::max() / b) {
    fail(where, "field 'shape': product " + std::to_string(a) + " * " + std::to_string(b) +
                    " exceeds 64 bits");
  }
  return a * b;
}

std::size_t unsigned_field(const json& value, const char* field, const std::string& where) {
  // A negative number parses as signed, a huge one as floating point: neither is unsigned.
  if (!value.is_number_unsigned()) {
    fail(where, std::string("field '") + field + "': " + quoted_name(value.dump()) +
                    " is not an unsigned 64-bit integer");
  }
  return value.get<std::size_t>();
}

const json& member(const json& object, const char* field, const std::string& where) {
  const auto found = object.find(field);
  if (found == object.end()) fail(where, std::string("field '") + field + "' is missing");
  return *found;
}

const json& array_member(const json& object, const char* field, const std::string& where) {
  const json& value = member(object, field, where);
  if (!value.is_array()) fail(where, std::string("field '") + field + "' is not an array");
  return value;
}

Dtype parse_dtype(const json& value, const std::string& where) {
  if (!value.is_string()) fail(where, "field 'dtype' is not a string");
  const auto& name = value.get_ref<const std::string&>();
  for (const DtypeInfo& info : kDtypes) {
    if (name == info.name) return info.dtype;
  }
  fail(where, "field 'dtype': " + quoted_name(name) + " is not supported");
}

void parse_offsets(const json& entry, std::size_t buffer_size, const std::string& where,
                   std::size_t* begin, std::size_t* end) {
  const json& offsets = array_member(entry, "data_offsets", where);
  if (offsets.size() != 2) {
    fail(where, "field 'data_offsets' has " + std::to_string(offsets.size()) + " values, not 2");
  }
  *begin = unsigned_field(offsets[0], "data_offsets", where);
  *end = unsigned_field(offsets[1], "data_offsets", where);
  if (*begin > *end || *end > buffer_size) {
    fail(where, "field 'data_offsets': [" + std::to_string(*begin) + ", " + std::to_string(*end) +
                    ") is not a range within the file's " + std::to_string(buffer_size) +
                    " data bytes");
  }
}

Tensor parse_tensor(const std::string& name, const json& entry, const std::byte* buffer,
                    std::size_t buffer_size, const std::string& path) {
  const std::string where = path + ": tensor " + quoted_name(name);
  if (!entry.is_object()) fail(where, "entry is not an object");
  Tensor tensor;
  tensor.name = name;
  tensor.dtype = parse_dtype(member(entry, "dtype", where), where);
  std::size_t bytes = dtype_size(tensor.dtype);
  for (const json& extent : array_member(entry, "shape", where)) {
    tensor.shape.push_back(unsigned_field(extent, "shape", where));
    bytes = checked_product(bytes, tensor.shape.back(), where);
  }
  std::size_t begin = 0;
  std::size_t end = 0;
  parse_offsets(entry, buffer_size, where, &begin, &end);
  if (end - begin != bytes) {
    fail(where, "field 'data_offsets': " + std::to_string(end - begin) + " bytes, but shape and " +
                    dtype_name(tensor.dtype) + " need " + std::to_string(bytes));
  }
  tensor.data = buffer + begin;
  tensor.size = bytes;
  return tensor;
}

std::map<std::string, std::string> parse_metadata(const json& entry, const std::string& path) {
  const std::string where = path + ": field '__metadata__'";
  if (!entry.is_object()) fail(where, "not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) fail(where, "value of " + quoted_name(key) + " is not a string");
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

std::size_t header_length(const MappedFile& file) {
  if (file.size() < kLengthBytes) {
    fail(file.path(),
         "header length: file has " + std::to_string(file.size()) + " bytes, fewer than 8");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  const std::size_t limit = std::min(file.size() - kLengthBytes, kMaxHeader);
  if (length > limit) {
    fail(file.path(), "header length " + std::to_string(length) + " exceeds " +
                          std::to_string(limit) + " bytes");
  }
  return static_cast<std::size_t>(length);
}

// Sorted by address, each tensor must start where the one before ended.
void check_layout(const std::vector<Tensor>& tensors, const std::byte* buffer,
                  std::size_t buffer_size, const std::string& path) {
  std::size_t expected = 0;
  for (const Tensor& tensor : tensors) {
    const auto begin = static_cast<std::size_t>(tensor.data - buffer);
    if (begin != expected) {
      fail(path + ": tensor " + quoted_name(tensor.name),
           "field 'data_offsets': begins at " + std::to_string(begin) + ", " +
               (begin < expected ? "overlapping" : "leaving a gap after") + " data up to " +
               std::to_string(expected));
    }
    expected = begin + tensor.size;
  }
  if (expected != buffer_size) {
    fail(path, "tensors cover " + std::to_string(expected) + " of " + std::to_string(buffer_size) +
                   " data bytes");
  }
}

template <typename Value, typename Convert>
void convert(const std::byte* data, std::size_t count, float* out, Convert&& to_float) {
  for (std::size_t i = 0; i < count; ++i) {
    Value value;
    std::memcpy(&value, data + i * sizeof(Value), sizeof(Value));  // data may be unaligned
    out[i] = to_float(value);
  }
}

}  // namespace

const char* dtype_name(Dtype dtype) noexcept { return info_of(dtype).name; }
std::size_t dtype_size(Dtype dtype) noexcept { return info_of(dtype).size; }

void to_f32(const Tensor& tensor, std::size_t first, std::size_t count, float* out) {
  if (first > tensor.count() || count > tensor.count() - first) {
    fail("tensor " + quoted_name(tensor.name), "elements [" + std::to_string(first) + ", +" +
                                                   std::to_string(count) + ") are outside its " +
                                                   std::to_string(tensor.count()));
  }
  const std::byte* data = tensor.data + first * dtype_size(tensor.dtype);
  switch (tensor.dtype) {
    case Dtype::kF32: return convert<float>(data, count, out, [](float v) { return v; });
    case Dtype::kF16: return convert<std::uint16_t>(data, count, out, f16_to_f32);
    case Dtype::kBf16: return convert<std::uint16_t>(data, count, out, bf16_to_f32);
    default: break;
  }
  fail("tensor " + quoted_name(tensor.name),
       std::string("dtype ") + dtype_name(tensor.dtype) + " is not F32, F16 or BF16");
}

std::vector<float> to_f32(const Tensor& tensor) {
  std::vector<float> values(tensor.count());
  to_f32(tensor, 0, values.size(), values.data());
  return values;
}

Safetensors::Safetensors(const std::string& path) : file_(path) {
  const std::size_t length = header_length(file_);
  const json header =
      parse_json_strict(file_.text().substr(kLengthBytes, length), path + ": header");
  if (!header.is_object()) fail(path, "header is not a JSON object");
  const std::byte* buffer = file_.data() + kLengthBytes + length;
  const std::size_t buffer_size = file_.size() - kLengthBytes - length;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      metadata_ = parse_metadata(entry, path);
    } else {
      tensors_.push_back(parse_tensor(name, entry, buffer, buffer_size, path));
    }
  }
  // Empty tensors share an address with their successor and come first.
  std::sort(tensors_.begin(), tensors_.end(), [](const Tensor& a, const Tensor& b) {
    return std::make_pair(a.data, a.size) < std::make_pair(b.data, b.size);
  });
  check_layout(tensors_, buffer, buffer_size, path);
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const Tensor* Safetensors::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const Tensor& Safetensors::require(std::string_view name) const {
  const Tensor* tensor = find(name);
  if (tensor == nullptr) fail(path() + ": tensor " + quoted_name(name), "missing");
  return *tensor;
}

SafetensorsWriter::SafetensorsWriter(AtomicFile file, const std::vector<TensorSpec>& specs,
                                     const std::map<std::string, std::string>& metadata)
    : path_(file.path()), file_(std::move(file)) {
  json header = json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  std::size_t offset = 0;
  const auto add = [&](const TensorSpec& spec, std::size_t bytes) {
    if (spec.name == kMetadataKey || header.contains(spec.name)) {
      fail(path_ + ": tensor " + quoted_name(spec.name), "name is reserved or appears twice");
    }
    header[spec.name] = {{"dtype", dtype_name(spec.dtype)},
                         {"shape", spec.shape},
                         {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  };
  for (const TensorSpec& spec : specs) {
    const std::string where = path_ + ": tensor " + quoted_name(spec.name);
    std::size_t bytes = dtype_size(spec.dtype);
    for (const std::size_t extent : spec.shape) bytes = checked_product(bytes, extent, where);
    const std::size_t padding = (kTensorAlignment - offset % kTensorAlignment) % kTensorAlignment;
    if (padding != 0) {
      add({kPaddingPrefix + std::to_string(slots_.size()), Dtype::kU8, {padding}}, padding);
    }
    add(spec, bytes);
    slots_.push_back({spec.name, bytes, padding});
  }
  std::string text = header.dump();
  // Spaces after the header are part of the format; they align the data that follows.
  while ((kLengthBytes + text.size()) % kTensorAlignment != 0) text += ' ';
  const std::uint64_t length = text.size();
  file_.write(&length, kLengthBytes);
  file_.write(text.data(), text.size());
  finish_tensor();
}

// Writes the next tensor's padding; passes over empty tensors, which need no write().
void SafetensorsWriter::finish_tensor() {
  static constexpr std::array<char, kTensorAlignment> kZeros{};
  for (; current_ < slots_.size(); ++current_) {
    file_.write(kZeros.data(), slots_[current_].padding);
    if (slots_[current_].size != 0) return;
  }
}

void SafetensorsWriter::write(std::string_view name, const void* data, std::size_t size) {
  if (size == 0) return;
  const std::string where = path_ + ": tensor " + quoted_name(name);
  if (current_ == slots_.size() || slots_[current_].name != name) {
    fail(where, "written out of order, expected " +
                    (current_ == slots_.size() ? "the end" : quoted_name(slots_[current_].name)));
  }
  if (size > slots_[current_].size - written_) {
    fail(where, std::to_string(written_ + size) + " bytes written, but it has " +
                    std::to_string(slots_[current_].size));
  }
  file_.write(data, size);
  written_ += size;
  if (written_ < slots_[current_].size) return;
  written_ = 0;
  ++current_;
  finish_tensor();
}

void SafetensorsWriter::commit() {
  if (current_ != slots_.size()) {
    fail(path_ + ": tensor " + quoted_name(slots_[current_].name), "incomplete");
  }
  file_.commit();
}

void write_safetensors(const std::string& path, const std::vector<Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSpec> specs;
  specs.reserve(tensors.size());
  for (const Tensor& tensor : tensors) specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(AtomicFile(path), specs, metadata);
  for (const Tensor& tensor : tensors) writer.write(tensor.name, tensor.data, tensor.size);
  writer.commit();
}

}  // namespace rrs_examples
