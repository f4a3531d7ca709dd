// SPDX-License-Identifier: Apache-2.0
#include "bpe/vocab.h"

#include <algorithm>
#include <numeric>

#include "bpe/piece_cache.h"
#include "bpe/vocab_pairs.h"
#include "core/error.h"

namespace tk::bpe {
namespace {

// So that kernels may read whole words behind the last token.
constexpr size_t kSlack = 64;

// The first of two threads wins; both had the same table.
template <class T>
const T& publish(std::atomic<T*>& place, std::unique_ptr<T> made) {
  T* present = nullptr;
  if (place.compare_exchange_strong(present, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *present;
}

}  // namespace

std::vector<uint8_t> present_bytes(const VocabView& v, const uint8_t* text, const uint8_t* p, int64_t n) {
  std::vector<uint8_t> present;
  present.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    if (v.byte_token[p[i]] != kNoToken) {
      present.push_back(p[i]);
    } else if (!v.drop_missing) {
      throw ValueError("encode: text must be made of bytes that are tokens, got byte " + std::to_string(p[i]) +
                       " at position " + std::to_string(p - text + i));
    }
  }
  return present;
}

Vocab::Vocab(VocabSource source) : source_(std::move(source)) {
  view_.owner = this;
  view_.size = static_cast<int32_t>(source_.ids.size());
  view_.whole_piece = source_.whole_piece;
  view_.drop_missing = source_.drop_missing;
  sort_by_id();
  source_.bytes.resize(source_.offsets.back() + kSlack);
  view_.bytes = source_.bytes.data();
  view_.offsets = source_.offsets.data();
  view_.ids = source_.ids.data();
  for (int32_t i = 0; i < view_.size; ++i) ids_are_indices_ = ids_are_indices_ && source_.ids[i] == i;
  index_pieces();
  if (!source_.ranked) merges_ = checked_merges();
  pairs_ = index_pairs(view_, merges_, source_.ranked);
  history_.store(pairs_.history.release());
  view_.packed_pairs = pairs_.packed.empty() ? nullptr : pairs_.packed.data();
  view_.pair_filter = pairs_.filter.data();
  view_.pairs = pairs_.slots.data();
  view_.pair_shift = pairs_.shift;
  view_.byte_pairs = pairs_.of_bytes.data();
  view_.orders = source_.ranked || !view_.packed_pairs ? nullptr : history_.load()->order.data();
  view_.packs_ranks = std::max(source_.ids.size(), merges_.size() / 3) <= kMostPackedRanks;
}

Vocab::~Vocab() {
  delete history_.load();
  delete trie_.load();
  delete by_bytes_.load();
  delete next_prefix_.load();
  for (auto& cache : caches_) delete cache.load();
}

void Vocab::sort_by_id() {
  const std::vector<int32_t>& ids = source_.ids;
  std::vector<int32_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0);
  if (!std::is_sorted(ids.begin(), ids.end())) {
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return ids[a] < ids[b]; });
    VocabSource sorted;
    sorted.bytes.reserve(source_.bytes.size());
    sorted.offsets.push_back(0);
    for (const int32_t i : order) {
      sorted.bytes.insert(sorted.bytes.end(), source_.bytes.begin() + source_.offsets[i],
                          source_.bytes.begin() + source_.offsets[i + 1]);
      sorted.offsets.push_back(static_cast<uint32_t>(sorted.bytes.size()));
      sorted.ids.push_back(ids[i]);
    }
    source_.bytes = std::move(sorted.bytes);
    source_.offsets = std::move(sorted.offsets);
    source_.ids = std::move(sorted.ids);
  }
  for (size_t i = 1; i < source_.ids.size(); ++i) {
    if (source_.ids[i] == source_.ids[i - 1]) {
      throw ValueError("vocab: ids must be distinct, got " + std::to_string(source_.ids[i]) + " twice");
    }
  }
}

int32_t Vocab::token_of(int64_t id) const {
  if (ids_are_indices_) return id >= 0 && id < view_.size ? static_cast<int32_t>(id) : kNoToken;
  const auto at = std::lower_bound(source_.ids.begin(), source_.ids.end(), id);
  return at != source_.ids.end() && *at == id ? static_cast<int32_t>(at - source_.ids.begin()) : kNoToken;
}

