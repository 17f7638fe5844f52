// Results as JSON: what was measured on what, and one record per number.
#pragma once

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "support/checked.hpp"
#include "support/machine.hpp"

namespace rrs_bench {

class JsonRecords {
 public:
  // CPU, last-level cache, compiler, levels, command.
  void describe(int argc, char** argv) {
    set("cpu", cpu_model());
    set("last_level_cache", last_level_cache());
    set("compiler", compiler());
    set("levels", supported_levels());
    set("level", active_level());
    set("command", command_line(argc, argv));
  }
  void set(const std::string& key, const std::string& value) { document_[key] = value; }
  void add(nlohmann::ordered_json record) { records_.push_back(std::move(record)); }

  // The description in lines of text.
  std::string description() const {
    std::string all;
    for (const auto& [key, value] : document_.items()) {
      all += (all.empty() ? "" : "\n") + key + ": " + value.get<std::string>();
    }
    return all;
  }

  void write(const std::string& path) const {
    nlohmann::ordered_json all = document_;
    all["records"] = records_;
    std::ofstream file(path);
    file << all.dump(1) << "\n";
    file.flush();
    if (!file) stop("cannot write " + path);
  }

 private:
  nlohmann::ordered_json document_ = nlohmann::ordered_json::object();
  nlohmann::ordered_json records_ = nlohmann::ordered_json::array();
};

}  // namespace rrs_bench
