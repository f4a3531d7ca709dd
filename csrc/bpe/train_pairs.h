// SPDX-License-Identifier: Apache-2.0
// Pairs of ids, and a flat hash table from a pair to what is known about it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tk::bpe {

using PairKey = uint64_t;  // left id above, right id below: in the order of pairs

constexpr PairKey kNoPair = ~PairKey{0};
constexpr PairKey pair_key(uint32_t left, uint32_t right) { return PairKey{left} << 32 | right; }
constexpr uint32_t left_of(PairKey key) { return static_cast<uint32_t>(key >> 32); }
constexpr uint32_t right_of(PairKey key) { return static_cast<uint32_t>(key); }

// Entry is a struct with a `PairKey key = kNoPair`.
template <class Entry>
class PairTable {
 public:
  PairTable() : entries_(kLeast) {}

  // Null for a pair that is not here.
  Entry* find(PairKey key) {
    for (size_t i = slot(key);; i = (i + 1) & (entries_.size() - 1)) {
      if (entries_[i].key == key) return &entries_[i];
      if (entries_[i].key == kNoPair) return nullptr;
    }
  }

  // Forgets entries before the table has to grow, if it has to for one more.
  template <class Keep>
  void make_room(Keep&& keep) {
    if (!full()) return;
    size_t kept = 0;
    for (const Entry& entry : entries_) kept += entry.key != kNoPair && keep(entry);
    move_to(kept * 3 > entries_.size() ? entries_.size() * 2 : entries_.size(), keep);
  }

  // The entry of this pair, a new one if need be: then others may move.
  Entry& operator[](PairKey key) {
    if (full()) move_to(entries_.size() * 2, [](const Entry&) { return true; });
    for (size_t i = slot(key);; i = (i + 1) & (entries_.size() - 1)) {
      if (entries_[i].key == key) return entries_[i];
      if (entries_[i].key != kNoPair) continue;
      ++used_;
      entries_[i].key = key;
      return entries_[i];
    }
  }

  void prefetch(PairKey key) const { __builtin_prefetch(&entries_[slot(key)]); }

  template <class Visit>
  void for_each(Visit&& visit) {
    for (Entry& entry : entries_) {
      if (entry.key != kNoPair) visit(entry);
    }
  }

 private:
  static constexpr size_t kLeast = 64;

  size_t slot(PairKey key) const {
    const uint64_t mixed = key * 0x9E3779B97F4A7C15u;
    return (mixed ^ mixed >> 32) & (entries_.size() - 1);
  }

  bool full() const { return (used_ + 1) * 3 > entries_.size() * 2; }

  template <class Keep>
  void move_to(size_t size, Keep&& keep) {
    std::vector<Entry> old(size);
    old.swap(entries_);
    used_ = 0;
    for (const Entry& entry : old) {
      if (entry.key == kNoPair || !keep(entry)) continue;
      size_t i = slot(entry.key);
      while (entries_[i].key != kNoPair) i = (i + 1) & (entries_.size() - 1);
      entries_[i] = entry;
      ++used_;
    }
  }

  std::vector<Entry> entries_;
  size_t used_ = 0;
};

}  // namespace tk::bpe
