#include "progress.hpp"

#include <cmath>
#include <cstdio>
#include <utility>

#include <unistd.h>

namespace rrs_llm {
namespace {

double since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

ProgressTimes& progress_times() noexcept {
  static ProgressTimes times;
  return times;
}

std::string progress_text(const std::string& what, const std::string& unit, double done, double all,
                          double seconds, ProgressEnd end) {
  char text[200];
  const double rate = seconds > 0.0 ? done / seconds : 0.0;
  if (rate <= 0.0 || all <= 0.0) {
    std::snprintf(text, sizeof text, "%.100s: %.0f %s", what.c_str(), done, unit.c_str());
    return text;
  }
  const auto left = std::lround((all - done) / rate);
  const bool bound = end == ProgressEnd::kAtMost;
  char share[16] = "";
  if (!bound) std::snprintf(share, sizeof share, "%3.0f %%, ", 100.0 * done / all);
  std::snprintf(text, sizeof text, "%.100s: %s%.*f %s/s, %s%ld:%02ld left", what.c_str(), share,
                rate < 10.0 ? 1 : 0, rate, unit.c_str(), bound ? "at most " : "", left / 60,
                left % 60);
  return text;
}

void say_beside_progress(const std::string& line) {
  const char* erase = ::isatty(STDERR_FILENO) == 1 ? "\r\033[K" : "";
  std::fprintf(stderr, "%s%s\n", erase, line.c_str());
}

Progress::Progress(std::string what, std::string unit, ProgressEnd end)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      end_(end),
      terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (visible_) std::fprintf(stderr, "\r\033[K");
}

void Progress::update(double done, double all) {
  if (!terminal_ || since(start_) < progress_times().quiet ||
      since(shown_) < progress_times().refresh)
    return;
  shown_ = Clock::now();
  visible_ = true;
  const std::string text = progress_text(what_, unit_, done, all, since(start_), end_);
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
}

}  // namespace rrs_llm
