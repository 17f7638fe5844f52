// Command line flags of the form --name value, and a usage error for the rest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

namespace rrs_bench {

// "8,128" -> {"8", "128"}.
inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t start = 0;
  while (start <= text.size()) {
    const std::size_t end = std::min(text.find(separator, start), text.size());
    if (end > start) parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

// Of a number; by default what an int holds.
struct Range {
  std::int64_t least = 0;
  std::int64_t most = std::numeric_limits<int>::max();
};

class Flags {
 public:
  // --help prints the usage and ends the program.
  Flags(int argc, char** argv, const char* usage) : usage_(usage), args_(argv + 1, argv + argc) {
    if (!has("help")) return;
    std::fputs(usage_, stdout);
    std::exit(0);
  }

  // Value of --name, or `fallback`. A flag that is asked for is known.
  std::string text(const std::string& name, const std::string& fallback) {
    for (std::size_t i = 0; i < args_.size(); ++i) {
      if (args_[i] != "--" + name) continue;
      if (i + 1 >= args_.size()) fail("--" + name + " needs a value");
      const std::string value = args_[i + 1];
      erase(i, 2);
      return value;
    }
    return fallback;
  }
  bool given(const std::string& name) {
    for (std::size_t i = 0; i < args_.size(); ++i) {
      if (args_[i] != "--" + name) continue;
      erase(i, 1);
      return true;
    }
    return false;
  }
  bool has(const std::string& name) const {
    return std::find(args_.begin(), args_.end(), "--" + name) != args_.end();
  }
  std::int64_t integer(const std::string& name, std::int64_t fallback, Range range = {}) {
    return parse(name, text(name, std::to_string(fallback)), range);
  }
  std::vector<std::int64_t> integers(const std::string& name, const std::string& fallback,
                                     Range range = {}) {
    std::vector<std::int64_t> all;
    for (const std::string& part : list(name, fallback)) all.push_back(parse(name, part, range));
    return all;
  }
  // Values between commas, at least one.
  std::vector<std::string> list(const std::string& name, const std::string& fallback) {
    const std::string values = text(name, fallback);
    std::vector<std::string> all = split(values, ',');
    if (all.empty()) fail("--" + name + " needs at least one value (found '" + values + "')");
    return all;
  }
  // After all flags have been asked for: nothing may be left.
  void finish() const {
    if (!args_.empty()) fail("unknown argument '" + args_.front() + "'");
  }

  [[noreturn]] void fail(const std::string& why) const {
    std::fprintf(stderr, "%s\n%s", why.c_str(), usage_);
    std::exit(2);
  }

 private:
  // What does not fit into 64 bits is out of every range: strtoll gives the largest number.
  std::int64_t parse(const std::string& name, const std::string& value, Range range) const {
    char* end = nullptr;
    const long long parsed = std::strtoll(value.c_str(), &end, 10);
    if (end == value.c_str() || *end != 0 || parsed < range.least || parsed > range.most) {
      fail("--" + name + " must be a number from " + std::to_string(range.least) + " to " +
           std::to_string(range.most) + " (found '" + value + "')");
    }
    return parsed;
  }
  void erase(std::size_t at, std::size_t count) {
    const auto first = args_.begin() + static_cast<std::ptrdiff_t>(at);
    args_.erase(first, first + static_cast<std::ptrdiff_t>(count));
  }

  const char* usage_;
  std::vector<std::string> args_;
};

}  // namespace rrs_bench
