// SPDX-License-Identifier: Apache-2.0
// The spelling of every token of a vocabulary in the making: a merge that spells an old token gives that token.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/error.h"

namespace tk::bpe {

class TokenTexts {
 public:
  // Ids 0 .. tokens-1; where two are spelled alike, the lower one is meant. Without spellings (bytes null) every
  // merge is a new token.
  TokenTexts(const uint8_t* bytes, const int64_t* offsets, int64_t tokens) : size_(tokens), spelled_(bytes) {
    if (!spelled_) return;
    for (int64_t i = 0; i < tokens; ++i) {
      add({reinterpret_cast<const char*>(bytes) + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i])});
    }
  }

  int64_t size() const { return size_; }

  // These occur in words as they are: no merge may give one of them.
  void reserve_for_words(const std::vector<uint32_t>& symbols) {
    in_words_.resize(size_);
    for (const uint32_t id : symbols) in_words_[id] = true;
  }

  // The token spelled as these two together; size() grows if it is new.
  uint32_t join(uint32_t left, uint32_t right) {
    if (!spelled_) return static_cast<uint32_t>(size_++);
    std::string text = texts_[left] + texts_[right];
    const auto found = id_of_.find(text);
    if (found != id_of_.end()) {
      if (found->second < in_words_.size() && in_words_[found->second]) refuse(found->second);
      return found->second;
    }
    add(std::move(text));
    return static_cast<uint32_t>(size_++);
  }

 private:
  [[noreturn]] static void refuse(uint32_t id) {
    throw ValueError("train_merges: tokens must be spelled unlike any merge where they occur in pieces, got token " +
                     std::to_string(id));
  }

  void add(std::string text) {
    texts_.push_back(std::move(text));
    id_of_.emplace(texts_.back(), static_cast<uint32_t>(texts_.size() - 1));
  }

  std::deque<std::string> texts_;  // a deque never moves what views point at
  std::unordered_map<std::string_view, uint32_t> id_of_;
  std::vector<bool> in_words_;
  int64_t size_;
  bool spelled_;
};

}  // namespace tk::bpe
