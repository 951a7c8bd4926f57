// CUDA for the TVM of the wheel by the driver alone: no CUDA run time, whose version would have to fit the board's, and
// no header of the toolkit. libcuda.so.1 is opened when the first device is asked for. What it registers is as in
// opencl.cc, under dlas.cuda.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "gpu.h"
#include "library.h"

namespace dlas {
namespace {

// Types, codes and names of CUDA's driver interface, version 7 and later: cuda.h gives them.
using Result = int;
using Pointer = unsigned long long;
using Context = struct CUctx_st*;
using Module = struct CUmod_st*;
using Function = struct CUfunc_st*;
using Stream = struct CUstream_st*;
using Event = struct CUevent_st*;
constexpr Result kUnloading = 4;  // the process ends, and the driver is gone before us
enum Attribute {
  kMaxThreads = 1, kMaxShared = 8, kWarp = 10, kRegisters = 12, kClock = 13, kProcessors = 16,
  kL2Bytes = 38, kMajor = 75, kMinor = 76,
};
constexpr int kDynamicSharedBytes = 8;  // attribute of a function
constexpr size_t kSharedUnasked = 48 << 10;

#define DLAS_CUDA_FUNCTIONS(X)                                                              \
  X(cuInit, "cuInit", unsigned)                                                             \
  X(cuDriverGetVersion, "cuDriverGetVersion", int*)                                         \
  X(cuDeviceGetCount, "cuDeviceGetCount", int*)                                             \
  X(cuDeviceGet, "cuDeviceGet", int*, int)                                                  \
  X(cuDeviceGetName, "cuDeviceGetName", char*, int, int)                                    \
  X(cuDeviceGetAttribute, "cuDeviceGetAttribute", int*, int, int)                           \
  X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", Context*, int)                    \
  X(cuCtxSetCurrent, "cuCtxSetCurrent", Context)                                            \
  X(cuMemAlloc, "cuMemAlloc_v2", Pointer*, size_t)                                          \
  X(cuMemFree, "cuMemFree_v2", Pointer)                                                     \
  X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", Pointer, const void*, size_t, Stream)        \
  X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", void*, Pointer, size_t, Stream)              \
  X(cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", Pointer, Pointer, size_t, Stream)            \
  X(cuStreamSynchronize, "cuStreamSynchronize", Stream)                                     \
  X(cuEventCreate, "cuEventCreate", Event*, unsigned)                                       \
  X(cuEventDestroy, "cuEventDestroy_v2", Event)                                             \
  X(cuEventRecord, "cuEventRecord", Event, Stream)                                          \
  X(cuEventSynchronize, "cuEventSynchronize", Event)                                        \
  X(cuEventElapsedTime, "cuEventElapsedTime", float*, Event, Event)                         \
  X(cuModuleLoadData, "cuModuleLoadData", Module*, const void*)                             \
  X(cuModuleUnload, "cuModuleUnload", Module)                                               \
  X(cuModuleGetFunction, "cuModuleGetFunction", Function*, Module, const char*)             \
  X(cuFuncSetAttribute, "cuFuncSetAttribute", Function, int, int)                           \
  X(cuLaunchKernel, "cuLaunchKernel", Function, unsigned, unsigned, unsigned, unsigned,     \
    unsigned, unsigned, unsigned, Stream, void**, void**)                                   \
  X(cuGetErrorName, "cuGetErrorName", Result, const char**)

struct Driver {
#define X(name, symbol, ...) Result (*name)(__VA_ARGS__) = nullptr;
  DLAS_CUDA_FUNCTIONS(X)
#undef X
  Library library{{"libcuda.so.1"}};

  Driver() {
#define X(name, symbol, ...) library.find(symbol, &name);
    DLAS_CUDA_FUNCTIONS(X)
#undef X
  }
};

const Driver& cuda() {
  static const Driver* functions = new Driver();  // leaked: modules and tensors may go after it else
  return *functions;
}

void check(Result code, const std::string& what) {
  if (code == 0) return;
  const char* name = nullptr;
  cuda().cuGetErrorName(code, &name);
  TVM_FFI_THROW(RuntimeError) << what << ": " << (name == nullptr ? std::to_string(code) : name);
}

struct Code {
  Context context = nullptr;
  Module module = nullptr;
  std::mutex mutex;
  std::unordered_map<std::string, Function> functions;

  ~Code() {
    if (module != nullptr && cuda().cuCtxSetCurrent(context) == 0) cuda().cuModuleUnload(module);
  }
};

