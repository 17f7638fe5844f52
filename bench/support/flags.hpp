// Command line flags of the form --name value, and a usage error for the rest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
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

class Flags {
 public:
  Flags(int argc, char** argv, const char* usage) : usage_(usage), args_(argv + 1, argv + argc) {}

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
  std::int64_t integer(const std::string& name, std::int64_t fallback) {
    return parse(name, text(name, std::to_string(fallback)));
  }
  std::vector<std::int64_t> integers(const std::string& name, const std::string& fallback) {
    std::vector<std::int64_t> all;
    for (const std::string& part : split(text(name, fallback), ',')) {
      all.push_back(parse(name, part));
    }
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
  std::int64_t parse(const std::string& name, const std::string& value) const {
    char* end = nullptr;
    const long long parsed = std::strtoll(value.c_str(), &end, 10);
    if (end == value.c_str() || *end != 0 || parsed < 0) {
      fail("--" + name + " must be a number >= 0 (found '" + value + "')");
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
