// Linears through the library: prepare the activation once per input and scheme, then gemm.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "linear.hpp"
#include "rrs/pack/amx.hpp"
#include "rrs/pipeline/activation.hpp"
#include "rrs/pipeline/explain.hpp"
#include "rrs/pipeline/linear.hpp"

namespace rrs_llm {

// The activation that the workspace holds now, and for which scheme and channels it was made.
struct InputCache::Prepared {
  rrs::Workspace workspace;
  rrs::PreparedActivation activation;
  rrs::Scheme scheme;
  rrs::LayerChannels channels;
  bool valid = false;
};

InputCache::InputCache() : prepared_(std::make_unique<Prepared>()) {}
InputCache::~InputCache() = default;

void InputCache::set(const float* x, std::int64_t rows, std::int64_t cols) noexcept {
  x_ = x;
  rows_ = rows;
  cols_ = cols;
  prepared_->valid = false;
}

namespace {

[[noreturn]] void fail(const std::string& name, const rrs::Status& status) {
  throw std::runtime_error(name + ": " + status.message());
}

// Everything that decides the prepared bytes, and the weight's side that gemm compares.
bool same_preparation(const rrs::Scheme& a, const rrs::Scheme& b) noexcept {
  const rrs::ActivationScheme& x = a.activation;
  const rrs::ActivationScheme& y = b.activation;
  return a.rotation.kind == b.rotation.kind && a.rotation.block == b.rotation.block &&
         a.rotation.random_signs == b.rotation.random_signs &&
         a.rotation.sign_seed == b.rotation.sign_seed && x.bits == y.bits &&
         x.window.kind == y.window.kind && x.window.rows == y.window.rows && x.group == y.group &&
         x.range == y.range && x.clip == y.clip && x.token_scale == y.token_scale &&
         x.floor == y.floor && x.exact_reference == y.exact_reference &&
         a.weight.bits == b.weight.bits && a.weight.group == b.weight.group;
}

bool same_values(const void* a, const void* b, std::int64_t count) noexcept {
  if (a == b) return true;
  return a != nullptr && b != nullptr &&
         std::memcmp(a, b, static_cast<std::size_t>(count) * 4) == 0;
}

bool same_channels(const rrs::LayerChannels& a, const rrs::LayerChannels& b,
                   std::int64_t count) noexcept {
  return same_values(a.divisor, b.divisor, count) &&
         same_values(a.input_permutation, b.input_permutation, count);
}

bool holds_branch(const rrs::PreparedActivation& a, const rrs::LowRankView& b) noexcept {
  for (int i = 0; i < a.low_rank_count; ++i) {
    if (a.low_rank[i].down == b.down && a.low_rank[i].rank == b.rank) return true;
  }
  return b.rank == 0;
}

// The kernel that gemm takes for this activation, by gemm's own rule. The amx kernels run tiles of
// few rows on the leaves of the level below.
const char* kernel_for(const rrs::PreparedActivation& a) noexcept {
  const rrs::KernelTable* table = a.table;
#if RRS_HAS_AMX
  std::int64_t fewest = a.m;
  for (std::int64_t i = 0; i < a.segment_count; ++i) {
    fewest = (std::min)(fewest, a.segment(i).rows);
  }
  const int inner = rrs::inner_group(a.scheme.activation.group, a.scheme.weight.group);
  if (table->isa == rrs::Isa::kAmx &&
      !rrs::amx::amx_takes(static_cast<int>((std::min)(fewest, std::int64_t{64})), inner)) {
    table = rrs::kTables[static_cast<int>(rrs::Isa::kAvx512Vnni)];
  }
#endif
  return rrs::select_gemm_kernel(*table, a.scheme).name;
}

// As a file of `quantize` has them: a divisor also where the norm before has taken it.
std::int64_t channel_bytes(const InputChannels& c) noexcept {
  return static_cast<std::int64_t>(c.divisor.size() * sizeof(float) +
                                   c.permutation.size() * sizeof(std::int32_t));
}

class RrsLinear final : public Linear {
 public:
  RrsLinear(std::string name, const rrs::WeightView& weight, const rrs::Scheme& scheme,
            InputChannels channels, std::shared_ptr<const void> owner)
      : name_(std::move(name)),
        weight_(weight),
        scheme_(scheme),
        channels_(std::move(channels)),
        owner_(std::move(owner)),
        branches_{weight_.low_rank} {
    const rrs::Explanation e = rrs::explain(scheme_, 1, weight_.n, weight_.k);
    if (!e.status) fail(name_, e.status);
    kernel_ = e.kernel;
    if (channels_.folded) {  // inputs come divided: gemm must find the channels that are left
      weight_.channels_fingerprint = rrs::channels_fingerprint(channels_.view(), weight_.k);
    }
  }

