// SPDX-License-Identifier: Apache-2.0
#include "bpe/merge.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <queue>
#include <utility>
#include <vector>

#include "bpe/vocab.h"

namespace tk::bpe {
namespace {

// The bytes of a piece as tokens in a linked list, and the merge each of them would do with its right neighbour.
class Chain {
 public:
  Chain(const VocabView& v, const uint8_t* p, int64_t n) : v_(v), links_(static_cast<size_t>(n)) {
    for (int64_t i = 0; i < n; ++i) links_[i] = {v.byte_token[p[i]], i - 1, i + 1, {kNoRank, kNoToken}};
    for (int64_t i = 0; i + 1 < n; ++i) links_[i].merge = find_pair(v, links_[i].token, links_[i + 1].token);
  }

  int64_t size() const { return static_cast<int64_t>(links_.size()); }
  int32_t rank(int64_t i) const { return links_[i].merge.rank; }
  int64_t left_of(int64_t i) const { return links_[i].left; }

  // Puts the merged token in place i; the place to its right is gone.
  void merge(int64_t i) {
    Link& link = links_[i];
    Link& gone = links_[link.right];
    link.token = link.merge.result;
    link.right = gone.right;
    gone.merge.rank = kNoRank;
    if (link.right < size()) links_[link.right].left = i;
    refresh(i);
    if (link.left >= 0) refresh(link.left);
  }

  int64_t write(int32_t* out) const {
    int64_t count = 0;
    for (int64_t i = 0; i < size(); i = links_[i].right) out[count++] = links_[i].token;
    return count;
  }

 private:
  struct Link {
    int32_t token;
    int64_t left, right;
    PairMerge merge;
  };

  void refresh(int64_t i) {
    Link& link = links_[i];
    link.merge =
        link.right < size() ? find_pair(v_, link.token, links_[link.right].token) : PairMerge{kNoRank, kNoToken};
  }

  const VocabView& v_;
  std::vector<Link> links_;
};

// Merges until nothing does, or until `go_on(rank)` says no before a merge: then false.
template <class GoOn>
bool merge_by_heap(Chain& chain, GoOn&& go_on) {
  using Entry = std::pair<int32_t, int64_t>;  // rank, place
  std::vector<Entry> entries;
  for (int64_t i = 0; i < chain.size(); ++i) {
    if (chain.rank(i) != kNoRank) entries.emplace_back(chain.rank(i), i);
  }
  std::priority_queue heap(std::greater<Entry>(), std::move(entries));
  const auto offer = [&](int64_t i) {
    if (i >= 0 && chain.rank(i) != kNoRank) heap.emplace(chain.rank(i), i);
  };
  while (!heap.empty()) {
    const auto [rank, i] = heap.top();
    heap.pop();
    if (chain.rank(i) != rank) continue;  // made before a neighbour merged
    if (!go_on(rank)) return false;
    chain.merge(i);
    offer(i);
    offer(chain.left_of(i));
  }
  return true;
}

// The longest token at a position; its shorter rivals follow by next_prefix.
int32_t longest_match(const TokenTrie& trie, const uint8_t* p, const uint8_t* end) {
  int32_t found = kNoToken;
  for (int32_t node = 0; p < end; ++p) {
    node = trie.child(node, *p);
    if (node < 0) break;
    if (trie.token[node] != kNoToken) found = trie.token[node];
  }
  return found;
}

}  // namespace

int64_t merge_scan(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out) {
  Chain chain(v, p, n);
  for (;;) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; ++i) {
      if (chain.rank(i) < (best < 0 ? kNoRank : chain.rank(best))) best = i;
    }
    if (best < 0) return chain.write(out);
    chain.merge(best);
  }
}

int64_t merge_heap(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out) {
  Chain chain(v, p, n);
  merge_by_heap(chain, [](int32_t) { return true; });
  return chain.write(out);
}

bool merges_ascend(const VocabView& v, const uint8_t* p, int64_t n) {
  std::vector<uint8_t> present;
  std::copy_if(p, p + n, std::back_inserter(present), [&](uint8_t byte) { return v.byte_token[byte] != kNoToken; });
  Chain chain(v, present.data(), static_cast<int64_t>(present.size()));
  int32_t last = -1;
  return merge_by_heap(chain, [&](int32_t rank) {
    const bool ascends = rank >= last;
    last = rank;
    return ascends;
  });
}

