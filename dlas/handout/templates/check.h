// What load.cc needs beside TVM: the numbers of an .npy file, and how far two outputs are from each other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <ios>
#include <vector>

namespace check {

// The last `count` numbers of a file of NumPy's: it is a header, and then the numbers.
inline std::vector<float> read(const char* path, size_t count) {
  std::vector<float> numbers(count);
  std::streamoff bytes = static_cast<std::streamoff>(count * sizeof(float));
  std::ifstream file;
  file.exceptions(std::ios::failbit | std::ios::badbit);
  file.open(path, std::ios::binary);
  file.seekg(-bytes, std::ios::end);
  file.read(reinterpret_cast<char*>(numbers.data()), bytes);
  return numbers;
}

// Prints the top class, and the largest difference over the largest number that is expected. Returns 0 where
// that is at most `allowed`, else 1.
inline int compare(const std::vector<float>& output, const std::vector<float>& expected, double allowed) {
  double error = 0, scale = 0;
  for (size_t i = 0; i < output.size(); ++i) {
    double difference = std::fabs(static_cast<double>(output[i]) - expected[i]);
    error = std::isfinite(difference) ? std::max(error, difference) : INFINITY;
    scale = std::max(scale, std::fabs(static_cast<double>(expected[i])));
  }
  std::ptrdiff_t top = std::max_element(output.begin(), output.end()) - output.begin();
  std::printf("class %td, error %.1e of the output's scale\n", top, error / scale);
  return error <= allowed * scale ? 0 : 1;
}

}  // namespace check
