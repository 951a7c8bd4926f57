// What a job needs of Linux: the device's lock, the CPU set, the files that the host wants to see.
#pragma once

#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "failure.h"
#include "io.h"
#include "job.h"
#include "json.h"

namespace dlas {

constexpr size_t kMaxFileBytes = 64 << 10;
constexpr size_t kMaxSnapshotBytes = 400 << 10;  // two of them and the samples fit in 1 MiB

// Takes the device's lock, a file or a folder, for the life of this process. It is opened read-only: in a
// container it is.
inline void hold_lock(const std::string& path, int64_t wait_s) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) throw system_failure("lock " + path);
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(wait_s);
  bool said = false;
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) throw system_failure("lock " + path);
    if (!said && wait_s > 0) std::fputs("waiting for another job to leave the device\n", stderr);
    said = true;
    if (std::chrono::steady_clock::now() >= deadline) {
      throw Failure("the device is busy: another job held its lock for " + std::to_string(wait_s) + " s",
                    kExitBusy);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

inline cpu_set_t effective_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) throw system_failure("sched_getaffinity");
  return set;
}

// "0-3,6", the notation of taskset and of /proc.
inline std::string format_cpus(const cpu_set_t& set) {
  std::string out;
  for (int first = 0; first < CPU_SETSIZE; ++first) {
    if (!CPU_ISSET(first, &set)) continue;
    int last = first;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &set)) ++last;
    out += (out.empty() ? "" : ",") + std::to_string(first);
    if (last > first) out += "-" + std::to_string(last);
    first = last;
  }
  return out;
}

// Restricts this process, and the threads that it will make, to a list of CPUs. The kernel drops
// CPUs that a process cannot have without a word, so what came of it is compared.
inline void restrict_cpus(const std::string& list) {
  if (list.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const std::string& range : split(list, ',')) {
    size_t dash = std::min(range.find('-'), range.size());
    int64_t first = parse_number("job.txt: cpus", range.substr(0, dash), 0, CPU_SETSIZE - 1);
    int64_t last = dash == range.size() ? first
                                        : parse_number("job.txt: cpus", range.substr(dash + 1), first,
                                                       CPU_SETSIZE - 1);
    for (int64_t cpu = first; cpu <= last; ++cpu) CPU_SET(static_cast<size_t>(cpu), &set);
  }
  bool accepted = sched_setaffinity(0, sizeof set, &set) == 0;
  cpu_set_t effective = effective_cpus();
  if (!accepted || !CPU_EQUAL(&set, &effective)) {
    throw Failure("CPU set " + list + " is not to be had here: the process may use " +
                  format_cpus(effective));
  }
}

// Contents of the files that match the patterns of glob(7), by path. Files that do not exist are left
// out, long ones are cut, and what would make the answer too long is left out.
inline JsonObject observe(const std::vector<std::string>& patterns) {
  JsonObject files;
  for (const std::string& pattern : patterns) {
    glob_t found;
    if (glob(pattern.c_str(), 0, nullptr, &found) != 0) continue;
    for (size_t i = 0; i < found.gl_pathc; ++i) {
      std::string path = found.gl_pathv[i], contents;
      if (!read_file(path, kMaxFileBytes, &contents)) continue;
      if (files.bytes() + json(path).size() + json(contents).size() + 2 > kMaxSnapshotBytes) continue;
      files.add(path, contents);
    }
    globfree(&found);
  }
  return files;
}

// The most memory that this program has held. Not getrusage: its figure survives exec, and would be
// the host tool's.
inline int64_t peak_rss_bytes() {
  std::string status;
  if (!read_file("/proc/self/status", kMaxFileBytes, &status)) throw Failure("no /proc/self/status");
  size_t at = status.find("VmHWM:");
  if (at == std::string::npos) throw Failure("no VmHWM in /proc/self/status");
  return std::stoll(status.substr(at + 6)) * 1024;
}

// How many processes the kernel has ended here for want of memory, in either version of control groups;
// -1 where it does not tell.
inline int64_t count_oom_kills() {
  for (const char* path : {"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"}) {
    std::string text;
    size_t at = read_file(path, kMaxFileBytes, &text) ? text.find("oom_kill ") : std::string::npos;
    if (at != std::string::npos) return std::stoll(text.substr(at + 9));
  }
  return -1;
}

}  // namespace dlas
