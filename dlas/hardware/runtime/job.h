// What the host asks for: job.txt, one `key=value` a line.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "failure.h"

namespace dlas {

constexpr int64_t kProtocol = 4;
constexpr int64_t kMaxTensorBytes = int64_t{1} << 30;  // one input, or all outputs
constexpr int64_t kMaxInputs = 1000000;
constexpr int64_t kMaxRuns = 10000;  // keeps the answer's first line under 1 MiB
constexpr int64_t kMaxThreads = 1024;

struct Job {
  int64_t inputs = 0;
  std::vector<int64_t> shape;  // of one input, float32
  int64_t input_bytes = 0;     // of one
  int64_t output_bytes = 0;    // of one run
  int64_t warmups = 0;
  int64_t repeats = 0;
  int64_t flush_bytes = 0;  // written before each sample, so that the caches hold nothing of the network
  int64_t threads = 0;
  std::string device;   // cpu, opencl or cuda
  std::string gpu;      // what its name, or its platform's, contains
  std::string timer;    // of a GPU: wall, or events
  std::string kernels;  // folder in which compiled kernels are kept; empty for none
  std::string cpus;  // as in taskset; empty leaves the affinity as it is
  std::vector<std::string> observe;
};

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t start = 0; start < text.size();) {
    size_t end = std::min(text.find(separator, start), text.size());
    parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

inline int64_t parse_number(const std::string& what, const std::string& text, int64_t low,
                            int64_t high) {
  bool digits = !text.empty() && text.size() <= 12 &&
                text.find_first_not_of("0123456789") == std::string::npos;
  int64_t value = digits ? std::stoll(text) : -1;
  if (value < low || value > high) {
    throw Failure(what + " is '" + text + "', not a number of " + std::to_string(low) + " to " +
                  std::to_string(high));
  }
  return value;
}

// The value of each key; `observe` is the only one that may come more than once.
inline std::map<std::string, std::string> parse_lines(const std::string& text,
                                                      std::vector<std::string>* observe) {
  std::map<std::string, std::string> values;
  for (const std::string& line : split(text, '\n')) {
    size_t equals = line.find('=');
    if (equals == std::string::npos) throw Failure("job.txt: no '=' in '" + line + "'");
    std::string key = line.substr(0, equals), value = line.substr(equals + 1);
    if (key == "observe") {
      observe->push_back(value);
    } else if (!values.emplace(key, value).second) {
      throw Failure("job.txt: '" + key + "' is there twice");
    }
  }
  return values;
}

inline Job parse_job(const std::string& text) {
  Job job;
  std::map<std::string, std::string> values = parse_lines(text, &job.observe);
  auto take = [&values](const std::string& key) {
    auto found = values.find(key);
    if (found == values.end()) throw Failure("job.txt: '" + key + "' is missing");
    std::string value = found->second;
    values.erase(found);
    return value;
  };
  auto number = [&take](const std::string& key, int64_t low, int64_t high) {
    return parse_number("job.txt: " + key, take(key), low, high);
  };
  number("protocol", kProtocol, kProtocol);
  job.device = take("device");
  if (job.device != "cpu" && job.device != "opencl" && job.device != "cuda") {
    throw Failure("job.txt: there is no device '" + job.device + "'");
  }
  job.gpu = take("gpu");
  job.timer = take("timer");
  job.kernels = take("kernels");
  if (take("dtype") != "float32") throw Failure("job.txt: this runner takes only float32");
  job.inputs = number("inputs", 1, kMaxInputs);
  job.input_bytes = 4;
  for (const std::string& extent : split(take("shape"), ',')) {
    job.shape.push_back(parse_number("job.txt: shape", extent, 1, kMaxTensorBytes / job.input_bytes));
    job.input_bytes *= job.shape.back();
  }
  job.output_bytes = number("output_bytes", 0, kMaxTensorBytes / job.inputs);
  job.warmups = number("warmups", 0, kMaxRuns);
  job.repeats = number("repeats", 0, kMaxRuns);
  if ((job.warmups == 0) != (job.repeats == 0)) {
    throw Failure("job.txt: warmups and repeats are both 0 or neither is");
  }
  job.flush_bytes = number("flush_bytes", 0, kMaxTensorBytes);
  job.threads = number("threads", 1, kMaxThreads);
  job.cpus = take("cpus");
  if (!values.empty()) throw Failure("job.txt: unknown key '" + values.begin()->first + "'");
  return job;
}

}  // namespace dlas
