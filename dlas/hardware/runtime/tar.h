// Reads the members of a ustar archive from a stream, one after another. Only regular files are let
// through: no folder and no link. Names are for the caller to judge.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "failure.h"
#include "io.h"

namespace dlas {

class TarReader {
 public:
  struct Member {
    std::string name;
    uint64_t bytes;
  };

  // first: the byte of the archive that has been read already.
  TarReader(int fd, char first) : fd_(fd), head_(1, first) {}

  // False at the end of the archive, which is two blocks of zeros.
  bool next(Member* member) {
    char block[kBlock];
    fill(block, kBlock);
    if (is_zero(block)) {
      fill(block, kBlock);
      if (!is_zero(block)) throw Failure("tar: one block of zeros inside the archive");
      return false;
    }
    check(block);
    std::string prefix(block + 345, strnlen(block + 345, 155));
    member->name = (prefix.empty() ? "" : prefix + "/") + std::string(block, strnlen(block, 100));
    member->bytes = left_ = octal(block + 124, 12);
    padding_ = (kBlock - left_ % kBlock) % kBlock;
    return true;
  }

  // The next bytes of the current member; `size` must not be more than it has left.
  void read(char* out, size_t size) {
    fill(out, size);
    left_ -= size;
    if (left_ == 0) {
      char padding[kBlock];
      fill(padding, padding_);
      padding_ = 0;
    }
  }

  std::string read_text() {
    std::string text(left_, '\0');
    read(&text[0], text.size());
    return text;
  }

  void copy_to(int fd) {
    std::string chunk(1 << 20, '\0');
    while (left_ > 0) {
      size_t size = std::min<uint64_t>(left_, chunk.size());
      read(&chunk[0], size);
      write_all(fd, chunk.data(), size);
    }
  }

 private:
  static constexpr size_t kBlock = 512;

  void fill(char* out, size_t size) {
    size_t known = head_.copy(out, size);
    head_.erase(0, known);
    if (read_up_to(fd_, out + known, size - known) != size - known) {
      throw Failure("tar: the archive ends early");
    }
  }

  static bool is_zero(const char* block) {
    return std::all_of(block, block + kBlock, [](char c) { return c == 0; });
  }

  static void check(const char* block) {
    uint64_t sum = 8 * ' ';  // the checksum's own field counts as blanks
    for (size_t i = 0; i < kBlock; ++i) {
      if (i < 148 || i >= 156) sum += static_cast<unsigned char>(block[i]);
    }
    if (std::memcmp(block + 257, "ustar\0" "00", 8) != 0 || octal(block + 148, 8) != sum) {
      throw Failure("tar: a header is not ustar, or damaged");
    }
    if (block[156] != '0') throw Failure("tar: a member is not a regular file");
  }

  static uint64_t octal(const char* field, size_t size) {
    uint64_t value = 0;
    size_t i = 0;
    for (; i < size && field[i] >= '0' && field[i] <= '7'; ++i) {
      value = value * 8 + static_cast<uint64_t>(field[i] - '0');
    }
    if (i == 0 || (i < size && field[i] != ' ' && field[i] != 0)) {
      throw Failure("tar: a number is not octal");
    }
    return value;
  }

  int fd_;
  std::string head_;
  uint64_t left_ = 0;
  size_t padding_ = 0;
};

}  // namespace dlas
