// Compiled kernels in files: to compile them takes seconds, on a board a minute.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <string>

namespace dlas {

// A file has its whole key in front, device, driver and source: what it is named by need not tell two apart.
// What cannot be read or written is said on stderr and costs a compilation, no more.
class Binaries {
 public:
  Binaries() = default;
  explicit Binaries(std::string folder) : folder_(std::move(folder)) {}

  bool is_on() const { return !folder_.empty(); }

  // What was kept for a key; empty where nothing was. A driver may crash on what is damaged, and gets none of it.
  std::string read(const std::string& key) const {
    if (!is_on()) return "";
    std::ifstream file(path(key), std::ios::binary);
    if (!file.is_open()) return "";
    std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    size_t start = seal(key, "").size();
    std::string binary = data.size() < start ? "" : data.substr(start);
    if (data == seal(key, binary)) return binary;
    tell(path(key) + " is not whole, its kernels are compiled anew");
    return "";
  }

  void write(const std::string& key, const std::string& binary) const {
    mkdir(folder_.c_str(), 0777);  // mostly it is there
    std::string name = path(key), unfinished = name + "." + std::to_string(getpid());
    std::ofstream file(unfinished, std::ios::binary);
    file << seal(key, binary);
    file.close();
    if (file.good() && std::rename(unfinished.c_str(), name.c_str()) == 0) return;
    std::remove(unfinished.c_str());
    tell("compiled kernels cannot be kept in " + folder_);
  }

  static void tell(const std::string& what) { std::cerr << "opencl: " << what << std::endl; }

 private:
  // A file: a checksum of all that follows, the key's size and the key, and the binary.
  static std::string seal(const std::string& key, const std::string& binary) {
    std::string sealed = std::to_string(key.size()) + "\n" + key + binary;
    uint64_t sum = fnv1a(sealed);
    return std::string(reinterpret_cast<const char*>(&sum), sizeof sum) + sealed;
  }

  static uint64_t fnv1a(const std::string& text) {
    uint64_t hash = 14695981039346656037u;
    for (unsigned char byte : text) hash = (hash ^ byte) * 1099511628211u;
    return hash;
  }

  std::string path(const std::string& key) const {
    return folder_ + "/" + std::to_string(std::hash<std::string>()(key)) + ".bin";
  }

  std::string folder_;
};

}  // namespace dlas
