// Whole reads and writes on file descriptors.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>

#include "failure.h"

namespace dlas {

// Closes a descriptor at the end of its scope.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_;
};

// Reads until `size` bytes or the end of the stream; returns how many came.
inline size_t read_up_to(int fd, char* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = read(fd, out + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw system_failure("read");
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

inline void write_all(int fd, const char* data, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw system_failure("write");
    data += n;
    size -= static_cast<size_t>(n);
  }
}

// The first `limit` bytes of a regular file. False when it does not exist or cannot be read, as is
// usual in /proc and /sys; the size that stat tells is 0 there, so it is not asked.
inline bool read_file(const std::string& path, size_t limit, std::string* contents) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status;
  if (!file.valid() || fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  contents->resize(limit);
  try {
    contents->resize(read_up_to(file.get(), &(*contents)[0], limit));
  } catch (const Failure&) {
    return false;
  }
  return true;
}

}  // namespace dlas
