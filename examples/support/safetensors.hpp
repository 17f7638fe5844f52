#pragma once
// safetensors: 8 bytes little-endian header length, JSON header, tensor bytes.
//
// From: a mapped file; to: `Tensor` views into the mapping (no copy) or float vectors. Everything
// in the header is checked before use: lengths, dtypes, shape products, offsets (in range, no
// overlap, no gap, as the format demands), duplicate names. A violation throws std::runtime_error
// naming file, tensor, field, value and limit. Shapes count elements, outermost first; sizes are
// bytes. Tensor data has no promised alignment in foreign files; files written here start every
// tensor at a multiple of kTensorAlignment.

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "atomic_file.hpp"
#include "mapped_file.hpp"

namespace rrs_examples {

enum class Dtype { kF64, kF32, kF16, kBf16, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };

const char* dtype_name(Dtype dtype) noexcept;
std::size_t dtype_size(Dtype dtype) noexcept;

struct Tensor {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<std::size_t> shape;
  const std::byte* data = nullptr;
  std::size_t size = 0;  // bytes

  std::size_t count() const noexcept { return size / dtype_size(dtype); }
};

// F32, F16 and BF16 only; any other dtype throws.
std::vector<float> to_f32(const Tensor& tensor);
// Elements [first, first + count) to out, without touching the rest; range is checked.
void to_f32(const Tensor& tensor, std::size_t first, std::size_t count, float* out);

class Safetensors {
 public:
  explicit Safetensors(const std::string& path);

  const Tensor* find(std::string_view name) const;                          // nullptr when absent
  const Tensor& require(std::string_view name) const;                       // throws when absent
  const std::vector<Tensor>& tensors() const noexcept { return tensors_; }  // in file order
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  const std::string& path() const noexcept { return file_.path(); }
  std::size_t file_size() const noexcept { return file_.size(); }
  void release_pages() const noexcept { file_.release_pages(); }

 private:
  MappedFile file_;
  std::vector<Tensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<std::size_t> shape;
};

inline constexpr std::size_t kTensorAlignment = 64;

// Streaming writer: the layout is fixed by the specs, then bytes arrive tensor by tensor in that
// order, in pieces of any size, so that a large model is never in memory. Where a tensor would
// start unaligned, a U8 tensor named "__pad.N" fills the gap (the format allows no holes).
class SafetensorsWriter {
 public:
  SafetensorsWriter(AtomicFile file, const std::vector<TensorSpec>& specs,
                    const std::map<std::string, std::string>& metadata = {});

  void write(std::string_view name, const void* data, std::size_t size);
  void commit();  // throws unless every tensor is complete

 private:
  struct Slot {
    std::string name;
    std::size_t size = 0;
    std::size_t padding = 0;  // bytes of zeros before it
  };
  void finish_tensor();

  std::string path_;
  AtomicFile file_;
  std::vector<Slot> slots_;
  std::size_t current_ = 0;
  std::size_t written_ = 0;
};

// All at once, for small files: `data` and `size` of each tensor are used.
void write_safetensors(const std::string& path, const std::vector<Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace rrs_examples
