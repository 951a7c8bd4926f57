// OpenCL for the TVM of the wheel, which generates code for it and has no run time: device_api.opencl, the
// modules of its kernels, and its timer. libOpenCL.so.1 is opened when the first device is asked for.
#define CL_TARGET_OPENCL_VERSION 120
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "binaries.h"
#include "gpu.h"
#include "library.h"

namespace dlas {
namespace {

#define DLAS_CL_FUNCTIONS(X)                                                                    \
  X(clGetPlatformIDs) X(clGetPlatformInfo) X(clGetDeviceIDs) X(clGetDeviceInfo)                 \
  X(clCreateContext) X(clReleaseContext) X(clCreateCommandQueue) X(clFinish)                    \
  X(clCreateBuffer) X(clReleaseMemObject)                                                       \
  X(clEnqueueWriteBuffer) X(clEnqueueReadBuffer) X(clEnqueueCopyBuffer)                         \
  X(clCreateProgramWithSource) X(clCreateProgramWithBinary) X(clBuildProgram)                   \
  X(clGetProgramBuildInfo) X(clGetProgramInfo) X(clReleaseProgram)                              \
  X(clCreateKernel) X(clReleaseKernel) X(clSetKernelArg) X(clEnqueueNDRangeKernel)              \
  X(clGetEventProfilingInfo) X(clReleaseEvent)

struct OpenCl {
#define X(name) decltype(&::name) name = nullptr;
  DLAS_CL_FUNCTIONS(X)
#undef X
  Library library{{"libOpenCL.so.1", "libOpenCL.so", "libmali.so"}};

  OpenCl() {
#define X(name) library.find(#name, &name);
    DLAS_CL_FUNCTIONS(X)
#undef X
  }
};

// Leaked: modules and tensors may go after it else.
const OpenCl& cl() {
  static const OpenCl* functions = new OpenCl();
  return *functions;
}

std::string name_of(cl_int code) {
  static const std::unordered_map<cl_int, std::string> names = {
      {CL_DEVICE_NOT_AVAILABLE, "the device is not available"},
      {CL_COMPILER_NOT_AVAILABLE, "the driver has no compiler"},
      {CL_MEM_OBJECT_ALLOCATION_FAILURE, "the device is out of memory"},
      {CL_OUT_OF_RESOURCES, "the device is out of resources"},
      {CL_OUT_OF_HOST_MEMORY, "the host is out of memory"},
      {CL_BUILD_PROGRAM_FAILURE, "the kernels do not compile"},
      {CL_INVALID_BUFFER_SIZE, "a buffer larger than the device can have"},
      {CL_INVALID_KERNEL_NAME, "there is no such kernel"},
      {CL_INVALID_WORK_GROUP_SIZE, "more threads in a group than the kernel can have"},
      {CL_INVALID_WORK_ITEM_SIZE, "more threads along an axis than the device can have"},
  };
  auto found = names.find(code);
  return "OpenCL error " + std::to_string(code) + (found == names.end() ? "" : ": " + found->second);
}

void check(cl_int code, const std::string& what) {
  if (code != CL_SUCCESS) TVM_FFI_THROW(RuntimeError) << what << ": " << name_of(code);
}

template <typename Ask>
std::string read_text(Ask ask) {
  size_t size = 0;
  if (ask(0, nullptr, &size) != CL_SUCCESS || size == 0) return "";
  std::string text(size, '\0');
  if (ask(size, &text[0], nullptr) != CL_SUCCESS) return "";
  return text.substr(0, text.find('\0'));
}

struct Found {  // a device that some platform has
  cl_device_id id;
  std::string platform, name, version, driver;
  bool is_gpu;

