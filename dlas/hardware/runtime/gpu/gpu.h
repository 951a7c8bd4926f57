// What both drivers share: one device, chosen by its name, opened when it is first needed, and its registration.
#pragma once

#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/device_api.h>
#include <tvm/runtime/timer.h>

#include <mutex>
#include <string>

#include "module.h"
#include "workspace.h"

namespace dlas {

using tvm::Device;

// A driver says in find() how the device is opened, after which is_open(), and in enter() what each thread needs.
class Gpu : public tvm::runtime::DeviceAPI {
 public:
  explicit Gpu(std::string driver) : driver_(std::move(driver)) {}

  // The first device whose name has the text.
  void choose(const std::string& text) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (is_open()) TVM_FFI_THROW(RuntimeError) << "the " << driver_ << " device is chosen already";
    wanted_ = text;
  }

  // Who that is, and its driver.
  virtual std::string describe() = 0;

  void set_timer(const std::string& kind) {
    if (kind != "wall" && kind != "events") TVM_FFI_THROW(ValueError) << "there is no timer '" << kind << "'";
    std::lock_guard<std::mutex> guard(mutex_);
    if (is_open()) TVM_FFI_THROW(RuntimeError) << "the " << driver_ << " device is open, and its timer chosen";
    times_events_ = kind == "events";
  }

  bool times_events() const { return times_events_; }

  // Where compiled kernels are kept; of no use to a driver that gets them compiled.
  virtual void set_cache(const std::string&) {}

  int current() const { return 0; }

  void SetDevice(Device device) final { open(device.device_id); }

  void GetAttr(Device device, tvm::runtime::DeviceAttrKind kind, ffi::Any* result) final {
    if (kind == tvm::runtime::kExist) {
      *result = static_cast<int64_t>(exists(device.device_id));
      return;
    }
    open(device.device_id);
    tell(kind, result);
  }

  void* AllocWorkspace(Device device, size_t bytes, DLDataType hint) final {
    void* buffer = workspaces_.take(device.device_id, bytes);
    if (buffer == nullptr) workspaces_.add(buffer = AllocDataSpace(device, bytes, 64, hint), bytes);
    return buffer;
  }

  void FreeWorkspace(Device device, void* buffer) final { workspaces_.give_back(device.device_id, buffer); }

 protected:
  virtual bool is_open() const = 0;
  virtual void find(const std::string& wanted) = 0;
  virtual void enter() {}

  // What the open device has of an attribute; nothing where it does not tell.
  virtual void tell(tvm::runtime::DeviceAttrKind kind, ffi::Any* result) = 0;

  void open(int device = 0) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (device != 0) TVM_FFI_THROW(RuntimeError) << "there is one " << driver_ << " device here, number 0";
    if (!is_open()) find(wanted_);
    enter();
  }

  bool exists(int device) {
    try {
      open(device);
    } catch (const tvm::ffi::Error&) {
      return false;
    }
    return true;
  }

  // known: those that there are.
  [[noreturn]] void refuse(const std::string& wanted, const std::string& known) const {
    TVM_FFI_THROW(RuntimeError) << "there is no " << driver_ << " device "
                                << (known.empty() ? "at all" : "'" + wanted + "', there are " + known);
    throw;
  }

  std::mutex mutex_;

 private:
  std::string driver_;
  std::string wanted_;
  Workspaces workspaces_;
  bool times_events_ = false;
};

// Beside what TVM asks for, under dlas.<kind>: choose, describe, set_timer and set_cache of `Gpu`.
template <typename Driver, typename Timer>
void register_back_end() {
  std::string kind = Driver::kKind, own = "dlas." + kind + ".", api = "device_api." + kind;
  if (ffi::Function::GetGlobal(api).has_value()) return;  // a TVM that has it itself
  tvm::ffi::reflection::GlobalDef()
      .def_packed(api.c_str(),
                  [](ffi::PackedArgs, ffi::Any* result) {
                    *result = static_cast<void*>(static_cast<tvm::runtime::DeviceAPI*>(Driver::get()));
                  })
      .def(("ffi.Module.load_from_bytes." + kind).c_str(), load_kernels<Driver>)
      .def(("runtime.timer." + kind).c_str(),
           [](Device) { return tvm::runtime::Timer(ffi::make_object<Timer>()); })
      .def((own + "choose").c_str(), [](const ffi::String& text) { Driver::get()->choose(text); })
      .def((own + "describe").c_str(), []() { return ffi::String(Driver::get()->describe()); })
      .def((own + "set_timer").c_str(), [](const ffi::String& kind) { Driver::get()->set_timer(kind); })
      .def((own + "set_cache").c_str(), [](const ffi::String& folder) { Driver::get()->set_cache(folder); });
}

}  // namespace dlas
