// What a call of a kernel says: its arguments as the device's compiler laid them out, and its extents.
#pragma once

#include <tvm/ffi/c_api.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "image.h"

namespace dlas {

struct Extents {
  size_t grid[3] = {1, 1, 1};
  size_t block[3] = {1, 1, 1};
  size_t shared_bytes = 0;  // beside those that the kernel declares

  std::string text() const {
    auto join = [](const size_t* n) {
      return std::to_string(n[0]) + "x" + std::to_string(n[1]) + "x" + std::to_string(n[2]);
    };
    return join(grid) + " groups of " + join(block) + " threads";
  }
};

// One argument as the kernel takes it: a handle, or a number in its own width.
struct Argument {
  unsigned char bytes[8];
  size_t size;
};

// How the calls of one kernel are read; made once.
class Launch {
 public:
  explicit Launch(const Kernel& kernel) : name_(kernel.name), types_(kernel.arguments) {
    for (const std::string& tag : kernel.tags) slots_.push_back(find_slot(tag));
  }

  const std::string& name() const { return name_; }

  Extents extents(const TVMFFIAny* call, size_t count) const {
    if (count != types_.size() + slots_.size()) {
      TVM_FFI_THROW(TypeError) << name_ << " is called with " << count << " values, it takes "
                               << types_.size() + slots_.size();
    }
    Extents found;
    for (size_t i = 0; i < slots_.size(); ++i) {
      int64_t value = call[types_.size() + i].v_int64;
      if (value < 0 || value > kMostThreads) TVM_FFI_THROW(ValueError) << name_ << ": an extent of " << value;
      if (slots_[i] == kShared) {
        found.shared_bytes = static_cast<size_t>(value);
      } else if (value > 0) {
        (slots_[i] < 3 ? found.grid[slots_[i]] : found.block[slots_[i] - 3]) = static_cast<size_t>(value);
      }
    }
    return found;
  }

  std::vector<Argument> arguments(const TVMFFIAny* call) const {
    std::vector<Argument> found(types_.size());
    for (size_t i = 0; i < types_.size(); ++i) found[i] = narrow(call[i], types_[i]);
    return found;
  }

 private:
  static constexpr int kShared = 6;  // after the three extents of the grid and those of a block
  static constexpr int64_t kMostThreads = int64_t{1} << 31;

  int find_slot(const std::string& tag) const {
    for (int axis = 0; axis < 3; ++axis) {
      std::string letter(1, static_cast<char>('x' + axis));
      if (tag == "blockIdx." + letter) return axis;
      if (tag == "threadIdx." + letter) return 3 + axis;
    }
    if (tag == "tirx.use_dyn_shared_memory") return kShared;
    TVM_FFI_THROW(ValueError) << name_ << " is launched by " << tag << ", which no device here has";
    return 0;
  }

  Argument narrow(const TVMFFIAny& value, DLDataType type) const {
    Argument found{};
    if (type.lanes == 1 && type.code == kDLOpaqueHandle) return put(value.v_ptr);
    if (type.lanes == 1 && type.code == kDLFloat && (type.bits == 32 || type.bits == 64)) {
      double number = value.type_index == kTVMFFIFloat ? value.v_float64 : static_cast<double>(value.v_int64);
      return type.bits == 64 ? put(number) : put(static_cast<float>(number));
    }
    bool is_integer = type.code == kDLInt || type.code == kDLUInt || type.code == kDLBool;
    if (type.lanes != 1 || !is_integer || type.bits > 64) {
      TVM_FFI_THROW(TypeError) << name_ << " takes a " << tvm::ffi::DLDataTypeToString(type)
                               << ", which cannot be given";
    }
    found = put(value.v_int64);  // little-endian: its first bytes are the narrower number
    found.size = type.bits < 8 ? 1 : type.bits / 8;
    return found;
  }

  template <typename T>
  static Argument put(T value) {
    Argument found{};
    found.size = sizeof value;
    std::memcpy(found.bytes, &value, sizeof value);
    return found;
  }

  std::string name_;
  std::vector<DLDataType> types_;
  std::vector<int> slots_;
};

}  // namespace dlas
