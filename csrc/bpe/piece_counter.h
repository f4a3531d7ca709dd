// SPDX-License-Identifier: Apache-2.0
// How often each byte string was seen: flat hash tables, short strings in their slots, long ones in one piece of
// memory.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace tk::bpe {

class PieceCounter {
  static constexpr int64_t kMostShort = 15;

  // The bytes, zeros behind them, and the size in the last byte; no string is empty.
  struct Key {
    uint64_t low = 0, high = 0;
    bool operator==(const Key& other) const { return ((low ^ other.low) | (high ^ other.high)) == 0; }
  };

 public:
  PieceCounter() : short_(kLeast), long_(kLeast) {}

  // `readable`: bytes from the start of the piece on that may be read.
  void add(const uint8_t* piece, int64_t size, int64_t readable, int64_t count = 1) {
    if (size > kMostShort) return add_long({reinterpret_cast<const char*>(piece), static_cast<size_t>(size)}, count);
    const Key key = readable >= 16 ? key_in_place(piece, size) : key_of_copy(piece, size);
    add_short(key, mix(key.low, key.high), count);
  }

  // Adds pieces one by one; a short one some pieces later, when its slot has come into the cache, or by flush().
  class Queue {
   public:
    explicit Queue(PieceCounter* counter) : counter_(counter) {}
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;
    void flush() {
      for (size_t i = 0; i < kLength; ++i) push({});
    }

    void add(const uint8_t* piece, int64_t size, int64_t readable) {
      if (size > kMostShort) return counter_->add(piece, size, readable);
      push(readable >= 16 ? key_in_place(piece, size) : key_of_copy(piece, size));
    }

   private:
    static constexpr size_t kLength = 16;

    void push(const Key& key) {
      const Waiting oldest = waiting_[at_];
      const uint64_t hash = mix(key.low, key.high);
      waiting_[at_] = {key, hash};
      at_ = (at_ + 1) % kLength;
      __builtin_prefetch(&counter_->short_[hash & (counter_->short_.size() - 1)]);
      if (oldest.key.high) counter_->add_short(oldest.key, oldest.hash, 1);
    }

    struct Waiting {
      Key key;
      uint64_t hash = 0;
    };
    PieceCounter* counter_;
    Waiting waiting_[kLength];
    size_t at_ = 0;
  };

  int64_t size() const { return static_cast<int64_t>(short_used_ + long_used_); }

  // Calls visit(piece, count) for every string, in no order.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const Short& slot : short_) {
      if (slot.used()) visit(slot.view(), slot.count);
    }
    for (const Long& slot : long_) {
      if (slot.size) visit(view(slot), slot.count);
    }
  }

  void add(const PieceCounter& other) {
    for (const Short& slot : other.short_) {
      if (slot.used()) add_short(slot.key, mix(slot.key.low, slot.key.high), slot.count);
    }
    for (const Long& slot : other.long_) {
      if (slot.size) add_long(other.view(slot), slot.count);
    }
  }

 private:
  static constexpr size_t kLeast = 256;

  struct Short {
    Key key;
    int64_t count = 0;
    bool used() const { return key.high != 0; }
    std::string_view view() const { return {reinterpret_cast<const char*>(&key), key.high >> 56}; }
  };
  struct Long {
    uint64_t hash = 0;
    int64_t first = 0, size = 0;
    int64_t count = 0;
  };

  static Key key_in_place(const uint8_t* piece, int64_t size) {
    Key key;
    std::memcpy(&key, piece, sizeof key);
    const int spare = static_cast<int>(8 - size) * 8;  // bits of `low` behind the string
    if (spare >= 0) {
      key.low = spare < 64 ? key.low << spare >> spare : 0;
      key.high = 0;
    } else {
      key.high = key.high << (64 + spare) >> (64 + spare);
    }
    key.high |= static_cast<uint64_t>(size) << 56;
    return key;
  }

  static Key key_of_copy(const uint8_t* piece, int64_t size) {
    Key key;
    std::memcpy(&key, piece, static_cast<size_t>(size));
    key.high |= static_cast<uint64_t>(size) << 56;
    return key;
  }

  static uint64_t mix(uint64_t a, uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xD6E8FEB86659FD93u);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

  static uint64_t hash_of(std::string_view text) {
    uint64_t hash = text.size();
    while (text.size() > 16) {
      uint64_t part[2];
      std::memcpy(part, text.data(), 16);
      hash = mix(hash ^ part[0], part[1]);
      text.remove_prefix(16);
    }
    uint64_t part[2] = {};
    std::memcpy(part, text.data(), text.size());
    return mix(hash ^ part[0], part[1]);
  }

  void add_short(const Key& key, uint64_t hash, int64_t count) {
    const size_t mask = short_.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      Short& slot = short_[i];
      if (slot.key == key) {
        slot.count += count;
        return;
      }
      if (slot.used()) continue;
      slot = {key, count};
      if (++short_used_ * 2 > short_.size()) grow_short();
      return;
    }
  }

  void add_long(std::string_view text, int64_t count) {
    const uint64_t hash = hash_of(text);
    const size_t mask = long_.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      Long& slot = long_[i];
      if (slot.hash == hash && slot.size && view(slot) == text) {
        slot.count += count;
        return;
      }
      if (slot.size) continue;
      slot = {hash, static_cast<int64_t>(bytes_.size()), static_cast<int64_t>(text.size()), count};
      bytes_ += text;
      if (++long_used_ * 2 > long_.size()) grow_long();
      return;
    }
  }

  void grow_short() {
    std::vector<Short> old(short_.size() * 2);
    old.swap(short_);
    const size_t mask = short_.size() - 1;
    for (const Short& slot : old) {
      if (!slot.used()) continue;
      size_t i = mix(slot.key.low, slot.key.high) & mask;
      while (short_[i].used()) i = (i + 1) & mask;
      short_[i] = slot;
    }
  }

  void grow_long() {
    std::vector<Long> old(long_.size() * 2);
    old.swap(long_);
    const size_t mask = long_.size() - 1;
    for (const Long& slot : old) {
      if (!slot.size) continue;
      size_t i = slot.hash & mask;
      while (long_[i].size) i = (i + 1) & mask;
      long_[i] = slot;
    }
  }

  std::string_view view(const Long& slot) const { return {bytes_.data() + slot.first, static_cast<size_t>(slot.size)}; }

  std::vector<Short> short_;
  std::vector<Long> long_;
  std::string bytes_;  // of the long ones
  size_t short_used_ = 0, long_used_ = 0;
};

}  // namespace tk::bpe
