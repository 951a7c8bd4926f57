// A compiled network in TVM's Relax virtual machine, with its input bound: it runs on what is in there. On a
// GPU the bound input is in its memory, and what is timed neither ships it there nor its output back.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "device.h"
#include "failure.h"
#include "job.h"

namespace dlas {

struct Output {
  std::vector<int64_t> shape;
  std::string bytes;
};

// Makes `threads` hold. TVM's own choices do not: it halves the CPU count, uses only the cores of the
// highest clock, and binds to CPU 0, 1, ... whatever the process's CPU set is. Binding is off: the
// kernel knows which CPUs are siblings, and a narrower CPU set is the target's to state.
inline int64_t start_threads(int64_t threads) {
  setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);
  setenv("TVM_BIND_THREADS", "0", 1);
  constexpr int kBigCores = 1;  // any mode will do: with binding off it only gives a default count
  ffi::Function::GetGlobalRequired("runtime.config_threadpool")(kBigCores, static_cast<int>(threads));
  return ffi::Function::GetGlobalRequired("runtime.NumThreads")().cast<int64_t>();
}

class Network {
 public:
  Network(const std::string& path, const Processor& processor, const ffi::Tensor& input)
      : processor_(processor),
        vm_(get(ffi::Module::LoadFromFile(path), "vm_load_executable")().cast<ffi::Module>()),
        input_(input),
        bound_(processor.is_cpu() ? input : processor.make_tensor(shape_of(input))) {
    constexpr int kPooledAllocator = 2;
    DLDevice device = processor.device();
    ffi::Function initialize = get(vm_, "vm_initialization");
    if (processor.is_cpu()) {
      initialize(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    } else {
      initialize(static_cast<int>(device.device_type), device.device_id, kPooledAllocator,
                 static_cast<int>(kDLCPU), 0, kPooledAllocator);
    }
    get(vm_, "save_function")("main", kBound, true, bound_);
    run_ = get(vm_, kBound);
  }

  Output run(int64_t expected_bytes) const {
    if (!processor_.is_cpu()) copy(input_, bound_);
    ffi::Any result = to_cpu(run_());
    auto tensor = result.as<ffi::Tensor>();
    if (!tensor) throw Failure("the network gives " + result.GetTypeKey() + ", not one tensor");
    DLDataType dtype = tensor->dtype();
    if (dtype.code != kDLFloat || dtype.bits != 32 || dtype.lanes != 1) {
      throw Failure("the network's output is not float32");
    }
    if (tensor->device().device_type != kDLCPU || !tensor->IsContiguous()) {
      throw Failure("the network's output is not one block of the CPU's memory");
    }
    int64_t bytes = static_cast<int64_t>(ffi::GetDataSize(*tensor));
    if (bytes != expected_bytes) {
      throw Failure("the network's output has " + std::to_string(bytes) + " bytes, " +
                    std::to_string(expected_bytes) + " were expected");
    }
    const char* data = static_cast<const char*>(tensor->data_ptr()) + tensor->byte_offset();
    auto shape = tensor->shape();
    return {std::vector<int64_t>(shape.begin(), shape.end()),
            std::string(data, static_cast<size_t>(bytes))};
  }

  // Nanoseconds of each of `repeats` runs, by TVM's own evaluator, which runs the network once more
  // before the first of them, and before each one writes flush_bytes elsewhere.
  std::vector<int64_t> time(int64_t repeats, int64_t flush_bytes) const {
    constexpr int kNumber = 1, kMinRepeatMs = 0, kZeroTimeLimit = 0, kCooldownMs = 0, kCooldownEvery = 1;
    ffi::Function evaluate =
        ffi::Function::GetGlobalRequired("runtime.RPCTimeEvaluator")(
            vm_, kBound, static_cast<int>(processor_.device().device_type), 0, kNumber, static_cast<int>(repeats), kMinRepeatMs,
            kZeroTimeLimit, kCooldownMs, kCooldownEvery, static_cast<int>(flush_bytes), "")
            .cast<ffi::Function>();
    ffi::Bytes seconds = evaluate().cast<ffi::Bytes>();
    if (seconds.size() != static_cast<size_t>(repeats) * sizeof(double)) {
      throw Failure("TVM's evaluator gave " + std::to_string(seconds.size()) + " bytes for " +
                    std::to_string(repeats) + " samples");
    }
    std::vector<int64_t> samples_ns;
    for (int64_t i = 0; i < repeats; ++i) {
      double sample_s;
      std::memcpy(&sample_s, seconds.data() + i * static_cast<int64_t>(sizeof(double)), sizeof sample_s);
      samples_ns.push_back(std::llround(sample_s * 1e9));
    }
    return samples_ns;
  }

 private:
  static constexpr const char* kBound = "dlas_bound_main";

  static ffi::Function get(const ffi::Module& module, const char* name) {
    auto function = module->GetFunction(name, true);
    if (!function.has_value()) throw Failure(std::string("the module has no function ") + name);
    return *function;
  }

  static std::vector<int64_t> shape_of(const ffi::Tensor& tensor) {
    auto shape = tensor.shape();
    return {shape.begin(), shape.end()};
  }

  // What is no tensor of a GPU stays as it is: `run` says what is wrong with it.
  ffi::Any to_cpu(ffi::Any result) const {
    auto tensor = result.as<ffi::Tensor>();
    if (processor_.is_cpu() || !tensor) return result;
    ffi::Tensor copied = make_cpu_tensor(shape_of(*tensor));
    copy(*tensor, copied);
    return copied;
  }

  const Processor& processor_;
  ffi::Module vm_;
  ffi::Tensor input_;  // of the CPU
  ffi::Tensor bound_;
  ffi::Function run_;
};

}  // namespace dlas
