// SPDX-License-Identifier: Apache-2.0
#include "bpe/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tk::bpe::ref {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

double log_add(double a, double b) {
  const double more = std::max(a, b);
  return more == kNever ? kNever : more + std::log(std::exp(a - more) + std::exp(b - more));
}

}  // namespace

// From every end back to every start, the first of equals: the longest last piece.
RaggedIds unigram_viterbi(const Trie& trie, const double* log_prob, const Texts& texts, const UnknownPiece& unknown) {
  RaggedIds all;
  all.offsets.push_back(0);
  for (int64_t b = 0; b < texts.count; ++b) {
    const std::string_view text = texts[b];
    const auto n = static_cast<int64_t>(text.size());
    std::vector<double> score(n + 1, kNever);
    std::vector<int64_t> from(n + 1, -1);
    std::vector<int32_t> piece(n + 1, -1);
    score[0] = 0.0;
    const auto pattern_of = [&](int64_t start, int64_t end) {
      for (const TextMatch& match : prefixes(trie, text, start)) {
        if (match.end == end && log_prob[match.pattern] != kNever) return match.pattern;
      }
      return int32_t{-1};
    };
    for (int64_t end = 1; end <= n; ++end) {
      for (int64_t start = 0; start < end; ++start) {
        const int32_t p = pattern_of(start, end);
        const bool may_be_unknown = unknown.allowed && unknown_end(text, start, n, unknown) == end;
        if (score[start] == kNever || (p < 0 && !may_be_unknown)) continue;
        const double sum = score[start] + (p < 0 ? unknown.score : log_prob[p]);
        if (sum > score[end]) score[end] = sum, from[end] = start, piece[end] = p;
      }
    }
    if (score[n] == kNever && all.failed_text < 0) {
      all.failed_text = b;
      for (int64_t at = 0; at < n; ++at) all.failed_at = score[at] == kNever ? all.failed_at : at;
    }
    IdSink backwards;
    for (int64_t at = n; at > 0 && from[at] >= 0; at = from[at]) {
      const bool follows = piece[at] < 0 && at < n && !backwards.ends.empty() && piece[backwards.ends.back()] < 0;
      if (follows && unknown.fuse) continue;
      backwards.add(piece[at] < 0 ? unknown.id : trie.values()[piece[at]], at);
    }
    all.ids.insert(all.ids.end(), backwards.ids.rbegin(), backwards.ids.rend());
    all.ends.insert(all.ends.end(), backwards.ends.rbegin(), backwards.ends.rend());
    all.offsets.push_back(static_cast<int64_t>(all.ids.size()));
  }
  return all;
}

ExpectedCounts unigram_expected(const Trie& trie, const double* log_prob, const Texts& texts, const double* counts) {
  ExpectedCounts out;
  out.expected.assign(trie.size(), 0.0);
  for (int64_t b = 0; b < texts.count; ++b) {
    const std::string_view text = texts[b];
    const auto n = static_cast<int64_t>(text.size());
    std::vector<double> before(n + 1, kNever), after(n + 1, kNever);
    before[0] = after[n] = 0.0;
    for (int64_t at = 0; at < n; ++at) {
      for (const TextMatch& match : prefixes(trie, text, at)) {
        before[match.end] = log_add(before[match.end], before[at] + log_prob[match.pattern]);
      }
    }
    for (int64_t at = n - 1; at >= 0; --at) {
      for (const TextMatch& match : prefixes(trie, text, at)) {
        after[at] = log_add(after[at], log_prob[match.pattern] + after[match.end]);
      }
    }
    if (after[0] == kNever && out.failed_text < 0) out.failed_text = b;
    out.log_likelihood += counts[b] * after[0];
    for (int64_t at = 0; at < n; ++at) {
      for (const TextMatch& match : prefixes(trie, text, at)) {
        const double way = before[at] + log_prob[match.pattern] + after[match.end];
        if (way != kNever) out.expected[match.pattern] += counts[b] * std::exp(way - after[0]);
      }
    }
  }
  return out;
}

}  // namespace tk::bpe::ref
