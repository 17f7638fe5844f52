#pragma once
// A progress line on stderr: what, how far, rate, time left.
//
// Appears after two seconds, only when stderr is a terminal, at most ten times a second; erased at
// the end. From: any loop that counts; to: people.

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>

namespace rrs_llm {

// When a line appears (2 s) and how often it is written (0.1 s): tests make both shorter.
struct ProgressTimes {
  double quiet = 2.0;
  double refresh = 0.1;
};
ProgressTimes& progress_times() noexcept;

// How `all` is meant: a search ends when it has found, at the latest after all.
enum class ProgressEnd { kKnown, kAtMost };

// "12.3 tokens/s, 1:05 left" or "12.3 tokens/s, at most 1:05 left"; for the line, and for tests.
std::string progress_text(const std::string& what, const std::string& unit, double done, double all,
                          double seconds, ProgressEnd end = ProgressEnd::kKnown);

// A line of its own on stderr, in the place of a progress line that may stand there.
void say_beside_progress(const std::string& line);

class Progress {
 public:
  Progress(std::string what, std::string unit, ProgressEnd end = ProgressEnd::kKnown);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(double done, double all);
  // update, as loops that count call it. Must not outlive this.
  std::function<void(std::size_t done, std::size_t all)> counter() {
    return [this](std::size_t done, std::size_t all) {
      update(static_cast<double>(done), static_cast<double>(all));
    };
  }
  void label(std::string what) { what_ = std::move(what); }

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  std::string unit_;
  ProgressEnd end_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
  bool terminal_;
  bool visible_ = false;
};

}  // namespace rrs_llm
