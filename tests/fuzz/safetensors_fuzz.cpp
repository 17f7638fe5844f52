// Any bytes as a safetensors file: every tensor read, as f32 where its type allows it.
#include "fuzz.hpp"

#include <stdexcept>
#include <vector>

#include "support/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using rrs_examples::Dtype;
  const fuzz::MemoryFile file(data, size);
  try {
    const rrs_examples::Safetensors tensors(file.path());
    for (const rrs_examples::Tensor& t : tensors.tensors()) {
      fuzz::require(tensors.find(t.name) != nullptr, "a listed tensor is found by name");
      fuzz::require(t.count() * rrs_examples::dtype_size(t.dtype) == t.size, "count times size");
      if (t.dtype == Dtype::kF32 || t.dtype == Dtype::kF16 || t.dtype == Dtype::kBf16) {
        fuzz::require(rrs_examples::to_f32(t).size() == t.count(), "one float per element");
      }
    }
  } catch (const std::runtime_error&) {
  }
  return 0;
}
