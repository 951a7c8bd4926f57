// Runs compiled networks on this device and times them; dlas/hardware/protocol.py is the other end.
//
//   runner run   --dir DIR --timeout-s N [--lock PATH --wait-s N]   one job (a tar) on stdin
//   runner serve --dir DIR --timeout-s N [--lock PATH --wait-s N]   jobs, one behind the other
//   runner probe                        [--lock PATH --wait-s N]    `observe=PATTERN` lines on stdin
//
// An answer is one line of JSON on stdout; behind that of a job come the raw outputs of the network. A
// failure is {"error": ..., "exit_code": ..., "goes_on": ...} with nothing behind it, and an exit code
// other than 0: that of the last failure. A job that fails costs the jobs behind it only where the rest of
// its archive is still to come: then "goes_on" is false. --timeout-s is for each job, from the time that it
// has the lock, which is a file or a folder. Who asks for one job keeps stdin open until the answer: when it
// ends before, that host is gone, and its job with it. The last job of a host that is gone while others are
// served ends by its clock.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "attempt.h"
#include "failure.h"
#include "io.h"
#include "job.h"
#include "json.h"
#include "machine.h"
#include "serve.h"

namespace dlas {
namespace {

std::map<std::string, std::string> parse_options(int argc, char** argv) {
  std::map<std::string, std::string> options;
  for (int i = 2; i < argc; i += 2) {
    std::string name = argv[i];
    bool known = name == "--dir" || name == "--timeout-s" || name == "--lock" || name == "--wait-s";
    if (!known || i + 1 == argc) throw Failure("unknown or empty option " + name, kExitUsage);
    options[name] = argv[i + 1];
  }
  return options;
}

Settings parse_settings(const std::string& verb, std::map<std::string, std::string> options) {
  if (verb != "probe" && (!options.count("--dir") || !options.count("--timeout-s"))) {
    throw Failure(verb + " needs --dir and --timeout-s", kExitUsage);
  }
  constexpr int64_t kMaxSeconds = 1000000;
  auto seconds = [&](const char* name) {
    return options.count(name) ? parse_number(name, options[name], 0, kMaxSeconds) : 0;
  };
  return {options["--dir"], options["--lock"], seconds("--timeout-s"), seconds("--wait-s")};
}

// With a lock, an answer also says that no job is running.
Answer probe(const Settings& settings) {
  if (!settings.lock.empty()) hold_lock(settings.lock, settings.wait_s);
  std::string text(kMaxTextBytes, '\0');
  text.resize(read_up_to(STDIN_FILENO, &text[0], text.size()));
  std::vector<std::string> patterns;
  if (!parse_lines(text, &patterns).empty()) throw Failure("probe takes only observe lines", kExitUsage);
  JsonObject answer;
  answer.add("protocol", kProtocol).add("files", observe(patterns));
  return {answer.text(), ""};
}

int act(int argc, char** argv, int out) {
  std::string verb = argc > 1 ? argv[1] : "";
  if (verb != "run" && verb != "serve" && verb != "probe") {
    throw Failure("usage: runner run|serve|probe --dir DIR --timeout-s N --lock PATH --wait-s N", kExitUsage);
  }
  Settings settings = parse_settings(verb, parse_options(argc, argv));
  if (verb == "serve") return serve(settings, out);
  if (verb == "run") return dlas::run(settings, out);
  write_answer(out, probe(settings));
  return 0;
}

// Whatever TVM or the network prints must not get into the answer: stdout becomes stderr.
int set_stdout_aside() {
  int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  if (fd < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) std::_Exit(kExitFailed);
  return fd;
}

}  // namespace
}  // namespace dlas

int main(int argc, char** argv) {
  int out = dlas::set_stdout_aside();
  dlas::die_with_parent();
  rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  int exit_code = 0;
  auto failure = dlas::attempt([&] { exit_code = dlas::act(argc, argv, out); });
  if (failure) {
    exit_code = failure->exit_code;
    // Should that fail too, the reader is gone and there is nobody to tell.
    dlas::attempt([&] { dlas::write_answer(out, dlas::explain(*failure, false)); });
  }
  std::_Exit(exit_code);
}
