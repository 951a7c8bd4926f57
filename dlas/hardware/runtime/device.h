// Where a network runs: on this CPU, or on a GPU through the back end that lies beside this program.
#pragma once

#include <dlfcn.h>
#include <limits.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "failure.h"
#include "job.h"

namespace dlas {

namespace ffi = tvm::ffi;

inline ffi::Function find_function(const std::string& name) {
  auto found = ffi::Function::GetGlobal(name);
  if (!found.has_value()) throw Failure("TVM's run time has no function " + name);
  return *found;
}

// The folder of this program.
inline std::string own_folder() {
  char path[PATH_MAX];
  ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  if (size < 0 || size == sizeof path) throw system_failure("/proc/self/exe");
  std::string program(path, static_cast<size_t>(size));
  return program.substr(0, program.rfind('/'));
}

// 64 bytes, a cache line and an AVX-512 register: what TVM's own tensors are aligned to.
struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    if (posix_memalign(&tensor->data, 64, ffi::GetDataSize(*tensor)) != 0) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

inline ffi::Tensor make_cpu_tensor(const std::vector<int64_t>& shape) {
  return ffi::Tensor::FromNDAlloc(AlignedMemory(), ffi::ShapeView(shape.data(), shape.size()),
                                  DLDataType{kDLFloat, 32, 1}, DLDevice{kDLCPU, 0});
}

class Processor {
 public:
  // The one of a job. A GPU's back end is loaded, the device that the job names is chosen, and how it is timed.
  explicit Processor(const Job& job) : kind_(job.device) {
    if (kind_ == "cpu") return;
    std::string library = own_folder() + "/libdlas_" + kind_ + ".so";
    if (dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
      throw Failure("this runner has no device " + kind_ + ": " + dlerror());
    }
    ask("choose")(job.gpu);
    ask("set_timer")(job.timer);
    if (!job.kernels.empty()) ask("set_cache")(job.kernels);
    about_ = ask("describe")().cast<ffi::String>();
  }

  DLDevice device() const {
    if (kind_ == "opencl") return {kDLOpenCL, 0};
    if (kind_ == "cuda") return {kDLCUDA, 0};
    return {kDLCPU, 0};
  }

  bool is_cpu() const { return kind_ == "cpu"; }

  // Platform, device and driver; empty for the CPU.
  const std::string& about() const { return about_; }

  ffi::Tensor make_tensor(const std::vector<int64_t>& shape) const {
    if (is_cpu()) return make_cpu_tensor(shape);
    return find_function("runtime.TVMTensorAllocWithScope")(ffi::Shape(shape.begin(), shape.end()),
                                                            DLDataType{kDLFloat, 32, 1}, device(), nullptr)
        .cast<ffi::Tensor>();
  }

 private:
  ffi::Function ask(const std::string& name) const { return find_function("dlas." + kind_ + "." + name); }

  std::string kind_;
  std::string about_;
};

// Copies all of a tensor, whose shape the other has.
inline void copy(const ffi::Tensor& from, const ffi::Tensor& to) {
  find_function("runtime.TVMTensorCopyFromTo")(from, to);
}

}  // namespace dlas
