// What the back ends of GPUs make of bytes, to be asked by tests.
//
//   gpu_reader images             on stdin a u64 size and as many bytes, again and again
//   gpu_reader launches           on stdin lines of types|tags|values, each a list with spaces
//
// One line on stdout for each: what was read, or the error. Behind an image is how many bytes were allocated for it.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include "image.h"
#include "launch.h"

static uint64_t allocated_bytes = 0;

void* operator new(size_t bytes) {
  allocated_bytes += bytes;
  void* memory = std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

std::string describe(const dlas::Image& image) {
  std::ostringstream text;
  text << image.format << " " << image.code.size();
  for (const auto& [key, kernel] : image.kernels) {
    text << " " << kernel.name << "(";
    for (DLDataType type : kernel.arguments) text << tvm::ffi::DLDataTypeToString(type) << ",";
    text << ")";
    for (const std::string& tag : kernel.tags) text << tag << ",";
  }
  return text.str();
}

void read_images() {
  uint64_t size;
  while (std::cin.read(reinterpret_cast<char*>(&size), sizeof size)) {
    std::string data(size, '\0');
    std::cin.read(&data[0], static_cast<std::streamsize>(size));
    tvm::ffi::Bytes bytes(data.data(), data.size());
    std::string said;
    uint64_t before_bytes = allocated_bytes, parsed_bytes;
    try {
      dlas::Image image = dlas::read_image(bytes);
      parsed_bytes = allocated_bytes - before_bytes;
      said = describe(image);
    } catch (const tvm::ffi::Error& error) {
      parsed_bytes = allocated_bytes - before_bytes;
      said = "error: " + error.message();
    }
    for (char& c : said) c = c == '\n' ? ' ' : c;
    std::cout << said << " " << parsed_bytes << "\n";
  }
}

std::vector<std::string> words(std::istream& line) {
  std::string part, word;
  std::getline(line, part, '|');
  std::istringstream text(part);
  std::vector<std::string> found;
  while (text >> word) found.push_back(word);
  return found;
}

// A number with a point is a float, one with an @ a handle.
TVMFFIAny value_of(const std::string& word) {
  TVMFFIAny value{};
  if (word[0] == '@') {
    value.type_index = kTVMFFIOpaquePtr;
    value.v_ptr = reinterpret_cast<void*>(std::stoull(word.substr(1), nullptr, 16));
  } else if (word.find('.') != std::string::npos) {
    value.type_index = kTVMFFIFloat;
    value.v_float64 = std::stod(word);
  } else {
    value.type_index = kTVMFFIInt;
    value.v_int64 = std::stoll(word);
  }
  return value;
}

std::string launch(std::istream& line) {
  dlas::Kernel kernel{"k", {}, {}};
  for (const std::string& type : words(line)) kernel.arguments.push_back(tvm::ffi::StringToDLDataType(type));
  kernel.tags = words(line);
  std::vector<TVMFFIAny> call;
  for (const std::string& word : words(line)) call.push_back(value_of(word));
  dlas::Launch launch(kernel);
  dlas::Extents extents = launch.extents(call.data(), call.size());
  std::ostringstream text;
  text << extents.text() << ", " << extents.shared_bytes << " bytes:";
  for (const dlas::Argument& argument : launch.arguments(call.data())) {
    text << " ";
    for (size_t i = 0; i < argument.size; ++i) {
      char digits[3];
      std::snprintf(digits, sizeof digits, "%02x", argument.bytes[i]);
      text << digits;
    }
  }
  return text.str();
}

void read_launches() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream text(line);
    try {
      std::cout << launch(text) << "\n";
    } catch (const tvm::ffi::Error& error) {
      std::cout << "error: " << error.message() << "\n";
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string verb = argc == 2 ? argv[1] : "";
  if (verb == "images") {
    read_images();
  } else if (verb == "launches") {
    read_launches();
  } else {
    return 2;
  }
  return 0;
}
