// A driver's library, opened when it is first needed: nothing here is linked with one.
#pragma once

#include <dlfcn.h>

#include <string>
#include <vector>

namespace dlas {

class Library {
 public:
  // The first of these files that opens.
  explicit Library(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_ != nullptr) return;
      if (problem_.empty()) problem_ = dlerror();
    }
  }

  // Why it cannot be used; empty when it can.
  const std::string& problem() const { return problem_; }

  template <typename Function>
  void find(const char* name, Function* function) {
    if (handle_ == nullptr) return;
    *function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (*function == nullptr && problem_.empty()) problem_ = std::string("it has no function ") + name;
  }

 private:
  void* handle_ = nullptr;
  std::string problem_;
};

}  // namespace dlas