  const char* apply(InputCache& input, const LinearOutput& out,
                    const ThreadPool& pool) const override {
    const rrs::PreparedActivation& activation = prepare(input, pool);
    const rrs::MatrixView<float> y(out.y, input.rows(), weight_.n, out.stride);
    rrs::GemmOptions options;
    options.bias = out.bias;
    options.accumulate = out.accumulate;
    const rrs::Status status = rrs::gemm(activation, weight_, y, pool, options);
    if (!status) fail(name_, status);
    return kernel_for(activation);
  }

  LinearInfo info() const override {
    const int bits = scheme_.activation.bits;
    return LinearInfo{
        name_,
        "w" + std::to_string(weight_.scheme.weight.bits) + "a" + std::to_string(bits) + rank_text(),
        kernel_,
        false,
        weight_.n * weight_.k,
        weight_.stored_bytes() + channel_bytes(channels_)};
  }

  const rrs::WeightView* packed() const noexcept override { return &weight_; }
  const InputChannels* channels() const noexcept override { return &channels_; }
  void carry(const std::vector<rrs::LowRankView>& branches) override { branches_ = branches; }

 private:
  std::string rank_text() const {
    const rrs::LowRankView& b = weight_.low_rank;
    if (b.rank == 0) return "";
    return "+r" + std::to_string(b.rank) + (b.bits == 8 ? "i8" : "");
  }

  const rrs::PreparedActivation& prepare(InputCache& input, const ThreadPool& pool) const {
    InputCache::Prepared& p = input.prepared();
    const rrs::LayerChannels channels = channels_.view();
    const auto branches = static_cast<std::int64_t>(branches_.size());
    const std::size_t bytes = rrs::workspace_bytes(
        input.rows(), input.cols(), scheme_, scheme_.activation.exact_reference ? weight_.n : 0,
        rrs::low_rank_columns(branches_.data(), branches));
    // A larger workspace (exact_reference repacks the weight there) means preparing again.
    if (p.valid && bytes <= p.workspace.bytes() && same_preparation(p.scheme, scheme_) &&
        same_channels(p.channels, channels, input.cols()) &&
        holds_branch(p.activation, weight_.low_rank)) {
      return p.activation;
    }
    if (p.workspace.bytes() < bytes) p.workspace = rrs::Workspace(bytes + bytes / 4);
    rrs::ActivationOptions options;
    options.channels = channels;
    options.low_rank = branches_.data();
    options.low_rank_count = branches;
    const rrs::MatrixView<const float> x(input.x(), input.rows(), input.cols());
    p.valid = false;
    input.count_preparation();
    const rrs::Status status =
        rrs::smooth_rotate_quantize(x, scheme_, p.workspace, p.activation, pool, options);
    if (!status) fail(name_, status);
    p.scheme = scheme_;
    p.channels = channels;
    p.valid = true;
    return p.activation;
  }

  std::string name_;
  rrs::WeightView weight_;
  rrs::Scheme scheme_;
  InputChannels channels_;
  std::shared_ptr<const void> owner_;
  std::vector<rrs::LowRankView> branches_;
  std::string kernel_;
};

}  // namespace

void share_branches(const std::vector<Linear*>& siblings) {
  std::vector<rrs::LowRankView> branches;
  for (const Linear* l : siblings) {
    if (l->packed() != nullptr && l->packed()->low_rank.rank > 0) {
      branches.push_back(l->packed()->low_rank);
    }
  }
  for (Linear* l : siblings) {
    if (!branches.empty()) l->carry(branches);
  }
}

std::unique_ptr<Linear> make_rrs_linear(std::string name, rrs::WeightView weight,
                                        const rrs::Scheme& scheme, InputChannels channels,
                                        std::shared_ptr<const void> owner) {
  return std::make_unique<RrsLinear>(std::move(name), weight, scheme, std::move(channels),
                                     std::move(owner));
}

}  // namespace rrs_llm