std::string Vocab::quoted(int32_t token) const {
  std::string text = "b'";
  for (uint32_t i = source_.offsets[token]; i < source_.offsets[token + 1]; ++i) {
    const uint8_t byte = source_.bytes[i];
    static constexpr char kHex[] = "0123456789abcdef";
    if (byte >= 0x20 && byte < 0x7f && byte != '\'' && byte != '\\') {
      text += static_cast<char>(byte);
    } else {
      text += "\\x";
      text += kHex[byte >> 4];
      text += kHex[byte & 15];
    }
  }
  return text += "'";
}

void Vocab::index_pieces() {
  pieces_.assign(size_t{1} << log2_slots(source_.ids.size()), kEmptyPiece);
  view_.pieces = pieces_.data();
  view_.piece_mask = pieces_.size() - 1;
  std::fill(std::begin(view_.byte_token), std::end(view_.byte_token), kNoToken);
  for (int32_t token = 0; token < view_.size; ++token) {
    const uint8_t* p = view_.bytes + view_.offsets[token];
    const int64_t n = token_length(view_, token);
    view_.longest = std::max(view_.longest, static_cast<int32_t>(n));
    if (n == 0) {
      throw ValueError("vocab: tokens must have at least one byte, got an empty token for id " +
                       std::to_string(source_.ids[token]));
    }
    if (const int32_t twin = find_token(view_, p, n); twin != kNoToken) {
      throw ValueError("vocab: tokens must be distinct, got " + quoted(token) + " for ids " +
                       std::to_string(source_.ids[twin]) + " and " + std::to_string(source_.ids[token]));
    }
    const uint64_t hash = hash_bytes(p, n);
    uint64_t slot = hash & view_.piece_mask;
    while (pieces_[slot] != kEmptyPiece) slot = (slot + 1) & view_.piece_mask;
    pieces_[slot] = hash >> 32 << 32 | static_cast<uint32_t>(token);
    if (n == 1) view_.byte_token[*p] = token;
  }
  view_.complete =
      std::find(std::begin(view_.byte_token), std::end(view_.byte_token), kNoToken) == std::end(view_.byte_token);
}

// The list in tokens instead of ids.
std::vector<int32_t> Vocab::checked_merges() const {
  std::vector<int32_t> merges(source_.merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    merges[i] = token_of(source_.merges[i]);
    if (merges[i] != kNoToken) continue;
    static constexpr const char* kPlace[] = {"left", "right", "result"};
    throw ValueError("vocab: merges must name ids of tokens, got " + std::to_string(source_.merges[i]) + " as " +
                     kPlace[i % 3] + " of merge " + std::to_string(i / 3));
  }
  for (size_t i = 0; i < merges.size(); i += 3) {
    const int32_t left = merges[i], right = merges[i + 1], result = merges[i + 2];
    const uint32_t left_length = token_length(view_, left), right_length = token_length(view_, right);
    const uint8_t* whole = view_.bytes + view_.offsets[result];
    if (left_length + right_length == token_length(view_, result) &&
        std::equal(whole, whole + left_length, view_.bytes + view_.offsets[left]) &&
        std::equal(whole + left_length, whole + left_length + right_length, view_.bytes + view_.offsets[right])) {
      continue;
    }
    throw ValueError("vocab: merges must join the bytes of their tokens, got " + quoted(left) + " + " + quoted(right) +
                     " -> " + quoted(result) + " in merge " + std::to_string(i / 3));
  }
  return merges;
}

std::unique_ptr<PieceCache> Vocab::borrow_cache() const {
  for (auto& place : caches_) {
    if (PieceCache* cache = place.exchange(nullptr, std::memory_order_acquire))
      return std::unique_ptr<PieceCache>(cache);
  }
  return std::unique_ptr<PieceCache>(new PieceCache());
}

void Vocab::return_cache(std::unique_ptr<PieceCache> cache) const {
  for (auto& place : caches_) {
    PieceCache* none = nullptr;
    if (place.compare_exchange_strong(none, cache.get(), std::memory_order_release)) {
      static_cast<void>(cache.release());
      return;
    }
  }
}

