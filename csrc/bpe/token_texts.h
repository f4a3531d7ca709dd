// SPDX-License-Identifier: Apache-2.0
// The spelling of every token of a vocabulary in the making: a merge that spells an old token gives that token.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/train_words.h"
#include "core/error.h"

namespace tk::bpe {

class TokenTexts {
 public:
  // Ids 0 .. tokens-1; where two are spelled alike, the lower one is meant. Without spellings (bytes null) every
  // merge is a new token.
  TokenTexts(const uint8_t* bytes, const int64_t* offsets, int64_t tokens) : size_(tokens), spelled_(bytes) {
    if (!spelled_) return;
    bytes_.assign(reinterpret_cast<const char*>(bytes), static_cast<size_t>(offsets[tokens]));
    for (int64_t id = 0; id < tokens; ++id) {
      ends_.push_back(static_cast<size_t>(offsets[id + 1]));
      if (uint32_t* slot = free_slot(text(static_cast<uint32_t>(id)))) *slot = static_cast<uint32_t>(id);
      grow();
    }
  }

  int64_t size() const { return size_; }

  // These occur in words as they are: no merge may give one of them.
  void reserve_for_words(const Words& words) {
    in_words_.resize(size_);
    for (int64_t w = 0; w < words.words; ++w) {
      words.for_each_symbol(w, [&](uint32_t symbol) { in_words_[symbol] = true; });
    }
  }

  // The token spelled as these two together; size() grows if it is new.
  uint32_t join(uint32_t left, uint32_t right) {
    const auto fresh = static_cast<uint32_t>(size_);
    if (spelled_) {
      const size_t before = bytes_.size();
      bytes_.append(bytes_, begin(left), ends_[left] - begin(left));
      bytes_.append(bytes_, begin(right), ends_[right] - begin(right));
      uint32_t* slot = free_slot(std::string_view(bytes_).substr(before));
      if (!slot) {
        bytes_.resize(before);
        return known(found_);
      }
      *slot = fresh;
      ends_.push_back(bytes_.size());
    }
    ++size_;
    grow();
    return fresh;
  }

 private:
  static constexpr uint32_t kFree = ~uint32_t{0};

  uint32_t known(uint32_t id) const {
    if (id >= in_words_.size() || !in_words_[id]) return id;
    throw ValueError("train_merges: tokens must be spelled unlike any merge where they occur in pieces, got token " +
                     std::to_string(id));
  }

  size_t begin(uint32_t id) const { return id == 0 ? 0 : ends_[id - 1]; }
  std::string_view text(uint32_t id) const { return std::string_view(bytes_).substr(begin(id), ends_[id] - begin(id)); }

  // Where the id of a token of this spelling belongs; null, and its id in found_, if there is one.
  uint32_t* free_slot(std::string_view spelling) {
    for (size_t i = std::hash<std::string_view>()(spelling);; ++i) {
      uint32_t& slot = table_[i & (table_.size() - 1)];
      if (slot == kFree) return &slot;
      if (text(slot) != spelling) continue;
      found_ = slot;
      return nullptr;
    }
  }

  void grow() {
    if (ends_.size() * 4 < table_.size()) return;
    std::vector<uint32_t> old(table_.size() * 4, kFree);
    old.swap(table_);
    for (const uint32_t id : old) {
      if (id != kFree) *free_slot(text(id)) = id;
    }
  }

  std::string bytes_;  // all spellings, in the order of ids
  std::vector<size_t> ends_;
  std::vector<uint32_t> table_ = std::vector<uint32_t>(64, kFree);  // ids by the hash of their spelling
  std::vector<bool> in_words_;
  int64_t size_;
  uint32_t found_ = kFree;
  bool spelled_;
};

}  // namespace tk::bpe
