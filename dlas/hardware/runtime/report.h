// What the process of a job tells the one that started it, in memory that both have: it is there to be
// read however the job ended.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <string>

#include "failure.h"

namespace dlas {

constexpr size_t kMaxSentence = 4000;

struct Report {
  bool module_written = false;  // model.so lies in the job's folder
  bool archive_read = false;    // to its end: the next byte of the stream is the next job's
  bool answering = false;       // from here on, stdout may hold a part of the answer
  bool answered = false;
  int exit_code = 0;
  char why[kMaxSentence + 1] = {};

  void fail(const Failure& failure) {
    std::string sentence = failure.what();
    sentence.copy(why, kMaxSentence);
    exit_code = failure.exit_code;
  }
};

// Lives as long as the process.
inline Report* share_report() {
  void* memory = mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw system_failure("mmap");
  return new (memory) Report();
}

}  // namespace dlas
