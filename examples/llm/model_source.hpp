#pragma once
// One view of a model, from a GGUF file or a Hugging Face folder.
//
// From: a path; to: configuration, tokenizer, and tensors by canonical name (model_config.hpp), as
// f32 row ranges read from the mapping on demand: no copy of the model is made. Opening checks that
// every tensor of the architecture is there with its shape and that the file holds no tensor the
// engine would silently leave out. Unsupported architectures are refused by name.
// Thread safety: const members may run concurrently. Cost: a read touches only the rows asked for.

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf_blocks.hpp"
#include "model_config.hpp"
#include "tokenizer.hpp"

namespace rrs_llm {

struct TensorInfo {
  std::string file_name;  // the tensor's name in the file
  std::string type;       // the format's name, such as "Q4_1"
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t bytes = 0;
};

// Blocks of a Q4_0, Q4_1 or Q8_0 matrix as the file holds them, unaligned; row r starts at data +
// r * row_bytes. Rows of q and k are in the file's RoPE order, like everything read from here.
struct RawBlocks {
  GgufType type = GgufType::kQ4_0;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t row_bytes = 0;
  const std::byte* data = nullptr;
};

class ModelSource {
 public:
  virtual ~ModelSource() = default;

  virtual const std::string& path() const = 0;
  // Mapped pages read so far need not stay resident: for work that passes over the model once.
  virtual void release_pages() const noexcept = 0;
  virtual const ModelConfig& config() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;

  virtual std::optional<TensorInfo> info(std::string_view name) const = 0;
  // Rows [first, first + count), count * columns floats. Throws on a bad name or range.
  virtual void read_rows(std::string_view name, std::size_t first, std::size_t count,
                         float* out) const = 0;
  // nullopt unless the tensor is Q4_0, Q4_1 or Q8_0.
  virtual std::optional<RawBlocks> raw_blocks(std::string_view name) const = 0;

  // The whole tensor, for vectors and tests.
  std::vector<float> read(std::string_view name) const;
};

// A folder is a Hugging Face model, a file a GGUF one.
std::unique_ptr<ModelSource> open_model(const std::string& path);
std::unique_ptr<ModelSource> open_gguf_model(const std::string& path);
std::unique_ptr<ModelSource> open_hf_model(const std::string& folder);

// For the sources: every expected tensor with its shape, a vocabulary that covers the tokenizer.
void check_model(const ModelSource& source);
// Throws unless [first, first + count) is within the rows.
void check_rows(const std::string& path, std::string_view name, std::size_t rows, std::size_t first,
                std::size_t count);

}  // namespace rrs_llm
