// This library: every precision and group size, at every level of this machine.
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench_peers/peer.hpp"
#include "bench_peers/reader.hpp"
#include "bench_peers/specs.hpp"
#include "support/data.hpp"
#include "support/flags.hpp"
#include "support/layer.hpp"
#include "support/machine.hpp"
#include "support/thread_pool.hpp"

namespace rrs_bench {
namespace {

struct Method {
  const char* name;
  rrs::Scheme scheme;
};

rrs::Scheme with_bits(rrs::Scheme s, int activation_bits, int weight_bits) {
  s.activation.bits = activation_bits;
  s.weight.bits = weight_bits;
  return s;
}

std::vector<Method> all_methods() {
  namespace presets = rrs::presets;
  constexpr int kFloat = rrs::kActivationFloat;
  const rrs::Scheme g64 = presets::rrs_g64(), g128 = presets::rrs_g128();
  return {{"rrs", presets::rrs()},
          {"rrs_g64", g64},
          {"rrs_g128", g128},
          {"rrs_w4a8", presets::rrs_w4a8()},
          {"rrs_w4a8_g64", with_bits(g64, 8, 4)},
          {"rrs_w4a8_g128", with_bits(g128, 8, 4)},
          {"rrs_w4a16", presets::rrs_w4a16()},
          {"rrs_w4a16_g128", with_bits(g128, kFloat, 4)},
          {"rrs_w8a8_g128", with_bits(g128, 8, 8)},
          {"smoothquant_w8a8", presets::smoothquant_w8a8()}};
}

std::int64_t code_bytes(const rrs::WeightView& w) { return rrs::panel_count(w.n) * w.panel_bytes; }
std::int64_t scale_bytes(const rrs::WeightView& w) {
  return rrs::panel_count(w.n) * w.panel_scales() * 2;
}

// A weight and copies of its bytes, for streaming from memory.
class WeightRing {
 public:
  WeightRing(rrs::PreparedWeight weight, std::int64_t copies) : weight_(std::move(weight)) {
    views_.push_back(weight_.view());
    const rrs::WeightView& v = weight_.view();
    const std::int64_t panels = code_bytes(v), scales = scale_bytes(v);
    for (std::int64_t i = 1; i < copies; ++i) {
      rrs::AlignedBuffer buffer;
      check(buffer.allocate(panels + scales));
      std::memcpy(buffer.data(), v.panels, static_cast<std::size_t>(panels));
      std::memcpy(buffer.data() + panels, v.scales, static_cast<std::size_t>(scales));
      rrs::WeightView copy = v;
      copy.panels = reinterpret_cast<const std::uint8_t*>(buffer.data());
      copy.scales = reinterpret_cast<const rrs::f16*>(buffer.data() + panels);
      buffers_.push_back(std::move(buffer));
      views_.push_back(copy);
    }
  }
  const rrs::WeightView& first() const { return views_.front(); }
  const rrs::WeightView& next() { return views_[turn_++ % views_.size()]; }

 private:
  rrs::PreparedWeight weight_;
  std::vector<rrs::AlignedBuffer> buffers_;
  std::vector<rrs::WeightView> views_;
  std::size_t turn_ = 0;
};

class RrsPeer final : public Peer {
 public:
  std::vector<Subject> open(const Problem& problem) override {
    layers_.clear();
    if (pool_ == nullptr || pool_->threads() != problem.threads) {
      pool_ = std::make_unique<ThreadPool>(problem.threads);
    }
    reader_ = std::make_unique<Reader>(pool_.get());
    reset_weights(problem);
    x_ = outlier_activations(problem.m, problem.k, 3);
    std::vector<Subject> subjects;
    for (const Method& method : all_methods()) {
      if (!problem.wants(method.name)) continue;
      add_method(problem, method, &subjects);
      if (problem.footprint > 0 && problem.wants("read")) add_read(problem, method, &subjects);
    }
    return subjects;
  }

