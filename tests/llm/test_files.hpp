#pragma once
// Tiny files for the tests of the readers: a temporary folder, byte strings, a GGUF builder.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace rrs_llm_test {

class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "rrs_llm_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream out(file(name), std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) throw std::runtime_error("cannot write " + file(name));
    return file(name);
  }
  std::vector<std::string> list() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  std::string path_;
};

inline std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

template <typename Value>
std::string raw(const Value& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

template <typename Value>
std::string raw_all(const std::vector<Value>& values) {
  std::string bytes;
  for (const Value& value : values) bytes += raw(value);
  return bytes;
}

// The message of the std::runtime_error that `action` throws; any other outcome fails the test.
template <typename Action>
std::string refusal(Action&& action) {
  try {
    action();
  } catch (const std::runtime_error& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw another exception: " << error.what();
    return {};
  }
  ADD_FAILURE() << "was accepted";
  return {};
}

inline void expect_in(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' not in: " << message;
  }
}

// Runs `action`: true if it returned, false if it threw std::runtime_error; others fail the test.
template <typename Action>
bool accepts(Action&& action) {
  try {
    action();
    return true;
  } catch (const std::runtime_error&) {
    return false;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw another exception: " << error.what();
    return false;
  }
}

struct SweepCounts {
  std::size_t accepted = 0;
  std::size_t refused = 0;
};

// Opens `bytes` with each byte in [first, last) step `stride` replaced by several values.
template <typename Open>
SweepCounts corruption_sweep(const std::string& bytes, std::size_t first, std::size_t last,
                             std::size_t stride, Open&& open) {
  SweepCounts counts;
  for (std::size_t at = first; at < last; at += stride) {
    const auto old = static_cast<unsigned char>(bytes[at]);
    for (const unsigned changed : {0u, 0xffu, old ^ 0x01u, old ^ 0x80u, old + 1u, 0x20u}) {
      std::string copy = bytes;
      copy[at] = static_cast<char>(changed & 0xffu);
      SCOPED_TRACE("byte " + std::to_string(at) + " = " + std::to_string(changed & 0xffu));
      ++(accepts([&] { open(copy); }) ? counts.accepted : counts.refused);
    }
  }
  return counts;
}

// Every proper prefix must be refused. Returns how many there were.
template <typename Open>
std::size_t truncation_sweep(const std::string& bytes, Open&& open) {
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(accepts([&] { open(bytes.substr(0, size)); })) << "prefix of " << size;
  }
  return bytes.size();
}

// Writes GGUF bytes; wrong ones too, as each part can be given raw.
class GgufBuilder {
 public:
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;
  std::string metadata;
  std::uint64_t metadata_count = 0;
  std::string records;
  std::uint64_t tensor_count = 0;
  std::string data;

  static std::string text(const std::string& value) {
    return raw(std::uint64_t{value.size()}) + value;
  }
  void value(const std::string& key, std::uint32_t type, const std::string& bytes) {
    metadata += text(key) + raw(type) + bytes;
    ++metadata_count;
  }
  void u32(const std::string& key, std::uint32_t v) { value(key, 4, raw(v)); }
  void f32(const std::string& key, float v) { value(key, 6, raw(v)); }
  void boolean(const std::string& key, bool v) { value(key, 7, std::string(1, v ? '\1' : '\0')); }
  void string(const std::string& key, const std::string& v) { value(key, 8, text(v)); }
  void array(const std::string& key, std::uint32_t element, std::uint64_t count,
             const std::string& bytes) {
    value(key, 9, raw(element) + raw(count) + bytes);
  }
  void strings(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes;
    for (const std::string& v : values) bytes += text(v);
    array(key, 8, values.size(), bytes);
  }
  void ints(const std::string& key, const std::vector<std::int32_t>& values) {
    array(key, 5, values.size(), raw_all(values));
  }

  void record(const std::string& name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
              std::uint64_t offset) {
    records += text(name) + raw(static_cast<std::uint32_t>(dims.size())) + raw_all(dims) +
               raw(type) + raw(offset);
    ++tensor_count;
  }
  void tensor(const std::string& name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
              const std::string& bytes) {
    pad(&data);
    record(name, dims, type, data.size());
    data += bytes;
  }
  void f32_tensor(const std::string& name, const std::vector<std::uint64_t>& dims,
                  const std::vector<float>& values) {
    tensor(name, dims, 0, raw_all(values));
  }

  // Bytes up to the data section, without its padding.
  std::string head() const {
    return "GGUF" + raw(version) + raw(tensor_count) + raw(metadata_count) + metadata + records;
  }
  std::string bytes() const {
    std::string all = head();
    pad(&all);
    return all + data;
  }

 private:
  void pad(std::string* bytes) const {
    bytes->resize((bytes->size() + alignment - 1) / alignment * alignment);
  }
};

// A repeatable stream of small numbers.
class Random {
 public:
  explicit Random(std::uint32_t seed) : state_(seed * 2654435761u + 1u) {}
  std::uint32_t next() {
    state_ = state_ * 1664525u + 1013904223u;
    return state_ >> 8;
  }
  std::uint32_t below(std::uint32_t limit) { return next() % limit; }
  float real() { return static_cast<float>(next()) / 8388608.0f - 1.0f; }  // [-1, 1)

 private:
  std::uint32_t state_;
};

}  // namespace rrs_llm_test
