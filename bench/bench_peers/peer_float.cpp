// Float products: OpenBLAS (kernel from OPENBLAS_CORETYPE) and Eigen.
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "bench_peers/peer.hpp"
#include "support/data.hpp"
#include "support/eigen_product.hpp"
#include "support/openblas.hpp"
#include "support/thread_pool.hpp"

namespace rrs_bench {
namespace {

// X, Y and copies of W in float.
struct FloatLayer {
  Problem problem;
  std::vector<float> x, y;
  std::vector<std::vector<float>> weights;
  std::size_t turn = 0;

  void reset(const Problem& p) {
    const bool same = p.k == problem.k && p.n == problem.n && p.footprint == problem.footprint;
    problem = p;
    x = outlier_activations(p.m, p.k, 3);
    y.assign(static_cast<std::size_t>(p.m * p.n), 0.0f);
    if (same) return;
    weights.assign(1, normal_vector(p.n * p.k, 0.02f, 1));
    const std::int64_t copies = p.copies(bytes());
    for (std::int64_t i = 1; i < copies; ++i) weights.push_back(weights.front());
  }
  std::int64_t bytes() const { return problem.n * problem.k * 4; }
  const float* next() { return weights[turn++ % weights.size()].data(); }
};

std::string level_of_openblas() {
  const std::string core = openblas_get_corename();
  const bool wide = core == "SkylakeX" || core == "Cooperlake" || core == "SapphireRapids";
  if (core == "Prescott" || core == "Nehalem" || core == "Sandybridge") return "sse";
  return wide ? "avx512" : "avx2";
}

class OpenblasPeer final : public Peer {
 public:
  std::vector<Subject> open(const Problem& p) override {
    if (!p.wants("sgemm")) return {};
    layer_.reset(p);
    openblas_set_num_threads(p.threads);
    Subject s{"sgemm", level_of_openblas(), "layer", openblas_name(), layer_.bytes(), {}};
    s.run = [this] {
      const Problem& q = layer_.problem;
      openblas_product(layer_.x.data(), layer_.next(), layer_.y.data(), q.m, q.n, q.k);
    };
    return {s};
  }

 private:
  FloatLayer layer_;
};

class EigenPeer final : public Peer {
 public:
  std::vector<Subject> open(const Problem& p) override {
    if (!p.wants("product")) return {};
    layer_.reset(p);
    pool_ = std::make_unique<ThreadPool>(p.threads);
    std::vector<Subject> subjects{make("avx2", &eigen_product_avx2)};
    if (eigen_has_avx512()) subjects.push_back(make("avx512", &eigen_product_avx512));
    return subjects;
  }

 private:
  Subject make(const char* level, void (*product)(const EigenProduct&)) {
    Subject s{"product", level, "layer", std::string("Eigen ") + level, layer_.bytes(), {}};
    s.run = [this, product] {
      const Problem& q = layer_.problem;
      const EigenProduct all{
          layer_.x.data(), layer_.next(), layer_.y.data(), q.m, q.n, q.k, 0, q.n};
      const std::int64_t parts = pool_->threads();
      PoolExecutor{pool_.get()}(parts, [&all, parts, product](std::int64_t i) {
        EigenProduct part = all;
        part.first = all.n * i / parts;
        part.last = all.n * (i + 1) / parts;
        product(part);
      });
    };
    return s;
  }

  FloatLayer layer_;
  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace

std::unique_ptr<Peer> make_openblas_peer() { return std::make_unique<OpenblasPeer>(); }
std::unique_ptr<Peer> make_eigen_peer() { return std::make_unique<EigenPeer>(); }

}  // namespace rrs_bench