class CudaDevice final : public Gpu {
 public:
  static constexpr const char* kKind = "cuda";
  using Loaded = Code;

  static CudaDevice* get() {
    static CudaDevice* only = new CudaDevice();  // leaked, as above
    return only;
  }

  std::string describe() final {
    open();
    int version = 0;
    check(cuda().cuDriverGetVersion(&version), "the driver's version");
    return "CUDA, " + name_ + ", sm_" + std::to_string(attribute(kMajor)) + std::to_string(attribute(kMinor)) +
           ", driver for CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  }

  void tell(tvm::runtime::DeviceAttrKind kind, ffi::Any* result) final {
    using namespace tvm::runtime;
    switch (kind) {
      case kMaxThreadsPerBlock: *result = attribute(kMaxThreads); break;
      case kWarpSize: *result = attribute(kWarp); break;
      case kMaxSharedMemoryPerBlock: *result = attribute(kMaxShared); break;
      case kMaxRegistersPerBlock: *result = attribute(kRegisters); break;
      case kMaxClockRate: *result = attribute(kClock); break;
      case kMultiProcessorCount: *result = attribute(kProcessors); break;
      case kL2CacheSizeBytes: *result = attribute(kL2Bytes); break;
      case kComputeVersion:
        *result = ffi::String(std::to_string(attribute(kMajor)) + "." + std::to_string(attribute(kMinor)));
        break;
      case kDeviceName: *result = ffi::String(name_); break;
      default: break;  // none
    }
  }

  void* AllocDataSpace(Device device, size_t bytes, size_t, DLDataType) final {
    open(device.device_id);
    Pointer buffer = 0;
    check(cuda().cuMemAlloc(&buffer, std::max<size_t>(bytes, 1)), "a buffer of " + std::to_string(bytes) + " bytes");
    return reinterpret_cast<void*>(buffer);
  }

  void FreeDataSpace(Device, void* buffer) final {
    if (cuda().cuCtxSetCurrent(context_) == kUnloading) return;
    Result code = cuda().cuMemFree(reinterpret_cast<Pointer>(buffer));
    if (code != kUnloading) check(code, "giving back a buffer");
  }

  void StreamSync(Device device, TVMStreamHandle) final {
    open(device.device_id);
    check(cuda().cuStreamSynchronize(nullptr), "waiting for the device");
  }

  bool SupportsDevicePointerArithmeticsOnHost() final { return true; }

  std::unique_ptr<Code> load(int device, const Image& image) {
    open(device);
    // TVM calls "cuda" whatever it was given for its CUDA C++. A cubin is an ELF file.
    if (image.code.compare(0, 4, "\177ELF") != 0) {
      TVM_FFI_THROW(ValueError) << "the kernels are no cubin: compile their CUDA C++ on the host";
    }
    auto loaded = std::make_unique<Code>();
    loaded->context = context_;
    check(cuda().cuModuleLoadData(&loaded->module, image.code.c_str()), "loading kernels for " + describe());
    return loaded;
  }

  void launch(Code* loaded, int device, const Launch& launch, const std::vector<Argument>& arguments,
              const Extents& extents) {
    open(device);
    Function function = find_function(loaded, launch.name(), extents.shared_bytes);
    std::vector<void*> places;
    for (const Argument& each : arguments) places.push_back(const_cast<unsigned char*>(each.bytes));
    auto n = [](size_t value) { return static_cast<unsigned>(value); };
    const size_t *grid = extents.grid, *block = extents.block;
    check(cuda().cuLaunchKernel(function, n(grid[0]), n(grid[1]), n(grid[2]), n(block[0]), n(block[1]), n(block[2]),
                                n(extents.shared_bytes), nullptr, places.data(), nullptr),
          launch.name() + ", " + extents.text());
  }

  Event make_event() {
    open();
    Event event = nullptr;
    check(cuda().cuEventCreate(&event, 0), "an event");
    return event;
  }

  void record(Event event) {
    open();
    check(cuda().cuEventRecord(event, nullptr), "an event");
  }

  int64_t elapsed_ns(Event start, Event end) {
    open();
    float elapsed_ms = 0;
    check(cuda().cuEventSynchronize(end), "an event");
    check(cuda().cuEventElapsedTime(&elapsed_ms, start, end), "an event");
    return static_cast<int64_t>(static_cast<double>(elapsed_ms) * 1e6);
  }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset, size_t bytes, Device source,
                      Device sink, DLDataType, TVMStreamHandle) final {
    open();
    if (bytes == 0) return;
    const char* read = static_cast<const char*>(from) + from_offset;
    char* written = static_cast<char*>(to) + to_offset;
    bool reads = source.device_type == kDLCUDA, writes = sink.device_type == kDLCUDA;
    if (reads && writes) {
      check(cuda().cuMemcpyDtoDAsync(reinterpret_cast<Pointer>(written), reinterpret_cast<Pointer>(read), bytes, nullptr),
            "copying on the device");
      return;
    }
    if (reads && sink.device_type == kDLCPU) {
      check(cuda().cuMemcpyDtoHAsync(written, reinterpret_cast<Pointer>(read), bytes, nullptr), "reading from the device");
    } else if (writes && source.device_type == kDLCPU) {
      check(cuda().cuMemcpyHtoDAsync(reinterpret_cast<Pointer>(written), read, bytes, nullptr), "writing to the device");
    } else {
      TVM_FFI_THROW(RuntimeError) << "CUDA copies to and from the CPU alone";
    }
    check(cuda().cuStreamSynchronize(nullptr), "copying");
  }

