#include "bench_peers/peer.hpp"

namespace rrs_bench {

bool has_peer(const std::string& name) {
#if RRS_BENCH_ONEDNN
  if (name == "onednn") return true;
#endif
#if RRS_BENCH_GGML
  if (name == "ggml") return true;
#endif
  return name == "rrs" || name == "openblas" || name == "eigen" || name == "stream";
}

std::unique_ptr<Peer> make_peer(const std::string& name) {
  if (name == "rrs") return make_rrs_peer();
  if (name == "openblas") return make_openblas_peer();
  if (name == "eigen") return make_eigen_peer();
  if (name == "stream") return make_stream_peer();
#if RRS_BENCH_ONEDNN
  if (name == "onednn") return make_onednn_peer();
#endif
#if RRS_BENCH_GGML
  if (name == "ggml") return make_ggml_peer();
#endif
  return nullptr;
}

}  // namespace rrs_bench
