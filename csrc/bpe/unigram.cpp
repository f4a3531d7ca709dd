// SPDX-License-Identifier: Apache-2.0
#include "bpe/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tk::bpe {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr int64_t kRunsARound = 64;  // bounds the memory of expectations that wait to be added

struct Arrival {  // the best way to a position
  double score = kNever;
  int64_t start = -1;  // of its last piece
  int32_t pattern = -1;
};

// Puts the pieces of the best segmentation into the sink; they come to light from the last one on.
void walk_back(const Trie& trie, const std::vector<Arrival>& best, const UnknownPiece& unknown, IdSink* sink) {
  const size_t first = sink->ids.size();
  bool after_unknown = false;
  for (auto at = static_cast<int64_t>(best.size()) - 1; at > 0; at = best[at].start) {
    const bool is_unknown = best[at].pattern < 0;
    if (is_unknown && after_unknown && unknown.fuse) continue;
    sink->add(is_unknown ? unknown.id : trie.values()[best[at].pattern], at);
    after_unknown = is_unknown;
  }
  std::reverse(sink->ids.begin() + first, sink->ids.end());
  std::reverse(sink->ends.begin() + first, sink->ends.end());
}

int64_t segment(const Trie& trie, const double* log_prob, const UnknownPiece& unknown, std::string_view text,
                IdSink* sink) {
  const auto n = static_cast<int64_t>(text.size());
  std::vector<Arrival> best(n + 1);
  best[0].score = 0.0;
  int64_t reached = 0;
  for (int64_t at = 0; at < n; ++at) {
    const double so_far = best[at].score;
    if (so_far == kNever) continue;
    const int64_t unit_end = unknown_end(text, at, n, unknown);
    bool unit_known = false;
    const auto arrive = [&](int64_t end, int32_t pattern, double score) {
      if (score > best[end].score) best[end] = {score, at, pattern};
      reached = std::max(reached, end);
    };
    trie.each_prefix(text, at, [&](int64_t end, int32_t pattern) {
      if (log_prob[pattern] == kNever) return;
      unit_known |= end == unit_end;
      arrive(end, pattern, so_far + log_prob[pattern]);
    });
    if (unknown.allowed && !unit_known) arrive(unit_end, -1, so_far + unknown.score);
  }
  if (best[n].score == kNever) return std::min(reached, n - 1);
  walk_back(trie, best, unknown, sink);
  return -1;
}

struct Use {
  int32_t pattern;
  double amount;
};

struct Uses {
  std::vector<Use> list;
  std::vector<double> log_likelihood;  // by text; kNever: it has no segmentation
};

struct Edge {
  int32_t pattern;
  int64_t end;
  double chance;  // of this piece, given that one starts here
};

// From the end of the text: what all ways on from a position weigh, and the share of each piece in it. The shares make
// the pass from the start one of plain products.
double weigh(const Trie& trie, const double* log_prob, std::string_view text, double count, std::vector<Use>* uses) {
  const auto n = static_cast<int64_t>(text.size());
  std::vector<Edge> edges;
  std::vector<int64_t> first(n + 1);
  for (int64_t at = 0; at < n; ++at) {
    first[at] = static_cast<int64_t>(edges.size());
    trie.each_prefix(text, at, [&](int64_t end, int32_t pattern) {
      if (log_prob[pattern] != kNever) edges.push_back({pattern, end, 0.0});
    });
  }
  first[n] = static_cast<int64_t>(edges.size());
  std::vector<double> onward(n + 1, kNever);
  onward[n] = 0.0;
  for (int64_t at = n - 1; at >= 0; --at) {
    double largest = kNever;
    for (int64_t e = first[at]; e < first[at + 1]; ++e) {
      edges[e].chance = log_prob[edges[e].pattern] + onward[edges[e].end];
      largest = std::max(largest, edges[e].chance);
    }
    if (largest == kNever) continue;
    double sum = 0.0;
    for (int64_t e = first[at]; e < first[at + 1]; ++e) sum += edges[e].chance = std::exp(edges[e].chance - largest);
    for (int64_t e = first[at]; e < first[at + 1]; ++e) edges[e].chance /= sum;
    onward[at] = largest + std::log(sum);
  }
  if (onward[0] == kNever) return kNever;
  std::vector<double> reach(n + 1, 0.0);
  reach[0] = 1.0;
  for (int64_t at = 0; at < n; ++at) {
    if (reach[at] == 0.0) continue;
    for (int64_t e = first[at]; e < first[at + 1]; ++e) {
      if (onward[edges[e].end] == kNever) continue;
      const double chance = reach[at] * edges[e].chance;
      reach[edges[e].end] += chance;
      uses->push_back({edges[e].pattern, count * chance});
    }
  }
  return onward[0];
}

}  // namespace

RaggedIds unigram_viterbi(const Trie& trie, const double* log_prob, const Texts& texts, const UnknownPiece& unknown) {
  return for_each_text(
      texts, [&](std::string_view text, IdSink* sink) { return segment(trie, log_prob, unknown, text, sink); });
}

ExpectedCounts unigram_expected(const Trie& trie, const double* log_prob, const Texts& texts, const double* counts) {
  const std::vector<int64_t> runs = runs_of(texts);
  const auto last = static_cast<int64_t>(runs.size()) - 1;
  ExpectedCounts out;
  out.expected.assign(trie.size(), 0.0);
  for (int64_t round = 0; round < last; round += kRunsARound) {
    std::vector<Uses> found(std::min(kRunsARound, last - round));
    parallel_for(static_cast<int64_t>(found.size()), [&](int64_t r) {
      for (int64_t b = runs[round + r]; b < runs[round + r + 1]; ++b) {
        found[r].log_likelihood.push_back(weigh(trie, log_prob, texts[b], counts[b], &found[r].list));
      }
    });
    int64_t b = runs[round];
    for (const Uses& uses : found) {
      for (const Use& use : uses.list) out.expected[use.pattern] += use.amount;
      for (const double likelihood : uses.log_likelihood) {
        if (likelihood == kNever && out.failed_text < 0) out.failed_text = b;
        out.log_likelihood += counts[b++] * likelihood;
      }
    }
  }
  return out;
}

}  // namespace tk::bpe
