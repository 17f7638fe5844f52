// rrs: 4-bit weights and 4-bit activations for LLM linear layers on CPUs. The umbrella header.
//
// In the order of the flow. Not included: calibrate/ (offline, needs Eigen for some parts) and
// reference/ (oracles in double).
#pragma once

#include "rrs/core/version.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"
#include "rrs/core/view.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/presets.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/cpu.hpp"
#include "rrs/core/dispatch.hpp"
#include "rrs/rotate/rotate.hpp"
#include "rrs/smooth/smooth.hpp"
#include "rrs/quantize/quantize.hpp"
#include "rrs/pack/layout.hpp"
#include "rrs/gemm/gemm.hpp"
#include "rrs/kv_cache/kv_cache.hpp"
#include "rrs/pipeline/weight.hpp"
#include "rrs/pipeline/weight_low_rank.hpp"
#include "rrs/pipeline/workspace.hpp"
#include "rrs/pipeline/activation.hpp"
#include "rrs/pipeline/linear.hpp"
#include "rrs/pipeline/explain.hpp"