 private:
  CudaDevice() : Gpu("CUDA") {}

  bool is_open() const final { return context_ != nullptr; }

  void enter() final { check(cuda().cuCtxSetCurrent(context_), name_); }

  void find(const std::string& wanted) final {
    if (!cuda().library.problem().empty()) {
      TVM_FFI_THROW(RuntimeError) << "there is no CUDA driver: " << cuda().library.problem();
    }
    int count = 0;
    check(cuda().cuInit(0), "starting the CUDA driver");
    check(cuda().cuDeviceGetCount(&count), "counting CUDA devices");
    std::string known;
    for (int i = 0; i < count; ++i) {
      char name[256] = {0};
      check(cuda().cuDeviceGet(&device_, i), "a CUDA device");
      check(cuda().cuDeviceGetName(name, sizeof name - 1, device_), "a CUDA device's name");
      name_ = name;
      if (name_.find(wanted) != std::string::npos) {
        check(cuda().cuDevicePrimaryCtxRetain(&context_, device_), name_);
        return;
      }
      known += (known.empty() ? "" : "; ") + name_;
    }
    refuse(wanted, known);
  }

  int64_t attribute(Attribute which) {
    int value = 0;
    check(cuda().cuDeviceGetAttribute(&value, which, device_), name_);
    return value;
  }

  static Function find_function(Code* loaded, const std::string& name, size_t shared_bytes) {
    std::lock_guard<std::mutex> guard(loaded->mutex);
    Function& function = loaded->functions[name];
    if (function == nullptr) check(cuda().cuModuleGetFunction(&function, loaded->module, name.c_str()), name);
    if (shared_bytes > kSharedUnasked) {
      check(cuda().cuFuncSetAttribute(function, kDynamicSharedBytes, static_cast<int>(shared_bytes)), name);
    }
    return function;
  }

  std::string name_;
  int device_ = 0;
  Context context_ = nullptr;
};

// wall: from an idle device to an idle device. events: between two events in the device's queue, with the gaps between
// kernels, and without the wait for the last one.
class CudaTimer : public tvm::runtime::TimerNode {
 public:
  CudaTimer() : start_(CudaDevice::get()->make_event()), end_(CudaDevice::get()->make_event()) {}

  ~CudaTimer() {
    cuda().cuEventDestroy(start_);
    cuda().cuEventDestroy(end_);
  }

  void Start() final {
    CudaDevice::get()->StreamSync(Device{kDLCUDA, 0}, nullptr);
    if (CudaDevice::get()->times_events()) return CudaDevice::get()->record(start_);
    started_ = std::chrono::steady_clock::now();
  }

  void Stop() final {
    if (CudaDevice::get()->times_events()) return CudaDevice::get()->record(end_);
    CudaDevice::get()->StreamSync(Device{kDLCUDA, 0}, nullptr);
    wall_ns_ = std::chrono::nanoseconds(std::chrono::steady_clock::now() - started_).count();
  }

  int64_t SyncAndGetElapsedNanos() final {
    return CudaDevice::get()->times_events() ? CudaDevice::get()->elapsed_ns(start_, end_) : wall_ns_;
  }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("dlas.CudaTimer", CudaTimer, tvm::runtime::TimerNode);

 private:
  Event start_, end_;
  std::chrono::steady_clock::time_point started_;
  int64_t wall_ns_ = 0;
};

TVM_FFI_STATIC_INIT_BLOCK() { register_back_end<CudaDevice, CudaTimer>(); }

}  // namespace
}  // namespace dlas
