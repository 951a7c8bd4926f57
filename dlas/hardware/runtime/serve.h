// One job after another from stdin, each in a process of its own: what a job breaks ends with it. The
// process that serves starts no thread and loads no network, so that it can fork at any time.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include "attempt.h"
#include "failure.h"
#include "io.h"
#include "json.h"
#include "machine.h"
#include "measure.h"
#include "network.h"
#include "package.h"
#include "report.h"
#include "tar.h"

namespace dlas {

constexpr int kExitSignal = 128;  // as shells and containers' init processes tell it

struct Settings {
  std::string dir;   // for one file at a time
  std::string lock;  // empty for none
  int64_t timeout_s = 0;
  int64_t wait_s = 0;
};

inline void die_with_parent() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a killed sweep must not leave a job that disturbs the next one
}

inline void write_answer(int out, const Answer& answer) {
  write_all(out, answer.line.data(), answer.line.size());
  write_all(out, "\n", 1);
  write_all(out, answer.raw.data(), answer.raw.size());
}

// goes_on: whether the next job is answered too.
inline Answer explain(const Failure& failure, bool goes_on) {
  JsonObject answer;
  answer.add("error", std::string(failure.what()).substr(0, kMaxSentence));
  answer.add("exit_code", failure.exit_code).add("goes_on", goes_on);
  return {answer.text(), ""};
}

// The whole of one job, of which the serving process has read the first byte.
inline Answer work(const Settings& settings, char first, Report* report) {
  auto start = std::chrono::steady_clock::now();
  if (!settings.lock.empty()) hold_lock(settings.lock, settings.wait_s);
  int64_t wait_ns = nanoseconds_since(start);
  // The host has a clock of its own, but may be gone: SIGALRM then ends this process, and frees the lock.
  alarm(static_cast<unsigned>(settings.timeout_s));
  Package package(TarReader(STDIN_FILENO, first), settings.dir, report);
  restrict_cpus(package.job().cpus);
  package.next_input();  // a single input, and with it the archive, is in before the network can do harm
  int64_t threads = start_threads(package.job().threads);
  Processor processor(package.job());
  Network network(package.module(), processor, package.input());
  package.remove_module();
  return measure(network, &package, threads, wait_ns, processor.about());
}

// Never returns: unloading the network could only crash.
[[noreturn]] inline void work_and_exit(const Settings& settings, char first, Report* report, int out) {
  std::optional<Failure> failure = attempt([&] {
    Answer answer = work(settings, first, report);
    report->answering = true;
    write_answer(out, answer);
    report->answered = true;
  });
  if (failure) report->fail(*failure);
  std::_Exit(failure ? failure->exit_code : 0);
}

// Returns the id of the child once it has ended, or 0 with WNOHANG as long as it has not.
inline pid_t wait_for(pid_t child, int flags, int* status) {
  pid_t ended;
  while ((ended = waitpid(child, status, flags)) < 0) {
    if (errno != EINTR) throw system_failure("waitpid");
  }
  return ended;
}

// Returns the status of the child when it has ended; when stdin has, it is ended. It sleeps until then, so
// that it takes nothing from what is timed. signals: a signalfd for SIGCHLD. The end of a pipe would not do:
// what the child starts has that too, and may live on.
inline int attend(pid_t child, int signals) {
  int status;
  while (wait_for(child, WNOHANG, &status) == 0) {
    pollfd ends[] = {{signals, POLLIN, 0}, {STDIN_FILENO, 0, 0}};
    if (poll(ends, 2, -1) < 0) {
      if (errno == EINTR) continue;
      throw system_failure("poll");
    }
    signalfd_siginfo told;
    if (ends[0].revents != 0 && read(signals, &told, sizeof told) < 0) throw system_failure("read");
    if (ends[1].revents == 0) continue;
    std::fputs("the host is gone: its job is ended\n", stderr);
    kill(child, SIGKILL);
    wait_for(child, 0, &status);
    break;
  }
  return status;
}

