// JSON text, written only. A string is a string of bytes: byte b is the character U+00b, so any
// contents make valid JSON and the host gets every byte back.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

namespace dlas {

inline std::string json(const std::string& bytes) {
  std::string out = "\"";
  for (unsigned char c : bytes) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c >= 0x20 && c < 0x7f) {
      out += static_cast<char>(c);
    } else {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    }
  }
  return out + '"';
}

inline std::string json(const char* text) { return json(std::string(text)); }
inline std::string json(bool value) { return value ? "true" : "false"; }

template <typename Integer, typename = std::enable_if_t<std::is_integral_v<Integer>>>
std::string json(Integer value) {
  return std::to_string(value);
}

inline std::string json(const std::vector<int64_t>& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) out += (i ? "," : "") + std::to_string(values[i]);
  return out + "]";
}

// A JSON object under construction; the order of the fields is that of the calls.
class JsonObject {
 public:
  template <typename Value>
  JsonObject& add(const std::string& key, const Value& value) {
    return add_text(key, json(value));
  }
  JsonObject& add(const std::string& key, const JsonObject& value) {
    return add_text(key, value.text());
  }
  std::string text() const { return "{" + fields_ + "}"; }
  size_t bytes() const { return fields_.size(); }

 private:
  JsonObject& add_text(const std::string& key, const std::string& value) {
    if (!fields_.empty()) fields_ += ',';
    fields_ += json(key) + ":" + value;
    return *this;
  }
  std::string fields_;
};

}  // namespace dlas
