// Any bytes as a packed weight: what is accepted multiplies at every level with the same bits. Half
// of the inputs get valid checksums, since a fuzzer cannot guess one.
#include "fuzz.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "rrs/pipeline/weight_file.hpp"
#include "rrs/rrs.hpp"

namespace {

using rrs::detail::kWeightHeaderBytes;
using rrs::detail::WeightFileHeader;

void forge_checksums(std::byte* data, std::size_t size) {
  if (size < static_cast<std::size_t>(kWeightHeaderBytes)) return;
  WeightFileHeader h;
  std::memcpy(&h, data, sizeof h);
  h.payload_checksum = rrs::hash_bytes(data + kWeightHeaderBytes,
                                       size - static_cast<std::size_t>(kWeightHeaderBytes));
  h.header_checksum = rrs::detail::header_checksum(h);
  std::memcpy(data, &h, sizeof h);
}

bool is_finite(float v) { return (rrs::float_bits(v) & 0x7f800000u) != 0x7f800000u; }

void multiply(const rrs::WeightView& w) {
  constexpr std::int64_t kMostValues = 1 << 16;
  if (w.n > kMostValues || w.k > kMostValues || w.n * w.k > kMostValues) return;
  const std::size_t bytes = rrs::workspace_bytes(1, w);
  if (bytes == 0 || bytes > 1u << 26) return;
  const std::vector<float> x(static_cast<std::size_t>(w.k), 0.75f);
  std::vector<float> first;
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    if (!rrs::isa_supported(static_cast<rrs::Isa>(i))) continue;
    std::vector<float> y(static_cast<std::size_t>(w.n));
    rrs::Workspace ws(bytes);
    rrs::ActivationOptions options;
    options.isa = static_cast<rrs::Isa>(i);
    const rrs::Status status =
        rrs::linear(rrs::MatrixView<const float>(x.data(), 1, w.k), w,
                    rrs::MatrixView<float>(y.data(), 1, w.n), ws, {}, options);
    fuzz::require(status.code != rrs::StatusCode::kWorkspaceTooSmall, "workspace_bytes suffices");
    if (!status.ok() && status.code != rrs::StatusCode::kNonFinite) return;
    if (first.empty()) first = y;
    for (std::size_t n = 0; n < y.size(); ++n) {
      // Scales of a file may be NaN or Inf: their outputs are NaN or Inf, which of them may differ.
      const bool neither_finite = !is_finite(first[n]) && !is_finite(y[n]);
      fuzz::require(neither_finite || rrs::float_bits(first[n]) == rrs::float_bits(y[n]),
                    "the same bits at every level");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::size_t bytes = size - 1;
  rrs::AlignedBuffer buffer;
  if (!buffer.allocate(static_cast<std::int64_t>((std::max)(bytes, std::size_t{64}))).ok())
    return 0;
  if (bytes > 0) std::memcpy(buffer.data(), data + 1, bytes);
  if (data[0] % 2 == 1) forge_checksums(buffer.data(), bytes);
  const rrs::Result<rrs::WeightView> view = rrs::view_weight(buffer.data(), bytes);
  if (view) multiply(*view);
  return 0;
}
