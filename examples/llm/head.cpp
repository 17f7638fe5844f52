#include "head.hpp"

#include <algorithm>
#include <cstring>

#include "rrs/core/types.hpp"

namespace rrs_llm {
namespace {

std::int64_t size_of(std::size_t n) noexcept { return static_cast<std::int64_t>(n); }
std::size_t index(std::int64_t n) noexcept { return static_cast<std::size_t>(n); }

// Rows that share expanded panels: expanding is 3 % of their product, and the rows stay in L2.
constexpr std::int64_t kRowBlock = 96;
// Up to here the codes are read once per row, which costs less than expanding them.
constexpr std::int64_t kFewRows = 3;
constexpr std::int64_t kExpanded = 2;  // panels at a time, the most that a tile of rows takes

}  // namespace

Head::Head(const ModelSource& source, const std::string& name) {
  const TensorInfo info = source.info(name).value();
  panels_ = padded16(size_of(info.rows)) / kLanes;
  width_ = size_of(info.columns);
  const std::optional<RawBlocks> blocks = source.raw_blocks(name);
  if (blocks && blocks->type == GgufType::kQ8_0) {
    read_q8(*blocks);
  } else {
    read_floats(source, name);
  }
}

void Head::read_floats(const ModelSource& source, const std::string& name) {
  const std::int64_t vocabulary = size_of(source.info(name)->rows);
  floats_.assign(index(panels_ * kLanes * width_), 0.0f);
  std::vector<float> rows(index(kLanes * width_));
  for (std::int64_t first = 0; first < vocabulary; first += kLanes) {
    const std::int64_t count = (std::min)(vocabulary - first, kLanes);
    source.read_rows(name, index(first), index(count), rows.data());
    float* panel = floats_.data() + first * width_;
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t k = 0; k < width_; ++k) panel[k * kLanes + r] = rows[index(r * width_ + k)];
    }
  }
}

// A block of Q8_0: the scale, f16 in two bytes, and 32 codes.
void Head::read_q8(const RawBlocks& blocks) {
  codes_.assign(index(panels_ * kLanes * width_), 0);
  scales_.assign(index(panels_ * kLanes * width_ / kQ8Inputs), 0.0f);
  for (std::int64_t row = 0; row < size_of(blocks.rows); ++row) {
    const std::byte* from = blocks.data + index(row) * blocks.row_bytes;
    const std::int64_t panel = row / kLanes * kLanes * width_, lane = row % kLanes;
    for (std::int64_t k = 0; k < width_; k += kQ8Inputs) {
      const auto low = std::to_integer<unsigned>(*from++);
      const auto high = std::to_integer<unsigned>(*from++);
      scales_[index((panel + k * kLanes) / kQ8Inputs + lane)] =
          rrs::to_f32(rrs::f16{static_cast<std::uint16_t>(low | high << 8)});
      std::int8_t* to = codes_.data() + panel + k * kLanes + lane;
      for (std::int64_t i = 0; i < kQ8Inputs; ++i) std::memcpy(to + i * kLanes, from++, 1);
    }
  }
}

std::int64_t Head::bytes() const noexcept {
  return size_of(floats_.size() * sizeof(float) + codes_.size() + scales_.size() * sizeof(float));
}

void Head::product(const float* hidden, std::int64_t rows, std::int64_t first, std::int64_t last,
                   float* y, std::int64_t y_stride) const {
  const FloatKernels& kernels = float_kernels();
  PanelCall call;
  call.x = hidden;
  call.x_stride = width_;
  call.rows = rows;
  call.panel_stride = kLanes * width_;
  call.k = width_;
  call.y_stride = y_stride;
  if (codes_.empty()) {
    call.panels = floats_.data() + first * call.panel_stride;
    call.panel_count = last - first;
    call.y = y + first * kLanes;
    kernels.panel_product(call);
    return;
  }
  if (rows <= kFewRows) {
    call.y = y + first * kLanes;
    call.panel_count = last - first;
    kernels.q8_product(call, codes_.data() + first * call.panel_stride,
                       scales_.data() + first * call.panel_stride / kQ8Inputs);
    return;
  }
  thread_local std::vector<float> expanded;
  expanded.resize(index(kExpanded * call.panel_stride));
  call.panels = expanded.data();
  for (std::int64_t row = 0; row < rows; row += kRowBlock) {
    call.x = hidden + row * width_;
    call.rows = (std::min)(kRowBlock, rows - row);
    for (std::int64_t panel = first; panel < last; panel += kExpanded) {
      call.panel_count = (std::min)(kExpanded, last - panel);
      const std::int64_t at = panel * call.panel_stride;
      kernels.q8_expand(codes_.data() + at, scales_.data() + at / kQ8Inputs,
                        call.panel_count * width_, expanded.data());
      call.y = y + row * y_stride + panel * kLanes;
      kernels.panel_product(call);
    }
  }
}

}  // namespace rrs_llm
