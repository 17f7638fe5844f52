// oneDNN u8 x s8 -> s32 without scales: the plain call, and the matmul primitive with packed
// weights. The level comes from ONEDNN_MAX_CPU_ISA, which oneDNN reads once.
#include <dnnl.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench_peers/peer.hpp"
#include "support/checked.hpp"
#include "support/data.hpp"

namespace rrs_bench {
namespace {

std::string level_of_onednn() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::avx2: return "avx2";
    case dnnl::cpu_isa::avx2_vnni: return "avxvnni";
    case dnnl::cpu_isa::avx512_core: return "avx512";
    case dnnl::cpu_isa::avx512_core_vnni: return "avx512vnni";
    case dnnl::cpu_isa::avx512_core_bf16: return "avx512bf16";
    case dnnl::cpu_isa::avx512_core_amx: return "amx";
    default: return "other";
  }
}

using Dims = dnnl::memory::dims;
using Type = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;

class OnednnPeer final : public Peer {
 public:
  OnednnPeer() : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

  std::vector<Subject> open(const Problem& p) override {
    if (!p.wants("u8s8")) return {};
    problem_ = p;
    fill();
    std::vector<Subject> subjects{plain()};
    subjects.push_back(matmul());
    return subjects;
  }

 private:
  std::int64_t weight_bytes() const { return problem_.n * problem_.k; }

  void fill() {
    rrs_test::Random random(5);
    x_.resize(static_cast<std::size_t>(problem_.m * problem_.k));
    for (std::uint8_t& v : x_) v = static_cast<std::uint8_t>(random.bits());
    std::vector<std::int8_t> w(static_cast<std::size_t>(weight_bytes()));
    for (std::int8_t& v : w) v = static_cast<std::int8_t>(random.bits());
    weights_.assign(static_cast<std::size_t>(problem_.copies(weight_bytes())), w);
    y_.assign(static_cast<std::size_t>(problem_.m * problem_.n), 0);
  }

  static std::string version() {
    const dnnl_version_t* v = dnnl_version();
    return "dnnl " + std::to_string(v->major) + "." + std::to_string(v->minor) + " ";
  }

  // Y [m,n] = X [m,k] W [n,k]^T, the weight as it is.
  Subject plain() {
    Subject s{"u8s8", level_of_onednn(), "gemm", version() + "gemm_u8s8s32", weight_bytes(), {}};
    s.run = [this] {
      const std::int32_t zero = 0;
      const Problem& p = problem_;
      const std::vector<std::int8_t>& w = weights_[turn_++ % weights_.size()];
      const dnnl_status_t status =
          dnnl_gemm_u8s8s32('N', 'T', 'F', p.m, p.n, p.k, 1.0f, x_.data(), p.k, 0, w.data(), p.k, 0,
                            0.0f, y_.data(), p.n, &zero);
      if (status != dnnl_success) stop("dnnl_gemm_u8s8s32 failed");
    };
    return s;
  }

  // The primitive chooses the layout of the weight, which is brought into it before.
  Subject matmul() {
    const Problem& p = problem_;
    const dnnl::memory::desc source(Dims{p.m, p.k}, Type::u8, Tag::ab);
    const dnnl::memory::desc any(Dims{p.k, p.n}, Type::s8, Tag::any);
    const dnnl::memory::desc result(Dims{p.m, p.n}, Type::s32, Tag::ab);
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(source, any, result),
                                                   engine_);
    primitive_ = dnnl::matmul(description);
    x_memory_ = dnnl::memory(source, engine_, x_.data());
    y_memory_ = dnnl::memory(result, engine_, y_.data());
    packed_.clear();
    for (std::vector<std::int8_t>& w : weights_) {
      dnnl::memory plain(dnnl::memory::desc(Dims{p.k, p.n}, Type::s8, Tag::ba), engine_, w.data());
      dnnl::memory packed(description.weights_desc(), engine_);
      dnnl::reorder(plain, packed).execute(stream_, plain, packed);
      packed_.push_back(packed);
    }
    stream_.wait();
    Subject s{"u8s8",         level_of_onednn(),
              "gemm",         std::string("matmul ") + description.impl_info_str(),
              weight_bytes(), {}};
    s.run = [this] {
      const dnnl::memory& w = packed_[turn_++ % packed_.size()];
      primitive_.execute(
          stream_, {{DNNL_ARG_SRC, x_memory_}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y_memory_}});
      stream_.wait();
    };
    return s;
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  Problem problem_;
  std::vector<std::uint8_t> x_;
  std::vector<std::vector<std::int8_t>> weights_;
  std::vector<std::int32_t> y_;
  std::size_t turn_ = 0;
  dnnl::matmul primitive_;
  dnnl::memory x_memory_, y_memory_;
  std::vector<dnnl::memory> packed_;
};

}  // namespace

std::unique_ptr<Peer> make_onednn_peer() { return std::make_unique<OnednnPeer>(); }

}  // namespace rrs_bench