 private:
  // Weights are kept while only M changes.
  void reset_weights(const Problem& p) {
    if (p.k == k_ && p.n == n_ && p.footprint == footprint_) return;
    rings_.clear();
    k_ = p.k;
    n_ = p.n;
    footprint_ = p.footprint;
    float_weight_ = std::make_unique<FloatWeight>(Shape{p.k, p.n});
  }

  WeightRing* ring(const Problem& p, const Method& method) {
    std::unique_ptr<WeightRing>& ring = rings_[method.name];
    if (ring == nullptr) {
      rrs::PreparedWeight weight = prepare(float_weight_->view(), method.scheme);
      const std::int64_t copies = p.copies(weight.view().stored_bytes());
      ring = std::make_unique<WeightRing>(std::move(weight), copies);
    }
    return ring.get();
  }

  void add_method(const Problem& p, const Method& method, std::vector<Subject>* subjects) {
    for (int i = 1; i <= static_cast<int>(highest_level()); ++i) {
      const auto isa = static_cast<rrs::Isa>(i);
      if (!rrs::isa_supported(isa) || !wants_level(rrs::kIsaNames[i])) continue;
      const rrs::GemmKernel& kernel = rrs::select_gemm_kernel(*rrs::kTables[i], method.scheme);
      const std::string name = kernel.name;
      // The same kernel as one level below is measured once; scalar would take minutes.
      if (name.compare(0, std::strlen(rrs::kIsaNames[i]), rrs::kIsaNames[i]) != 0) continue;
      if (name[std::strlen(rrs::kIsaNames[i])] != ' ') continue;
      WeightRing* weights = ring(p, method);
      layers_.push_back(std::make_unique<Layer>(weights->first(), method.scheme, p.m, pool()));
      Layer* layer = layers_.back().get();
      layer->options().isa = isa;
      layer->prepare_activation(x_.data());
      Subject s{method.name, rrs::kIsaNames[i], "layer", name, weights->first().stored_bytes(), {}};
      const float* x = x_.data();
      s.run = [layer, x, weights] {
        layer->prepare_activation(x);
        layer->multiply(weights->next());
      };
      subjects->push_back(s);
      s.part = "prepare";
      s.run = [layer, x] { layer->prepare_activation(x); };
      subjects->push_back(s);
      s.part = "gemm";
      s.run = [layer, weights] { layer->multiply(weights->next()); };
      subjects->push_back(s);
    }
  }

  // The same bytes at the same addresses, only read. Another buffer will not do: where its pages
  // lie, and how large they are, moves what can be read by up to a half. One subject per pattern.
  void add_read(const Problem& p, const Method& method, std::vector<Subject>* subjects) {
    WeightRing* weights = ring(p, method);
    const std::int64_t bytes = weights->first().stored_bytes();
    for (const ReadPattern& pattern : kReadPatterns) {
      Subject s{kReadOf + std::string(method.name), "avx2", "layer", pattern.name, bytes, {}};
      s.run = [this, &pattern, weights] {
        const rrs::WeightView& w = weights->next();
        reader_->read(pattern, w.panels, code_bytes(w));
        reader_->read(pattern, w.scales, scale_bytes(w));
      };
      subjects->push_back(s);
    }
  }

  ThreadPool* pool() { return pool_->threads() > 1 ? pool_.get() : nullptr; }

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Reader> reader_;
  std::int64_t k_ = 0, n_ = 0, footprint_ = 0;
  std::unique_ptr<FloatWeight> float_weight_;
  std::map<std::string, std::unique_ptr<WeightRing>> rings_;
  std::vector<float> x_;
  std::vector<std::unique_ptr<Layer>> layers_;
};

}  // namespace

std::vector<std::string> rrs_methods() {
  std::vector<std::string> names;
  for (const Method& method : all_methods()) names.push_back(method.name);
  return names;
}

std::unique_ptr<Peer> make_rrs_peer() { return std::make_unique<RrsPeer>(); }

}  // namespace rrs_bench
