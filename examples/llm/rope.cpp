#include "rope.hpp"

#include <cmath>

namespace rrs_llm {

Rope::Rope(const ModelConfig& config)
    : half_(static_cast<std::int64_t>(config.head_size / 2)), order_(config.rope_order) {
  for (std::int64_t i = 0; i < half_; ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(config.head_size);
    double frequency = 1.0 / std::pow(config.rope_base, exponent);
    if (!config.rope_divisors.empty()) {
      frequency /= static_cast<double>(config.rope_divisors[static_cast<std::size_t>(i)]);
    }
    frequencies_.push_back(frequency);
  }
}

void Rope::reserve(std::int64_t positions) {
  for (; positions_ < positions; ++positions_) {
    for (const double frequency : frequencies_) {
      const double angle = static_cast<double>(positions_) * frequency;
      table_.push_back(static_cast<float>(std::cos(angle)));
      table_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

void Rope::apply(float* x, std::int64_t heads, std::int64_t position) const noexcept {
  const float* angles = table_.data() + position * half_ * 2;
  const bool interleaved = order_ == RopeOrder::kInterleaved;
  const std::int64_t step = interleaved ? 2 : 1;
  const std::int64_t partner = interleaved ? 1 : half_;
  for (std::int64_t h = 0; h < heads; ++h) {
    float* head = x + h * half_ * 2;
    for (std::int64_t i = 0; i < half_; ++i) {
      const float c = angles[2 * i], s = angles[2 * i + 1];
      const float a = head[i * step], b = head[i * step + partner];
      head[i * step] = a * c - b * s;
      head[i * step + partner] = a * s + b * c;
    }
  }
}

}  // namespace rrs_llm
