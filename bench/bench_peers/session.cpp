#include "bench_peers/session.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>

#include "support/checked.hpp"
#include "support/flags.hpp"
#include "support/openblas.hpp"

namespace rrs_bench {
namespace {

// In the child: the pipes become stdin and stdout, then the program starts again as a worker.
[[noreturn]] void become_worker(const PeerSpec& spec, int threads, int input, int output) {
  dup2(input, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  const std::string count = std::to_string(threads);
  setenv("OMP_NUM_THREADS", count.c_str(), 1);
  setenv("OPENBLAS_NUM_THREADS", count.c_str(), 1);
  for (const auto& [name, value] : spec.environment) setenv(name.c_str(), value.c_str(), 1);
  const std::string program = spec.program.empty() ? detail::own_path() : spec.program;
  execl(program.c_str(), "bench_peers", "--worker", spec.peer.c_str(), "--threads", count.c_str(),
        static_cast<char*>(nullptr));
  _exit(127);
}

}  // namespace

Session::Session(const PeerSpec& spec, int threads) : spec_(spec) {
  int to[2], from[2];
  if (pipe(to) != 0 || pipe(from) != 0) stop("pipe failed");
  std::fflush(stdout);
  process_ = fork();
  if (process_ < 0) stop("fork failed");
  if (process_ == 0) {
    close(to[1]);
    close(from[0]);
    become_worker(spec, threads, to[0], from[1]);
  }
  close(to[0]);
  close(from[1]);
  // Later workers must not inherit our ends: a worker ends when its input does.
  fcntl(to[1], F_SETFD, FD_CLOEXEC);
  fcntl(from[0], F_SETFD, FD_CLOEXEC);
  to_ = fdopen(to[1], "w");
  from_ = fdopen(from[0], "r");
  signal(SIGPIPE, SIG_IGN);
}

Session::~Session() {
  std::fputs("quit\n", to_);
  std::fclose(to_);
  std::fclose(from_);
  waitpid(process_, nullptr, 0);
}

// Empty when the worker has died and may.
std::string Session::read_line() {
  std::string line;
  for (int c = std::fgetc(from_); c != '\n'; c = std::fgetc(from_)) {
    if (c == EOF && !spec_.may_die) stop("worker '" + spec_.label + "' ended");
    if (c == EOF) {
      if (!dead_) std::fprintf(stderr, "'%s' died: left out\n", spec_.label.c_str());
      dead_ = true;
      return "";
    }
    line += static_cast<char>(c);
  }
  return line;
}

std::vector<SubjectInfo> Session::open(std::int64_t m, std::int64_t k, std::int64_t n,
                                       std::int64_t footprint, const std::string& methods) {
  if (dead_ || (spec_.most_rows > 0 && m > spec_.most_rows)) return {};
  std::ostringstream command;
  command << "open " << m << " " << k << " " << n << " " << footprint << " " << methods << "\n";
  std::fputs(command.str().c_str(), to_);
  std::fflush(to_);
  const int count = std::atoi(read_line().c_str());
  std::vector<SubjectInfo> subjects;
  for (int i = 0; i < count; ++i) {
    const std::vector<std::string> f = split(read_line(), '\t');
    if (dead_) return {};
    if (f.size() != 5) stop("worker '" + spec_.label + "' does not speak the protocol");
    subjects.push_back({spec_.label, f[0], f[1], f[2], f[3], std::atof(f[4].c_str())});
  }
  return subjects;
}

Seconds Session::run(std::size_t index, double milliseconds) {
  std::fprintf(to_, "run %zu %.3f\n", index, milliseconds);
  std::fflush(to_);
  Seconds s;
  const std::string answer = read_line();
  if (!dead_ && std::sscanf(answer.c_str(), "%lf %lf", &s.cpu, &s.wall) != 2) {
    stop("worker '" + spec_.label + "' does not speak the protocol");
  }
  return s;
}

double Session::clock(std::size_t index, double milliseconds) {
  std::fprintf(to_, "clock %zu %.3f\n", index, milliseconds);
  std::fflush(to_);
  double ghz = 0.0;
  const std::string answer = read_line();
  if (!dead_ && (std::sscanf(answer.c_str(), "%lf", &ghz) != 1 || ghz <= 0.0)) {
    stop("worker '" + spec_.label + "' does not speak the protocol");
  }
  return ghz;
}

}  // namespace rrs_bench
