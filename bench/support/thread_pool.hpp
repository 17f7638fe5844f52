// The benchmarks' threads: the pool of examples/executors, under the names used here.
#pragma once

#include "executors/persistent_pool.hpp"

namespace rrs_bench {

using ThreadPool = rrs_examples::PersistentPool;
// What the library takes: a small callable that refers to a pool, PoolExecutor{&pool}.
using PoolExecutor = rrs_examples::PersistentPool::Executor;

}  // namespace rrs_bench
