// The kernels of one library as a module of TVM's, on any device with this driver.
#pragma once

#include <tvm/ffi/cast.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/runtime/base.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "image.h"
#include "launch.h"

namespace dlas {

namespace ffi = tvm::ffi;

// What a loader looks for before it loads this: TVM's classes are laid out anew in each of its releases.
extern "C" __attribute__((visibility("default"), used)) const char dlas_back_end[] = "dlas back end for TVM " TVM_VERSION;

// Driver is a DeviceAPI with: kKind, the name of the module in TVM; get(), the only one; current(), the
// device of this thread; load(device, image), a unique_ptr to the kernels on a device; and
// launch(loaded, device, launch, arguments, extents).
template <typename Driver>
class Kernels : public ffi::ModuleObj {
 public:
  explicit Kernels(ffi::Bytes bytes) : bytes_(std::move(bytes)), image_(read_image(bytes_)) {}

  const char* kind() const final { return Driver::kKind; }

  int GetPropertyMask() const final { return ffi::Module::kBinarySerializable | ffi::Module::kRunnable; }

  ffi::Bytes SaveToBytes() const final { return bytes_; }

  ffi::String InspectSource(const ffi::String& format) const final {
    return format.empty() || format == image_.format ? ffi::String(image_.code) : ffi::String();
  }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    auto found = image_.kernels.find(name);
    if (found == image_.kernels.end()) return std::nullopt;
    auto launch = std::make_shared<Launch>(found->second);
    ffi::ObjectPtr<ffi::Object> keep = ffi::GetObjectPtr<ffi::Object>(this);
    return ffi::Function::FromPacked([this, keep, launch](ffi::PackedArgs args, ffi::Any*) {
      const TVMFFIAny* call = reinterpret_cast<const TVMFFIAny*>(args.data());
      Extents extents = launch->extents(call, static_cast<size_t>(args.size()));
      int device = Driver::get()->current();
      Driver::get()->launch(loaded(device), device, *launch, launch->arguments(call), extents);
    });
  }

 private:
  typename Driver::Loaded* loaded(int device) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto& slot = loaded_[device];
    if (slot == nullptr) slot = Driver::get()->load(device, image_);
    return slot.get();
  }

  ffi::Bytes bytes_;
  Image image_;
  std::mutex mutex_;
  std::map<int, std::unique_ptr<typename Driver::Loaded>> loaded_;
};

template <typename Driver>
ffi::Module load_kernels(const ffi::Bytes& bytes) {
  return ffi::Module(ffi::make_object<Kernels<Driver>>(bytes));
}

}  // namespace dlas
