// SPDX-License-Identifier: Apache-2.0
// Numbers pairs of ids in the order in which they are first seen: a hash table with linear steps.
#pragma once
#include <cstdint>
#include <vector>

namespace tk::bpe {

class PairIndex {
 public:
  // The number of a pair; a new one gets the next.
  int32_t find_or_add(int32_t left, int32_t right) {
    if (2 * keys_.size() >= slots_.size()) grow();
    const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    int32_t& slot = slots_[place(key)];
    if (slot < 0) {
      slot = static_cast<int32_t>(keys_.size());
      keys_.push_back(key);
    }
    return slot;
  }

 private:
  size_t place(uint64_t key) const {
    size_t i = (key * 0x9E3779B97F4A7C15u) >> shift_;
    while (slots_[i] >= 0 && keys_[slots_[i]] != key) i = (i + 1) & (slots_.size() - 1);
    return i;
  }

  void grow() {
    --shift_;
    slots_.assign(size_t{1} << (64 - shift_), -1);
    for (size_t i = 0; i < keys_.size(); ++i) slots_[place(keys_[i])] = static_cast<int32_t>(i);
  }

  std::vector<uint64_t> keys_;
  std::vector<int32_t> slots_;
  int shift_ = 60;
};

}  // namespace tk::bpe
