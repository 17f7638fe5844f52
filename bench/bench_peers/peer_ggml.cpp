// ggml's CPU backend: Q4_0, Q4_K and Q8_0, in every buffer type that it offers for them (repacked
// for this CPU, AMX, as stored). One mul_mat graph per weight; it quantizes the activations itself.
//
// RRS_BENCH_GGML_BACKEND names a backend library to load (builds with GGML_BACKEND_DL have one per
// instruction set); without it, whatever ggml chooses.
#include <ggml-backend.h>
#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench_peers/peer.hpp"
#include "support/checked.hpp"
#include "support/data.hpp"

namespace rrs_bench {
namespace {

struct Format {
  const char* method;
  ggml_type type;
};
constexpr Format kFormats[] = {
    {"Q4_0", GGML_TYPE_Q4_0}, {"Q4_K", GGML_TYPE_Q4_K}, {"Q8_0", GGML_TYPE_Q8_0}};

struct FreeContext {
  void operator()(ggml_context* c) const { ggml_free(c); }
};
struct FreeBuffer {
  void operator()(ggml_backend_buffer* b) const { ggml_backend_buffer_free(b); }
};

// One weight and its graph.
struct Product {
  std::unique_ptr<ggml_context, FreeContext> context;
  std::unique_ptr<ggml_backend_buffer, FreeBuffer> weight_buffer, other_buffer;
  ggml_tensor* weight = nullptr;
  ggml_tensor* x = nullptr;
  ggml_tensor* y = nullptr;
  ggml_cgraph* graph = nullptr;
  std::int64_t weight_bytes = 0;
};

class GgmlPeer final : public Peer {
 public:
  GgmlPeer() {
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    const char* library = std::getenv("RRS_BENCH_GGML_BACKEND");
    if (library != nullptr) {
      if (ggml_backend_load(library) == nullptr) return;
    } else {
      ggml_backend_load_all();
    }
    device_ = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (device_ != nullptr) backend_ = ggml_backend_dev_init(device_, nullptr);
  }
  ~GgmlPeer() override {
    products_.clear();
    if (backend_ != nullptr) ggml_backend_free(backend_);
  }

  std::vector<Subject> open(const Problem& p) override {
    products_.clear();
    if (backend_ == nullptr) return {};
    set_threads(p.threads);
    std::vector<Subject> subjects;
    for (const Format& format : kFormats) {
      if (!p.wants(format.method)) continue;
      const std::vector<std::uint8_t> codes = quantize(p, format.type);
      for (ggml_backend_buffer_type_t buffer : buffer_types(p)) {
        add_subject(p, format, codes, buffer, &subjects);
      }
    }
    return subjects;
  }

 private:
  // A function of the backend that is not part of the common interface.
  template <class Function>
  Function procedure(const char* name) const {
    void* address = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device_), name);
    return reinterpret_cast<Function>(address);
  }

  void set_threads(int threads) {
    const auto set = procedure<ggml_backend_set_n_threads_t>("ggml_backend_set_n_threads");
    if (set != nullptr) set(backend_, threads);
  }

  // Those that repack, and the default one: either may be the fastest. Copies of both exceed memory
  // for the largest footprints, where all of them stream.
  std::vector<ggml_backend_buffer_type_t> buffer_types(const Problem& p) const {
    constexpr std::int64_t kMostForBoth = std::int64_t{256} << 20;
    std::vector<ggml_backend_buffer_type_t> all;
    if (p.footprint <= kMostForBoth) all.push_back(ggml_backend_dev_buffer_type(device_));
    const auto extra =
        procedure<ggml_backend_dev_get_extra_bufts_t>("ggml_backend_dev_get_extra_bufts");
    if (extra == nullptr) return all;
    for (ggml_backend_buffer_type_t* b = extra(device_); b != nullptr && *b != nullptr; ++b) {
      all.push_back(*b);
    }
    return all;
  }

  // From the features that the backend was compiled with.
  std::string level() const {
    const auto features = procedure<ggml_backend_get_features_t>("ggml_backend_get_features");
    bool avx512 = false, vnni = false, avx2 = false, avxvnni = false;
    if (features == nullptr) return "other";
    for (const ggml_backend_feature* f = features(ggml_backend_dev_backend_reg(device_));
         f->name != nullptr; ++f) {
      if (std::strcmp(f->value, "1") != 0) continue;
      avx2 = avx2 || std::strcmp(f->name, "AVX2") == 0;
      avx512 = avx512 || std::strcmp(f->name, "AVX512") == 0;
      avxvnni = avxvnni || std::strcmp(f->name, "AVX_VNNI") == 0;
      vnni = vnni || std::strcmp(f->name, "AVX512_VNNI") == 0;
    }
    if (avx512) return vnni ? "avx512vnni" : "avx512";
    if (avxvnni) return "avxvnni";
    return avx2 ? "avx2" : "other";
  }