const std::vector<int32_t>& Vocab::by_bytes() const {
  if (const auto* made = by_bytes_.load(std::memory_order_acquire)) return *made;
  auto order = std::make_unique<std::vector<int32_t>>(view_.size);
  std::iota(order->begin(), order->end(), 0);
  std::sort(order->begin(), order->end(), [this](int32_t a, int32_t b) {
    return std::lexicographical_compare(view_.bytes + view_.offsets[a], view_.bytes + view_.offsets[a + 1],
                                        view_.bytes + view_.offsets[b], view_.bytes + view_.offsets[b + 1]);
  });
  return publish(by_bytes_, std::move(order));
}

const History& Vocab::history() const {
  if (const auto* made = history_.load(std::memory_order_acquire)) return *made;
  return publish(history_, make_history(view_));
}

const HistoryView& history_of(const VocabView& v) { return v.owner->history().view; }

// ---- trie --------------------------------------------------------------------------------------------------------
int32_t TokenTrie::child(int32_t node, uint8_t byte) const {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(node)) << 8 | byte;
  for (uint64_t slot = key * kHashFactor >> shift;; slot = (slot + 1) & (slots.size() - 1)) {
    if (slots[slot].key == key) return slots[slot].child;
    if (slots[slot].key == ~uint64_t{0}) return -1;
  }
}

const TokenTrie& Vocab::trie() const {
  if (const auto* made = trie_.load(std::memory_order_acquire)) return *made;
  auto trie = std::make_unique<TokenTrie>();
  const History& h = history();
  const auto made_by_merging = [&](int32_t token) { return h.order[token] >= 0 || token_length(view_, token) == 1; };
  // Neighbours in the order of bytes share their longest common prefix: what is new are nodes.
  size_t nodes = 1;
  const std::vector<int32_t>& order = by_bytes();
  const auto walk = [&](auto&& add) {
    std::vector<int32_t> path{0};
    const uint8_t* previous = nullptr;
    int64_t previous_length = 0;
    for (const int32_t token : order) {
      if (!made_by_merging(token)) continue;
      const uint8_t* p = view_.bytes + view_.offsets[token];
      const int64_t n = token_length(view_, token);
      const int64_t shared = std::mismatch(p, p + std::min(n, previous_length), previous).first - p;
      path.resize(static_cast<size_t>(shared) + 1);
      for (int64_t i = shared; i < n; ++i) path.push_back(add(path.back(), p[i]));
      add.end(path.back(), token);
      previous = p, previous_length = n;
    }
  };
  struct Count {
    size_t* nodes;
    int32_t operator()(int32_t, uint8_t) { return static_cast<int32_t>((*nodes)++); }
    void end(int32_t, int32_t) {}
  };
  walk(Count{&nodes});
  const int bits = log2_slots(nodes);
  trie->slots.resize(size_t{1} << bits);
  trie->shift = 64 - bits;
  trie->token.assign(nodes, kNoToken);
  struct Add {
    TokenTrie* trie;
    int32_t next = 1;
    int32_t operator()(int32_t node, uint8_t byte) {
      const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(node)) << 8 | byte;
      uint64_t slot = key * kHashFactor >> trie->shift;
      while (trie->slots[slot].key != ~uint64_t{0}) slot = (slot + 1) & (trie->slots.size() - 1);
      trie->slots[slot] = {key, next};
      return next++;
    }
    void end(int32_t node, int32_t token) { trie->token[node] = token; }
  };
  walk(Add{trie.get()});
  return publish(trie_, std::move(trie));
}

const std::vector<int32_t>& Vocab::next_prefix() const {
  if (const auto* made = next_prefix_.load(std::memory_order_acquire)) return *made;
  const TokenTrie& trie = this->trie();
  auto prefix = std::make_unique<std::vector<int32_t>>(view_.size, kNoToken);
  for (int32_t token = 0; token < view_.size; ++token) {
    int32_t node = 0;
    for (uint32_t i = view_.offsets[token]; i + 1 < view_.offsets[token + 1]; ++i) {
      node = trie.child(node, view_.bytes[i]);
      if (node < 0) break;
      if (trie.token[node] != kNoToken) (*prefix)[token] = trie.token[node];
    }
  }
  return publish(next_prefix_, std::move(prefix));
}

}  // namespace tk::bpe