  std::string text() const { return platform + ", " + name + ", " + version + ", driver " + driver; }
};

std::vector<Found> find_devices() {
  constexpr cl_uint kMost = 16;
  if (!cl().library.problem().empty()) {
    TVM_FFI_THROW(RuntimeError) << "there is no OpenCL driver: " << cl().library.problem();
  }
  cl_platform_id platforms[kMost];
  cl_uint platform_count = 0;
  if (cl().clGetPlatformIDs(kMost, platforms, &platform_count) != CL_SUCCESS) platform_count = 0;
  std::vector<Found> found;
  for (cl_uint p = 0; p < std::min(platform_count, kMost); ++p) {
    cl_device_id ids[kMost];
    cl_uint count = 0;
    if (cl().clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, kMost, ids, &count) != CL_SUCCESS) continue;
    for (cl_uint i = 0; i < std::min(count, kMost); ++i) {
      auto about = [id = ids[i]](cl_device_info what) {
        return read_text([=](size_t n, void* at, size_t* size) { return cl().clGetDeviceInfo(id, what, n, at, size); });
      };
      cl_device_type type = 0;
      cl().clGetDeviceInfo(ids[i], CL_DEVICE_TYPE, sizeof type, &type, nullptr);
      std::string platform = read_text([&](size_t n, void* at, size_t* size) {
        return cl().clGetPlatformInfo(platforms[p], CL_PLATFORM_NAME, n, at, size);
      });
      found.push_back({ids[i], platform, about(CL_DEVICE_NAME), about(CL_DEVICE_VERSION), about(CL_DRIVER_VERSION),
                       (type & CL_DEVICE_TYPE_GPU) != 0});
    }
  }
  return found;
}

struct Program {
  cl_program program = nullptr;
  std::mutex mutex;  // arguments and launch of a kernel belong together
  std::unordered_map<std::string, cl_kernel> kernels;

  ~Program() {
    for (auto& each : kernels) cl().clReleaseKernel(each.second);
    if (program != nullptr) cl().clReleaseProgram(program);
  }
};

class ClDevice final : public Gpu {
 public:
  static constexpr const char* kKind = "opencl";
  using Loaded = Program;

  static ClDevice* get() {
    static ClDevice* only = new ClDevice();  // leaked, as above
    return only;
  }

  std::string describe() final {
    open();
    return about_.text();
  }

  void set_cache(const std::string& folder) final { binaries_ = Binaries(folder); }