  static std::vector<std::uint8_t> quantize(const Problem& p, ggml_type type) {
    if (p.k % ggml_blck_size(type) != 0) return {};
    const std::vector<float> w = normal_vector(p.n * p.k, 0.02f, 1);
    std::vector<std::uint8_t> codes(ggml_row_size(type, p.k) * static_cast<std::size_t>(p.n));
    ggml_quantize_chunk(type, w.data(), codes.data(), 0, p.n, p.k, nullptr);
    return codes;
  }

  // False when the backend has no product for this format in this buffer.
  bool make_product(const Problem& p, const Format& format, const std::vector<std::uint8_t>& codes,
                    ggml_backend_buffer_type_t buffer, Product* out) {
    const ggml_init_params params{64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr,
                                  true};
    out->context.reset(ggml_init(params));
    ggml_context* context = out->context.get();
    out->weight = ggml_new_tensor_2d(context, format.type, p.k, p.n);
    out->x = ggml_new_tensor_2d(context, GGML_TYPE_F32, p.k, p.m);
    out->y = ggml_mul_mat(context, out->weight, out->x);
    const std::size_t bytes = ggml_backend_buft_get_alloc_size(buffer, out->weight);
    out->weight_bytes = static_cast<std::int64_t>(bytes);  // repacked ones may be longer
    out->weight_buffer.reset(ggml_backend_buft_alloc_buffer(buffer, bytes));
    if (out->weight_buffer == nullptr) return false;
    void* base = ggml_backend_buffer_get_base(out->weight_buffer.get());
    if (ggml_backend_tensor_alloc(out->weight_buffer.get(), out->weight, base) !=
        GGML_STATUS_SUCCESS) {
      return false;
    }
    out->other_buffer.reset(ggml_backend_alloc_ctx_tensors(context, backend_));
    if (!ggml_backend_dev_supports_op(device_, out->y)) return false;
    ggml_backend_tensor_set(out->weight, codes.data(), 0, codes.size());
    const std::vector<float> x = outlier_activations(p.m, p.k, 3);
    ggml_backend_tensor_set(out->x, x.data(), 0, x.size() * sizeof(float));
    out->graph = ggml_new_graph(context);
    ggml_build_forward_expand(out->graph, out->y);
    return true;
  }

  void add_subject(const Problem& p, const Format& format, const std::vector<std::uint8_t>& codes,
                   ggml_backend_buffer_type_t buffer, std::vector<Subject>* subjects) {
    if (codes.empty()) return;
    auto ring = std::make_shared<std::vector<Product>>();
    do {
      Product product;
      if (!make_product(p, format, codes, buffer, &product)) return;
      ring->push_back(std::move(product));
    } while (static_cast<std::int64_t>(ring->size()) < p.copies(ring->front().weight_bytes));
    products_.push_back(ring);
    const std::string name = ggml_backend_buft_name(buffer);
    // One row is not multiplied by tiles there: tinygemm_kernel_vnni of amx/mmq.cpp.
    const bool tiles = name == "AMX" && p.m > 1;
    Subject s{format.method,  tiles ? "amx" : level(),    "layer",
              "ggml " + name, ring->front().weight_bytes, {}};
    auto turn = std::make_shared<std::size_t>(0);
    s.run = [this, ring, turn] {
      const Product& product = (*ring)[(*turn)++ % ring->size()];
      if (ggml_backend_graph_compute(backend_, product.graph) != GGML_STATUS_SUCCESS) {
        stop("ggml graph failed");
      }
    };
    subjects->push_back(std::move(s));
  }

  ggml_backend_dev_t device_ = nullptr;
  ggml_backend_t backend_ = nullptr;
  std::vector<std::shared_ptr<std::vector<Product>>> products_;
};

}  // namespace

std::unique_ptr<Peer> make_ggml_peer() { return std::make_unique<GgmlPeer>(); }

}  // namespace rrs_bench
