#pragma once
// The grammar of method names, apart from settings.
//
// From: make_method; to: method.cpp. An internal header of the two files that implement
// method.hpp.

#include <string>

#include "method.hpp"

namespace rrs_llm {

// Throws for what the name's grammar has and this program does not do yet.
void refuse_unavailable(const std::string& method, const WeightPlan& weight);

}  // namespace rrs_llm