  void tell(tvm::runtime::DeviceAttrKind kind, ffi::Any* result) final {
    using namespace tvm::runtime;
    switch (kind) {
      case kMaxThreadsPerBlock: *result = number<size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE); break;
      case kWarpSize: *result = int64_t{1}; break;  // OpenCL 1.2 does not tell
      case kMaxSharedMemoryPerBlock: *result = number<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE); break;
      case kComputeVersion:
      case kApiVersion: *result = ffi::String(about_.version); break;
      case kDeviceName: *result = ffi::String(about_.name); break;
      case kDriverVersion: *result = ffi::String(about_.driver); break;
      case kMaxClockRate: *result = number<cl_uint>(CL_DEVICE_MAX_CLOCK_FREQUENCY) * 1000; break;
      case kMultiProcessorCount: *result = number<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS); break;
      case kL2CacheSizeBytes: *result = number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_CACHE_SIZE); break;
      case kTotalGlobalMemory: *result = number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE); break;
      default: break;  // none
    }
  }

  void* AllocDataSpace(Device device, size_t bytes, size_t, DLDataType) final {
    open(device.device_id);
    cl_int code;
    cl_mem buffer = cl().clCreateBuffer(context_, CL_MEM_READ_WRITE, std::max<size_t>(bytes, 1), nullptr, &code);
    check(code, "a buffer of " + std::to_string(bytes) + " bytes");
    return buffer;
  }

  void FreeDataSpace(Device, void* buffer) final {
    check(cl().clReleaseMemObject(static_cast<cl_mem>(buffer)), "giving back a buffer");
  }

  void StreamSync(Device device, TVMStreamHandle) final {
    open(device.device_id);
    check(cl().clFinish(queue_), "waiting for the device");
  }

  std::unique_ptr<Program> load(int device, const Image& image) {
    open(device);
    if (image.format != "cl") TVM_FFI_THROW(ValueError) << "the kernels are " << image.format << ", not OpenCL C";
    auto loaded = std::make_unique<Program>();
    std::string key = about_.text() + "\n" + image.code;
    std::string binary = binaries_.read(key);
    if (!binary.empty() && build_binary(loaded.get(), binary)) return loaded;
    build_source(loaded.get(), image.code);
    if (binaries_.is_on()) binaries_.write(key, read_binary(loaded->program));
    return loaded;
  }

  void launch(Program* loaded, int device, const Launch& launch, const std::vector<Argument>& arguments,
              const Extents& extents) {
    open(device);
    if (extents.shared_bytes != 0) {
      TVM_FFI_THROW(ValueError) << launch.name() << " sizes its local memory at its launch, which OpenCL C cannot";
    }
    std::lock_guard<std::mutex> guard(loaded->mutex);
    cl_kernel kernel = find_kernel(loaded, launch.name());
    for (size_t i = 0; i < arguments.size(); ++i) {
      check(cl().clSetKernelArg(kernel, static_cast<cl_uint>(i), arguments[i].size, arguments[i].bytes),
            launch.name() + ", argument " + std::to_string(i));
    }
    size_t threads[3];
    for (int axis = 0; axis < 3; ++axis) threads[axis] = extents.grid[axis] * extents.block[axis];
    cl_event event = nullptr;
    bool is_recorded = recording_ > 0;
    check(cl().clEnqueueNDRangeKernel(queue_, kernel, 3, nullptr, threads, extents.block, 0, nullptr,
                                      is_recorded ? &event : nullptr),
          launch.name() + ", " + extents.text());
    if (is_recorded) {
      std::lock_guard<std::mutex> events_guard(mutex_);
      events_.push_back(event);
    }
  }

  void start_recording() {
    StreamSync(Device{kDLOpenCL, 0}, nullptr);
    ++recording_;
  }

  // Nanoseconds that the kernels since `start_recording` took on the device, without what was between them.
  int64_t stop_recording() {
    StreamSync(Device{kDLOpenCL, 0}, nullptr);
    --recording_;
    std::lock_guard<std::mutex> guard(mutex_);
    int64_t sum_ns = 0;
    for (cl_event event : events_) {
      cl_ulong start = 0, end = 0;
      check(cl().clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, nullptr), "an event");
      check(cl().clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, nullptr), "an event");
      sum_ns += static_cast<int64_t>(end - start);
      cl().clReleaseEvent(event);
    }
    events_.clear();
    return sum_ns;
  }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset, size_t bytes, Device source,
                      Device sink, DLDataType, TVMStreamHandle) final {
    open();
    if (bytes == 0) return;
    cl_mem from_buffer = static_cast<cl_mem>(const_cast<void*>(from)), to_buffer = static_cast<cl_mem>(to);
    bool reads = source.device_type == kDLOpenCL, writes = sink.device_type == kDLOpenCL;
    if (reads && writes) {
      check(cl().clEnqueueCopyBuffer(queue_, from_buffer, to_buffer, from_offset, to_offset, bytes, 0, nullptr, nullptr),
            "copying on the device");
    } else if (reads && sink.device_type == kDLCPU) {
      check(cl().clEnqueueReadBuffer(queue_, from_buffer, CL_TRUE, from_offset, bytes,
                                     static_cast<char*>(to) + to_offset, 0, nullptr, nullptr),
            "reading from the device");
    } else if (writes && source.device_type == kDLCPU) {
      check(cl().clEnqueueWriteBuffer(queue_, to_buffer, CL_TRUE, to_offset, bytes,
                                      static_cast<const char*>(from) + from_offset, 0, nullptr, nullptr),
            "writing to the device");
    } else {
      TVM_FFI_THROW(RuntimeError) << "OpenCL copies to and from the CPU alone";
    }
  }

 private:
  ClDevice() : Gpu("OpenCL") {}

  bool is_open() const final { return context_ != nullptr; }

  // The first GPU, else the first of all, of those that have the text in their names, or in their platforms'.
  Found select(const std::string& wanted) const {
    std::vector<Found> all = find_devices(), fitting;
    std::string known;
    for (const Found& each : all) {
      if ((each.platform + "\n" + each.name).find(wanted) != std::string::npos) fitting.push_back(each);
      known += (known.empty() ? "" : "; ") + each.text();
    }
    if (fitting.empty()) refuse(wanted, known);
    for (const Found& each : fitting) {
      if (each.is_gpu) return each;
    }
    return fitting.front();
  }

  void find(const std::string& wanted) final {
    about_ = select(wanted);
    cl_int code;
    cl_context context = cl().clCreateContext(nullptr, 1, &about_.id, nullptr, nullptr, &code);
    check(code, about_.text());
    cl_command_queue_properties properties = times_events() ? CL_QUEUE_PROFILING_ENABLE : 0;
    queue_ = cl().clCreateCommandQueue(context, about_.id, properties, &code);
    if (code != CL_SUCCESS) cl().clReleaseContext(context);
    check(code, about_.text());
    context_ = context;
  }

  template <typename T>
  int64_t number(cl_device_info what) {
    T value{};
    check(cl().clGetDeviceInfo(about_.id, what, sizeof value, &value, nullptr), about_.text());
    return static_cast<int64_t>(value);
  }

  void build_source(Program* loaded, const std::string& source) {
    const char* text = source.data();
    size_t size = source.size();
    cl_int code;
    loaded->program = cl().clCreateProgramWithSource(context_, 1, &text, &size, &code);
    check(code, "the kernels' source");
    code = cl().clBuildProgram(loaded->program, 1, &about_.id, "", nullptr, nullptr);
    if (code == CL_SUCCESS) return;
    std::string said = read_text([&](size_t n, void* at, size_t* bytes) {
      return cl().clGetProgramBuildInfo(loaded->program, about_.id, CL_PROGRAM_BUILD_LOG, n, at, bytes);
    });
    TVM_FFI_THROW(RuntimeError) << "compiling the kernels: " << name_of(code) << "\n" << said;
  }

  // Whether that worked: a driver may refuse what it once gave.
  bool build_binary(Program* loaded, const std::string& binary) {
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(binary.data());
    size_t size = binary.size();
    cl_int status, code;
    loaded->program = cl().clCreateProgramWithBinary(context_, 1, &about_.id, &size, &bytes, &status, &code);
    if (code == CL_SUCCESS) code = cl().clBuildProgram(loaded->program, 1, &about_.id, "", nullptr, nullptr);
    if (code == CL_SUCCESS) return true;
    binaries_.tell("kept kernels do not load, they are compiled anew: " + name_of(code));
    if (loaded->program != nullptr) cl().clReleaseProgram(loaded->program);
    loaded->program = nullptr;
    return false;
  }

  static std::string read_binary(cl_program program) {
    size_t size = 0;
    check(cl().clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr), "the compiled kernels");
    std::string binary(size, '\0');
    unsigned char* at = reinterpret_cast<unsigned char*>(&binary[0]);
    check(cl().clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof at, &at, nullptr), "the compiled kernels");
    return binary;
  }

  static cl_kernel find_kernel(Program* loaded, const std::string& name) {
    cl_kernel& kernel = loaded->kernels[name];
    if (kernel == nullptr) {
      cl_int code;
      kernel = cl().clCreateKernel(loaded->program, name.c_str(), &code);
      check(code, name);
    }
    return kernel;
  }

  Found about_{};
  cl_context context_ = nullptr;
  cl_command_queue queue_ = nullptr;
  Binaries binaries_;
  std::atomic<int> recording_{0};
  std::vector<cl_event> events_;
};

// wall: from an idle device to an idle device, with the gaps between kernels. events: the kernels alone.
class ClTimer : public tvm::runtime::TimerNode {
 public:
  void Start() final {
    if (ClDevice::get()->times_events()) {
      ClDevice::get()->start_recording();
    } else {
      ClDevice::get()->StreamSync(Device{kDLOpenCL, 0}, nullptr);
      start_ = std::chrono::steady_clock::now();
    }
  }

  void Stop() final {
    if (ClDevice::get()->times_events()) {
      elapsed_ns_ = ClDevice::get()->stop_recording();
    } else {
      ClDevice::get()->StreamSync(Device{kDLOpenCL, 0}, nullptr);
      elapsed_ns_ = std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count();
    }
  }

  int64_t SyncAndGetElapsedNanos() final { return elapsed_ns_; }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("dlas.OpenClTimer", ClTimer, tvm::runtime::TimerNode);

 private:
  std::chrono::steady_clock::time_point start_;
  int64_t elapsed_ns_ = 0;
};

TVM_FFI_STATIC_INIT_BLOCK() { register_back_end<ClDevice, ClTimer>(); }

}  // namespace
}  // namespace dlas
