// The archive of a job: job.txt, model.so and input.bin, in this order, and nothing else. Only model.so
// touches a disk, and of the inputs one at a time is in memory.
#pragma once

#include <fcntl.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "failure.h"
#include "io.h"
#include "job.h"
#include "network.h"
#include "report.h"
#include "tar.h"

namespace dlas {

constexpr uint64_t kMaxTextBytes = 64 << 10;
constexpr uint64_t kMaxModuleBytes = uint64_t{4} << 30;

class Package {
 public:
  // Takes all but the inputs from the archive.
  Package(TarReader tar, const std::string& dir, Report* report)
      : tar_(std::move(tar)), report_(report), module_(dir + "/model.so") {
    expect("job.txt", kMaxTextBytes);
    job_ = parse_job(tar_.read_text());
    expect("model.so", kMaxModuleBytes);
    write_module();
    arrived_ = std::chrono::steady_clock::now();
    uint64_t bytes = static_cast<uint64_t>(job_.inputs * job_.input_bytes);
    if (expect("input.bin", bytes) != bytes) {
      throw Failure("tar: input.bin is shorter than the shape in job.txt");
    }
    input_ = make_cpu_tensor(job_.shape);
    left_ = job_.inputs;
  }

  // Overwrites the input with the next one, and sees after the last one that the archive ends there.
  // False when there is none left.
  bool next_input() {
    if (left_ == 0) return false;
    tar_.read(static_cast<char*>(input_.data_ptr()), static_cast<size_t>(job_.input_bytes));
    if (--left_ == 0) finish();
    return true;
  }

  // Once the module is mapped nobody needs the file, and a killed process then leaves none.
  void remove_module() {
    unlink(module_.c_str());
    report_->module_written = false;
  }

  const Job& job() const { return job_; }
  const std::string& module() const { return module_; }
  const ffi::Tensor& input() const { return input_; }
  std::chrono::steady_clock::time_point arrived() const { return arrived_; }  // the module

 private:
  // The size of the next member, which must have this name.
  uint64_t expect(const std::string& name, uint64_t max_bytes) {
    TarReader::Member member;
    if (!tar_.next(&member)) throw Failure("tar: " + name + " is missing");
    if (member.name != name) throw Failure("tar: '" + member.name + "' where " + name + " should be");
    if (member.bytes > max_bytes) {
      throw Failure("tar: " + name + " has " + std::to_string(member.bytes) + " bytes, more than " +
                    std::to_string(max_bytes));
    }
    return member.bytes;
  }

  void write_module() {
    Descriptor file(open(module_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file.valid()) throw system_failure(module_);
    report_->module_written = true;
    tar_.copy_to(file.get());
  }

  void finish() {
    TarReader::Member member;
    if (tar_.next(&member)) throw Failure("tar: '" + member.name + "' is one member too many");
    report_->archive_read = true;
  }

  TarReader tar_;
  Report* report_;
  std::string module_;  // path
  Job job_;
  ffi::Tensor input_;
  int64_t left_ = 0;  // inputs
  std::chrono::steady_clock::time_point arrived_;
};

}  // namespace dlas
