// One job from its archive to its answer: the output of every input, and times of the last one.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "job.h"
#include "json.h"
#include "machine.h"
#include "network.h"
#include "package.h"

namespace dlas {

struct Answer {
  std::string line;
  std::string raw;
};

inline int64_t nanoseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
}

struct Runs {
  std::string raw;  // the outputs, one behind the other
  Output last;
  int64_t first_ns = 0;
};

inline Runs run_all(const Network& network, Package* package) {
  const Job& job = package->job();
  Runs runs;
  runs.raw.reserve(static_cast<size_t>(job.inputs * job.output_bytes));
  auto start = std::chrono::steady_clock::now();
  runs.last = network.run(job.output_bytes);
  runs.first_ns = nanoseconds_since(start);
  runs.raw += runs.last.bytes;
  while (package->next_input()) {
    runs.last = network.run(job.output_bytes);
    runs.raw += runs.last.bytes;
  }
  return runs;
}

struct Times {
  std::vector<int64_t> warmup_ns;
  std::vector<int64_t> samples_ns;
};

// The very first run is the first warm-up.
inline Times time_last(const Network& network, const Job& job, int64_t first_ns) {
  Times times;
  if (job.repeats == 0) return times;
  times.warmup_ns.push_back(first_ns);
  if (job.warmups > 1) {
    std::vector<int64_t> more = network.time(job.warmups - 1, job.flush_bytes);
    times.warmup_ns.insert(times.warmup_ns.end(), more.begin(), more.end());
  }
  times.samples_ns = network.time(job.repeats, job.flush_bytes);
  return times;
}

// The last run of all must give the same bytes as the first one on the same input.
inline Answer measure(const Network& network, Package* package, int64_t threads, int64_t wait_ns,
                      const std::string& gpu) {
  const Job& job = package->job();
  JsonObject before = observe(job.observe);
  Runs runs = run_all(network, package);
  Times times = time_last(network, job, runs.first_ns);
  bool stable = network.run(job.output_bytes).bytes == runs.last.bytes;
  JsonObject after = observe(job.observe);

  JsonObject about;
  about.add("count", job.inputs).add("shape", runs.last.shape).add("dtype", "float32");
  about.add("bytes", runs.raw.size());
  JsonObject answer;
  answer.add("protocol", kProtocol).add("samples_ns", times.samples_ns).add("warmup_ns", times.warmup_ns);
  answer.add("output", about).add("output_stable", stable).add("threads", threads);
  answer.add("gpu", gpu);
  answer.add("cpu_set", format_cpus(effective_cpus())).add("peak_rss_bytes", peak_rss_bytes());
  answer.add("before", before).add("after", after).add("wait_ns", wait_ns);
  answer.add("run_ns", nanoseconds_since(package->arrived()));
  return {answer.text(), std::move(runs.raw)};
}

}  // namespace dlas
