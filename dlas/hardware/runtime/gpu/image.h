// Kernels as TVM's code generators write them into a library, and how each is launched.
//
//   str format | u64 count, count * (str key, str name, types, tags, extras) | str code
//
// A str is its u64 length and its bytes; types are a u64 and as many (u8 code, u8 bits, u16 lanes); tags a
// u64 and as many strs; extras a u64 and as many i32. All little-endian, as are the devices. The format has
// no version of its own: it is that of the one TVM that dlas is built for, and what does not fit is refused.
#pragma once

#include <tvm/ffi/error.h>
#include <tvm/ffi/string.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dlas {

struct Kernel {
  std::string name;
  std::vector<DLDataType> arguments;
  std::vector<std::string> tags;  // of the launch's extents, which follow the arguments in a call
};

// Reads what is there and nothing behind it.
class Cursor {
 public:
  Cursor(const char* data, size_t size) : at_(data), left_(size) {}

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  std::string text() {
    uint64_t size = number<uint64_t>();
    return std::string(take(size), size);
  }

  // How many elements follow, each of at least so many bytes: what a damaged count cannot make us allocate.
  uint64_t count(size_t least_bytes) {
    uint64_t found = number<uint64_t>();
    if (found > left_ / least_bytes) {
      TVM_FFI_THROW(ValueError) << "the kernels are damaged: " << found << " elements in " << left_ << " bytes";
    }
    return found;
  }

  bool at_end() const { return left_ == 0; }

 private:
  const char* take(uint64_t size) {
    if (size > left_) {
      TVM_FFI_THROW(ValueError) << "the kernels are damaged: " << size << " bytes where " << left_ << " are left";
    }
    const char* taken = at_;
    at_ += size;
    left_ -= size;
    return taken;
  }

  const char* at_;
  size_t left_;
};

struct Image {
  std::string format;  // cl or cuda
  std::string code;
  std::unordered_map<std::string, Kernel> kernels;
};

inline Kernel read_kernel(Cursor* cursor) {
  Kernel kernel;
  kernel.name = cursor->text();
  for (uint64_t left = cursor->count(4); left > 0; --left) {
    DLDataType type;
    type.code = cursor->number<uint8_t>();
    type.bits = cursor->number<uint8_t>();
    type.lanes = cursor->number<uint16_t>();
    kernel.arguments.push_back(type);
  }
  for (uint64_t left = cursor->count(8); left > 0; --left) kernel.tags.push_back(cursor->text());
  for (uint64_t left = cursor->count(4); left > 0; --left) {
    if (cursor->number<int32_t>() != 0) {
      TVM_FFI_THROW(ValueError) << "kernel " << kernel.name << " takes tensor maps, which no device here has";
    }
  }
  return kernel;
}

inline Image read_image(const tvm::ffi::Bytes& bytes) {
  Cursor cursor(bytes.data(), bytes.size());
  Image image;
  image.format = cursor.text();
  for (uint64_t left = cursor.count(8); left > 0; --left) {
    std::string key = cursor.text();
    Kernel kernel = read_kernel(&cursor);
    if (kernel.name.empty()) kernel.name = key;
    image.kernels.emplace(std::move(key), std::move(kernel));
  }
  image.code = cursor.text();
  if (!cursor.at_end()) TVM_FFI_THROW(ValueError) << "the kernels are damaged: something follows their code";
  return image;
}

}  // namespace dlas
