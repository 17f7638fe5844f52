#pragma once
// Parses JSON from untrusted files: duplicate keys and deep nesting are refused.
//
// Why: the JSON library keeps the last of two equal keys without a word, so a file could show one
// tensor to this reader and another to the next. Include from .cpp files only: the library's header
// is slow to compile.

#include <cstddef>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "quoted_name.hpp"

namespace rrs_examples {

inline constexpr int kMaxJsonDepth = 64;

inline nlohmann::json parse_json_strict(std::string_view text, const std::string& where) {
  using nlohmann::json;
  std::vector<std::set<std::string>> open_objects;
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxJsonDepth) {
      throw std::runtime_error(where + ": JSON nesting " + std::to_string(depth) +
                               " is deeper than " + std::to_string(kMaxJsonDepth));
    }
    if (event == json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == json::parse_event_t::object_end) open_objects.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) {
        throw std::runtime_error(where + ": JSON key " + quoted_name(key) + " appears twice");
      }
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    throw std::runtime_error(where + ": not valid JSON: " + error.what());
  }
}

}  // namespace rrs_examples
