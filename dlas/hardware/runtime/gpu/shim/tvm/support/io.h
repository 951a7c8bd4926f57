// The wheel's tvm/runtime/tensor.h includes this header, which the wheel has not. Tensor's inline Save and Load
// need these declarations, and nothing here calls those.
#pragma once

#include <cstddef>

namespace tvm {
namespace support {

class Stream {
 public:
  virtual ~Stream() = default;
  virtual size_t Read(void* data, size_t bytes) = 0;
  virtual size_t Write(const void* data, size_t bytes) = 0;
  template <typename T>
  void Write(const T& value);  // not defined: linking a use of it fails
  template <typename T>
  bool Read(T* value);
  template <typename T>
  void WriteArray(const T* values, size_t count);
  template <typename T>
  bool ReadArray(T* values, size_t count);
};

}  // namespace support
}  // namespace tvm
