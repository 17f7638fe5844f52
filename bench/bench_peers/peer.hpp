// A peer: a library that can multiply, with everything it offers for one problem.
//
// Each peer runs in a process of its own (worker.hpp), since the kernels of OpenBLAS and oneDNN are
// chosen once per process, from the environment.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace rrs_bench {

struct Problem {
  std::int64_t m = 0;
  std::int64_t k = 0;
  std::int64_t n = 0;
  // Successive calls cycle through copies of the weight until they cover this many bytes, so that
  // they come from that level of the memory. 0: one copy.
  std::int64_t footprint = 0;
  std::vector<std::string> methods;  // empty: all
  int threads = 1;

  bool wants(const std::string& method) const {
    for (const std::string& wanted : methods) {
      if (wanted == method) return true;
    }
    return methods.empty();
  }
  std::int64_t copies(std::int64_t weight_bytes) const {
    return footprint <= weight_bytes ? 1 : (footprint + weight_bytes - 1) / weight_bytes;
  }
};

// Method name of reading what a method's weights are, and nothing else: kReadOf + "rrs".
inline constexpr const char* kReadOf = "read:";

// What can be measured.
struct Subject {
  std::string method;             // rrs_g128, sgemm, u8s8, Q4_0, ...
  std::string level;              // scalar, avx2, avx512, avx512vnni, amx
  std::string part;               // layer: from float X to float Y; gemm: operands already prepared
  std::string kernel;             // as the library calls it
  std::int64_t weight_bytes = 0;  // read by one call
  std::function<void()> run;
};

class Peer {
 public:
  virtual ~Peer() = default;
  // Subjects of the problem; they live until the next call.
  virtual std::vector<Subject> open(const Problem& problem) = 0;
};

// Names that make_peer accepts and that were compiled in.
bool has_peer(const std::string& name);
// "rrs", "openblas", "eigen", "stream", "onednn", "ggml"; null for others.
std::unique_ptr<Peer> make_peer(const std::string& name);

// This library's methods, in the order of its tables.
std::vector<std::string> rrs_methods();

std::unique_ptr<Peer> make_rrs_peer();
std::unique_ptr<Peer> make_openblas_peer();
std::unique_ptr<Peer> make_eigen_peer();
std::unique_ptr<Peer> make_stream_peer();
std::unique_ptr<Peer> make_onednn_peer();
std::unique_ptr<Peer> make_ggml_peer();

}  // namespace rrs_bench
