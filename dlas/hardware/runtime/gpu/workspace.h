// Temporary buffers that are used again. With one queue for each device that is safe: what is given back is
// next touched by commands that are queued behind those that still use it.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace dlas {

class Workspaces {
 public:
  // A buffer of at least so many bytes, and not much more; nullptr where there is none.
  void* take(int device, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto& free = free_[device];
    auto found = free.lower_bound(bytes);
    if (found == free.end() || found->first > 2 * bytes + kSlackBytes) return nullptr;
    void* buffer = found->second;
    taken_[buffer] = found->first;
    free.erase(found);
    return buffer;
  }

  // A buffer that was made because none was there.
  void add(void* buffer, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    taken_[buffer] = bytes;
  }

  void give_back(int device, void* buffer) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto found = taken_.find(buffer);
    free_[device].emplace(found->second, buffer);
    taken_.erase(found);
  }

 private:
  static constexpr size_t kSlackBytes = 4096;

  std::mutex mutex_;
  std::map<int, std::multimap<size_t, void*>> free_;
  std::unordered_map<void*, size_t> taken_;  // with their bytes
};

}  // namespace dlas