// Returns the status of the process, as waitpid gives it.
inline int run_apart(const Settings& settings, bool attended, char first, Report* report, int out) {
  pid_t server = getpid();
  sigset_t ended, before;
  sigemptyset(&ended);
  sigaddset(&ended, SIGCHLD);
  sigprocmask(SIG_BLOCK, &ended, &before);  // else it could come before anybody reads it
  int signals = signalfd(-1, &ended, SFD_CLOEXEC);
  if (signals < 0) throw system_failure("signalfd");
  pid_t child = fork();
  if (child < 0) throw system_failure("fork");
  if (child == 0) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    die_with_parent();
    if (getppid() != server) std::_Exit(kExitFailed);  // it died before it could be said
    work_and_exit(settings, first, report, out);
  }
  int status;
  if (attended) {
    status = attend(child, signals);
  } else {
    wait_for(child, 0, &status);
  }
  close(signals);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  return status;
}

inline std::string signal_name(int number) {
  switch (number) {
    case SIGABRT: return "SIGABRT";
    case SIGALRM: return "SIGALRM";
    case SIGBUS: return "SIGBUS";
    case SIGFPE: return "SIGFPE";
    case SIGILL: return "SIGILL";
    case SIGKILL: return "SIGKILL";
    case SIGSEGV: return "SIGSEGV";
    case SIGTERM: return "SIGTERM";
    default: return "signal " + std::to_string(number);
  }
}

// oom_kills: how many there were before the job.
inline std::optional<Failure> failure_of(int status, const Report& report, int64_t oom_kills) {
  if (report.answered) return std::nullopt;
  if (WIFSIGNALED(status)) {
    int number = WTERMSIG(status);
    if (number == SIGKILL && count_oom_kills() > oom_kills) {
      return Failure("the job took more memory than its container has", kExitSignal + number);
    }
    return Failure("the job was ended by " + signal_name(number), kExitSignal + number);
  }
  if (report.exit_code != 0) return Failure(report.why, report.exit_code);
  return Failure("the network ended the job's process");
}

// True with the first byte of the next archive. Zeros before it are what tar fills up the last one with.
inline bool next_archive(char* first) {
  do {
    if (read_up_to(STDIN_FILENO, first, 1) == 0) return false;
  } while (*first == 0);
  return true;
}

// One job, answered. Returns its failure, which can no longer be told once it was answering.
inline std::optional<Failure> answer_job(const Settings& settings, bool attended, char first,
                                         Report* report, int out) {
  *report = Report();
  int64_t oom_kills = count_oom_kills();
  int status = run_apart(settings, attended, first, report, out);
  if (report->module_written) unlink((settings.dir + "/model.so").c_str());
  std::optional<Failure> failure = failure_of(status, *report, oom_kills);
  if (failure && !report->answering) write_answer(out, explain(*failure, !attended && report->archive_read));
  return failure;
}

inline char first_archive() {
  char first;
  if (!next_archive(&first)) throw Failure("there is no job on stdin", kExitUsage);
  return first;
}

// Answers the one job of stdin, and ends it when stdin ends. Returns its exit code.
inline int run(const Settings& settings, int out) {
  auto failure = answer_job(settings, true, first_archive(), share_report(), out);
  return failure ? failure->exit_code : 0;
}

// Answers every job of stdin, until its end or until it can no longer be followed. Returns the exit code
// of the last failure, 0 without one.
inline int serve(const Settings& settings, int out) {
  Report* report = share_report();
  char first = first_archive();
  int exit_code = 0;
  do {
    std::optional<Failure> failure = answer_job(settings, false, first, report, out);
    if (!failure) continue;
    exit_code = failure->exit_code;
    if (report->answering) break;  // another line would be taken for output
    if (!report->archive_read) break;
  } while (next_archive(&first));
  return exit_code;
}

}  // namespace dlas
