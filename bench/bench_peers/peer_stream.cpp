// Reading memory, for rooflines and beside peers whose weights are not ours (peer_rrs.cpp reads its
// own). One call reads as many bytes as a 4-bit weight in groups of 32 has, walking through a
// buffer of the footprint.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "bench_peers/peer.hpp"
#include "bench_peers/reader.hpp"
#include "support/thread_pool.hpp"

namespace rrs_bench {
namespace {

class StreamPeer final : public Peer {
 public:
  std::vector<Subject> open(const Problem& p) override {
    if (!p.wants("read")) return {};
    const std::int64_t bytes = p.n * p.k * 9 / 16 / kLine * kLine;
    const std::int64_t copies = p.copies(bytes);
    data_.assign(static_cast<std::size_t>(bytes * copies), std::byte{1});
    pool_ = std::make_unique<ThreadPool>(p.threads);
    reader_ = std::make_unique<Reader>(pool_.get());
    std::vector<Subject> subjects;
    for (const ReadPattern& pattern : kReadPatterns) {
      Subject s{"read", "avx2", "layer", pattern.name, bytes, {}};
      s.run = [this, &pattern, bytes, copies] {
        reader_->read(pattern, data_.data() + turn_ % copies * bytes, bytes);
        ++turn_;
      };
      subjects.push_back(s);
    }
    return subjects;
  }

 private:
  std::vector<std::byte> data_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Reader> reader_;
  std::int64_t turn_ = 0;
};

}  // namespace

std::unique_ptr<Peer> make_stream_peer() { return std::make_unique<StreamPeer>(); }

}  // namespace rrs_bench
