// The one way a job ends early: a sentence for the host and the exit code of the process.
#pragma once

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace dlas {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitBusy = 75;  // EX_TEMPFAIL of sysexits.h

class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& what, int exit_code = kExitFailed)
      : std::runtime_error(what), exit_code(exit_code) {}
  const int exit_code;
};

inline Failure system_failure(const std::string& what) {
  return Failure(what + ": " + std::strerror(errno));
}

}  // namespace dlas
