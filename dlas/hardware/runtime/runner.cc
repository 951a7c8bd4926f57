// Runs one compiled network on this device and times it; dlas/hardware/protocol.py is the other end.
//
//   runner run --dir DIR --timeout-s N [--lock FILE --wait-s N]   job (tar) on stdin, answer on stdout
//   runner probe                                                  `observe=PATTERN` lines on stdin
//
// The answer is one line of JSON; after `run` the raw output of the network follows. A failure is
// {"error": ...} and an exit code other than 0.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "failure.h"
#include "io.h"
#include "job.h"
#include "json.h"
#include "machine.h"
#include "network.h"
#include "tar.h"

namespace dlas {
namespace {

constexpr uint64_t kMaxTextBytes = 64 << 10;
constexpr uint64_t kMaxModuleBytes = uint64_t{4} << 30;

struct Answer {
  std::string line;
  std::string raw;
};

struct Package {
  Job job;
  ffi::Tensor input;
  std::string module;  // path
};

void bound(const TarReader::Member& member, uint64_t bytes) {
  if (member.bytes > bytes) {
    throw Failure("tar: " + member.name + " has " + std::to_string(member.bytes) + " bytes, more than " +
                  std::to_string(bytes));
  }
}

void write_module(TarReader* tar, const std::string& path) {
  Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.valid()) throw system_failure(path);
  tar->copy_to(file.get());
}

// job.txt, model.so and input.bin, in this order, and nothing else. Only model.so touches a disk.
Package unpack(int fd, const std::string& dir) {
  TarReader tar(fd);
  TarReader::Member member;
  auto expect = [&](const std::string& name, uint64_t max_bytes) {
    if (!tar.next(&member)) throw Failure("tar: " + name + " is missing");
    if (member.name != name) throw Failure("tar: '" + member.name + "' where " + name + " should be");
    bound(member, max_bytes);
  };
  expect("job.txt", kMaxTextBytes);
  Package package{parse_job(tar.read_text()), {}, dir + "/model.so"};
  expect("model.so", kMaxModuleBytes);
  write_module(&tar, package.module);
  expect("input.bin", static_cast<uint64_t>(package.job.input_bytes));
  if (member.bytes != static_cast<uint64_t>(package.job.input_bytes)) {
    throw Failure("tar: input.bin is shorter than the shape in job.txt");
  }
  package.input = make_input(package.job.shape);
  tar.read(static_cast<char*>(package.input.data_ptr()), member.bytes);
  if (tar.next(&member)) throw Failure("tar: '" + member.name + "' is one member too many");
  return package;
}

std::map<std::string, std::string> parse_options(int argc, char** argv) {
  std::map<std::string, std::string> options;
  for (int i = 2; i < argc; i += 2) {
    std::string name = argv[i];
    bool known = name == "--dir" || name == "--timeout-s" || name == "--lock" || name == "--wait-s";
    if (!known || i + 1 == argc) throw Failure("unknown or empty option " + name, kExitUsage);
    options[name] = argv[i + 1];
  }
  if (!options.count("--dir") || !options.count("--timeout-s")) {
    throw Failure("run needs --dir and --timeout-s", kExitUsage);
  }
  return options;
}

// The first run gives the output and is the first warm-up; the last run must give the same bytes.
Answer measure(const Network& network, const Job& job, int64_t threads) {
  JsonObject before = observe(job.observe);
  auto start = std::chrono::steady_clock::now();
  Output output = network.run(job.output_bytes);
  auto first_run = std::chrono::steady_clock::now() - start;
  std::vector<int64_t> warmup_ns{std::chrono::nanoseconds(first_run).count()};
  if (job.warmups > 1) {
    std::vector<int64_t> more = network.time(job.warmups - 1);
    warmup_ns.insert(warmup_ns.end(), more.begin(), more.end());
  }
  std::vector<int64_t> samples_ns = network.time(job.repeats);
  bool stable = network.run(job.output_bytes).bytes == output.bytes;
  JsonObject after = observe(job.observe);

  JsonObject about;
  about.add("shape", output.shape).add("dtype", "float32").add("bytes", output.bytes.size());
  JsonObject answer;
  answer.add("protocol", kProtocol).add("samples_ns", samples_ns).add("warmup_ns", warmup_ns);
  answer.add("output", about).add("output_stable", stable).add("threads", threads);
  answer.add("cpu_set", format_cpus(effective_cpus())).add("peak_rss_bytes", peak_rss_bytes());
  answer.add("before", before).add("after", after);
  return {answer.text(), std::move(output.bytes)};
}

Answer run(int argc, char** argv) {
  auto options = parse_options(argc, argv);
  constexpr int64_t kMaxSeconds = 1000000;
  auto seconds = [&](const char* name) {
    return options.count(name) ? parse_number(name, options[name], 0, kMaxSeconds) : 0;
  };
  if (options.count("--lock")) hold_lock(options["--lock"], seconds("--wait-s"));
  // The host has a clock of its own, but may be gone: SIGALRM then ends this process, and frees the lock.
  alarm(static_cast<unsigned>(seconds("--timeout-s")));
  Package package = unpack(STDIN_FILENO, options["--dir"]);
  const Job& job = package.job;
  restrict_cpus(job.cpus);
  int64_t threads = start_threads(job.threads);
  Network network(package.module, package.input);
  unlink(package.module.c_str());  // it is mapped; a killed process leaves no file
  return measure(network, job, threads);
}

Answer probe() {
  std::string text(kMaxTextBytes, '\0');
  text.resize(read_up_to(STDIN_FILENO, &text[0], text.size()));
  std::vector<std::string> patterns;
  if (!parse_lines(text, &patterns).empty()) throw Failure("probe takes only observe lines", kExitUsage);
  JsonObject answer;
  answer.add("protocol", kProtocol).add("files", observe(patterns));
  return {answer.text(), ""};
}

Answer act(int argc, char** argv) {
  std::string verb = argc > 1 ? argv[1] : "";
  if (verb == "run") return run(argc, argv);
  if (verb == "probe" && argc == 2) return probe();
  throw Failure("usage: runner run --dir DIR --timeout-s N [--lock FILE --wait-s N] | runner probe", kExitUsage);
}

// Whatever TVM or the network prints must not get into the answer: stdout becomes stderr.
int set_stdout_aside() {
  int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  if (fd < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) std::_Exit(kExitFailed);
  return fd;
}

int answer_or_explain(int fd, int argc, char** argv) {
  Answer answer;
  int exit_code = 0;
  auto explain = [&](const std::string& why, int code) {
    constexpr size_t kMaxSentence = 4000;
    answer = {JsonObject().add("error", why.substr(0, kMaxSentence)).text(), ""};
    exit_code = code;
  };
  try {
    answer = act(argc, argv);
  } catch (const Failure& failure) {
    explain(failure.what(), failure.exit_code);
  } catch (const ffi::Error& error) {
    explain(error.kind() + ": " + error.message(), kExitFailed);
  } catch (const std::exception& error) {
    explain(error.what(), kExitFailed);
  } catch (...) {
    explain("an exception of an unknown kind", kExitFailed);
  }
  answer.line += '\n';
  write_all(fd, answer.line.data(), answer.line.size());
  write_all(fd, answer.raw.data(), answer.raw.size());
  return exit_code;
}

}  // namespace
}  // namespace dlas

int main(int argc, char** argv) {
  int fd = dlas::set_stdout_aside();
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a killed sweep must not leave a job that disturbs the next one
  rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  int exit_code = dlas::kExitFailed;
  try {
    exit_code = dlas::answer_or_explain(fd, argc, argv);
  } catch (const std::exception&) {
    // The reader is gone: there is nobody to tell.
  }
  std::_Exit(exit_code);  // the answer is out; unloading the network could only crash
}
