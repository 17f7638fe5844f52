// The worker side: a peer that obeys lines on stdin and answers on stdout.
//
//   open M K N footprint methods    ->  count, then "method \t level \t part \t kernel \t bytes"
//   run index min_ms                ->  "cpu wall", seconds per call, caches warm
//   clock index min_ms              ->  GHz right after calls for min_ms
//   quit
#pragma once

#include <string>

namespace rrs_bench {

// Serves until `quit` or end of input; the exit code of the process.
int serve_peer(const std::string& name, int threads);

}  // namespace rrs_bench
