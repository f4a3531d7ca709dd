// SPDX-License-Identifier: Apache-2.0
// A list of byte strings in one piece of memory.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tk::bpe {

struct Patterns {
  std::string bytes;
  std::vector<int64_t> offsets{0};  // of every string, and one past the last

  int64_t size() const { return static_cast<int64_t>(offsets.size()) - 1; }
  std::string_view operator[](int64_t i) const {
    return {bytes.data() + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i])};
  }
  void add(std::string_view text) {
    bytes += text;
    offsets.push_back(static_cast<int64_t>(bytes.size()));
  }
};

// Strings by number, in ascending order of their bytes; the number decides among equals.
std::vector<int32_t> sorted_by_bytes(const Patterns& patterns);

}  // namespace tk::bpe