int32_t longest_token(const VocabView& v, const uint8_t* p, int64_t n) {
  return longest_match(v.owner->trie(), p, p + n);
}

int64_t merge_backtrack(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out) {
  const HistoryView& h = history_of(v);
  if (!h.ascending) return merge_heap(v, p, n, out);
  const TokenTrie& trie = v.owner->trie();
  const std::vector<int32_t>& next_prefix = v.owner->next_prefix();
  std::vector<bool> dead(static_cast<size_t>(n) + 1, false);  // ends from which no continuation worked
  int64_t at = 0, count = 0;
  int32_t candidate = n ? longest_match(trie, p, p + n) : kNoToken;
  while (at < n) {
    if (candidate == kNoToken) {
      dead[at] = true;
      candidate = out[--count];
      at -= token_length(v, candidate);
      candidate = next_prefix[candidate];
      continue;
    }
    const int64_t end = at + token_length(v, candidate);
    if (!dead[end] && (count == 0 || pair_is_stable(v, h, out[count - 1], candidate))) {
      out[count++] = candidate;
      at = end;
      candidate = longest_match(trie, p + at, p + n);
    } else {
      candidate = next_prefix[candidate];
    }
  }
  return count;
}

void prefix_tokens(const VocabView& v, const uint8_t* p, int64_t n, int32_t* last) {
  last[0] = kNoToken;
  const HistoryView& h = history_of(v);
  if (!h.ascending) {
    std::vector<int32_t> tokens(static_cast<size_t>(n));
    for (int64_t k = 1; k <= n; ++k) last[k] = tokens[merge_heap(v, p, k, tokens.data()) - 1];
    return;
  }
  const TokenTrie& trie = v.owner->trie();
  for (int64_t k = 1; k <= n; ++k) last[k] = kNoToken;
  for (int64_t start = 0; start < n; ++start) {
    int32_t node = 0;
    for (int64_t end = start; end < n; ++end) {
      node = trie.child(node, p[end]);
      if (node < 0) break;
      const int32_t token = trie.token[node];
      if (token == kNoToken || last[end + 1] != kNoToken) continue;
      if (start == 0 || pair_is_stable(v, h, last[start], token)) last[end + 1] = token;
    }
  }
}

int64_t merge_table(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out) {
  if (!history_of(v).ascending) return merge_heap(v, p, n, out);
  std::vector<int32_t> last(static_cast<size_t>(n) + 1);
  prefix_tokens(v, p, n, last.data());
  int64_t count = 0;
  for (int64_t at = n; at > 0; at -= token_length(v, last[at])) out[count++] = last[at];
  for (int64_t i = 0, j = count - 1; i < j; ++i, --j) {
    const int32_t first = out[i];
    out[i] = out[j];
    out[j] = first;
  }
  return count;
}

bool is_valid_pair(const VocabView& v, int32_t left, int32_t right) {
  const uint32_t left_length = token_length(v, left), right_length = token_length(v, right);
  std::vector<uint8_t> bytes(v.bytes + v.offsets[left], v.bytes + v.offsets[left] + left_length);
  bytes.insert(bytes.end(), v.bytes + v.offsets[right], v.bytes + v.offsets[right] + right_length);
  const auto n = static_cast<int64_t>(bytes.size());
  if (v.whole_piece && find_token(v, bytes.data(), n) != kNoToken) return false;
  const HistoryView& h = history_of(v);
  const auto made = [&](int32_t token) { return h.order[token] >= 0 || token_length(v, token) == 1; };
  if (h.ascending) return made(left) && made(right) && pair_is_stable(v, h, left, right);
  for (const uint8_t byte : bytes) {
    if (v.byte_token[byte] == kNoToken) return false;
  }
  std::vector<int32_t> tokens(bytes.size());
  return merge_heap(v, bytes.data(), n, tokens.data()) == 2 && tokens[0] == left && tokens[1] == right;
}

}  // namespace tk::bpe
