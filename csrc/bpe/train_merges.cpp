// SPDX-License-Identifier: Apache-2.0
// Counts once, then only what changes around each merge.
//
// A pair gets all its places at once: when the younger of its two tokens is made. From then on its count can only fall,
// so a pair below a threshold need not be kept at all as long as merges have counts above that threshold. When they no
// longer have, everything is counted anew with a lower one.
#include "bpe/train_merges.h"

#include <algorithm>

#include "bpe/train_cells.h"
#include "bpe/train_pairs.h"
#include "bpe/train_queue.h"

namespace tk::bpe::host {
namespace {

// Where thresholds lie: the first is this part of the mean that every merge could have, the next ones of the last. Too
// low costs memory and time for pairs that never come, too high costs another count. Both change no result.
constexpr int64_t kFirstCut = 32;
constexpr int64_t kNextCut = 4;
constexpr size_t kMostPlaces = UINT32_MAX;

struct PairEntry {
  PairKey key = kNoPair;
  int64_t count = 0;
  uint32_t first = 0;   // of its places
  uint32_t places = 0;  // stale ones included
};

// What one merge does on one side of its new token, by neighbour.
class Side {
 public:
  struct Neighbour {
    int64_t count = 0;
    uint32_t next = 0;  // where its next place goes
    uint32_t places = 0;
    bool kept = false;
  };
  struct Found {
    uint32_t neighbour;
    Place place;
  };

  void note(uint32_t neighbour, Place place, int64_t count) {
    Neighbour& n = of_[neighbour];
    if (n.places++ == 0) touched.push_back(neighbour);
    n.count += count;
    found.push_back({neighbour, place});
  }

  void grow(size_t tokens) { of_.resize(tokens); }
  Neighbour& operator[](uint32_t id) { return of_[id]; }

  void clear() {
    for (const uint32_t id : touched) of_[id] = {};
    touched.clear();
    found.clear();
  }

  std::vector<uint32_t> touched;
  std::vector<Found> found;

 private:
  std::vector<Neighbour> of_;
};

class Trainer {
 public:
  explicit Trainer(const TrainMergesArgs& a) : a_(a), cells_(a.words), span_(a.texts->size(), 1) {}

  void run() {
    grow();
    threshold_ = first_threshold();
    count_all();
    while (a_.texts->size() < a_.vocab_size && static_cast<int64_t>(a_.merges->size()) < a_.most_merges) {
      if (*a_.progress) (*a_.progress)(a_.merges->size());
      PairEntry* best = next_best();
      if (best) {
        merge(*best);
      } else if (threshold_ > a_.min_count) {
        threshold_ = std::max(a_.min_count, threshold_ / kNextCut);
        count_all();
      } else {
        return;
      }
    }
  }

 private:
  int64_t first_threshold() const {
    const int64_t wanted = std::min(a_.vocab_size - a_.texts->size(), a_.most_merges);
    return std::max(a_.min_count, cells_.pairs() / (std::max<int64_t>(wanted, 1) * kFirstCut));
  }

  bool eligible(uint32_t left, uint32_t right) const {
    const int64_t joined = int64_t{span_[left]} + span_[right];
    return joined == 2 || joined < a_.length_limit;
  }

  void count_all() {
    PairTable<PairEntry> all;
    cells_.for_each_pair(span_.data(), [&](uint32_t left, uint32_t right, Place place) {
      PairEntry& entry = all[pair_key(left, right)];
      entry.count += cells_.weights(place.weight);
      ++entry.places;
    });
    pairs_ = {};
    queue_.clear();
    uint32_t total = 0;
    all.for_each([&](PairEntry& entry) {
      if (entry.count < threshold_ || !eligible(left_of(entry.key), right_of(entry.key))) return;
      PairEntry& kept = pairs_[entry.key];
      kept = entry;
      kept.first = total;
      total += entry.places;
      kept.places = 0;
      queue_.append({entry.count, entry.key});
    });
    queue_.order();
    places_.clear();
    places_.reserve(std::min<size_t>(kMostPlaces, size_t{3} * total));  // memory that is not written costs nothing
    places_.resize(total);
    cells_.for_each_pair(span_.data(), [&](uint32_t left, uint32_t right, Place place) {
      PairEntry* entry = pairs_.find(pair_key(left, right));
      if (entry) places_[entry->first + entry->places++] = place;
    });
  }

  // The pair with the largest count, or null when none reaches the threshold.
  PairEntry* next_best() {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      PairEntry* entry = pairs_.find(top.key);
      if (entry && entry->count >= threshold_ && entry->count != top.count) {
        queue_.lower_top(entry->count);
        continue;
      }
      queue_.pop();
      if (!queue_.empty()) pairs_.prefetch(queue_.top().key);
      if (entry && entry->count == top.count) return entry;
    }
    return nullptr;
  }

  void grow() {
    span_.resize(a_.texts->size());
    left_.grow(span_.size());
    right_.grow(span_.size());
  }

  void merge(PairEntry& pair) {
    const uint32_t a = left_of(pair.key), b = right_of(pair.key);
    const size_t known = span_.size();
    const uint32_t x = a_.texts->join(a, b);
    a_.merges->push_back({a, b, x});
    grow();
    span_[x] = span_[a] + span_[b];
    pair.count = 0;
    const int64_t twice = replace(pair, a, b, x);
    // Pairs with an old token may gain; and places have 32-bit numbers.
    if (x < known || places_.size() + left_.found.size() + right_.found.size() > kMostPlaces) return count_all();
    settle(a, b, x, twice);
  }

  // Puts x in every place of the pair; notes what stands beside it. Returns how often two x now stand together.
  int64_t replace(const PairEntry& pair, uint32_t a, uint32_t b, uint32_t x) {
    const uint32_t span_a = span_[a], span_x = span_[x];
    const Place* place = places_.data() + pair.first;
    const Place* end = place + pair.places;
    int64_t twice = 0;
    left_.clear();
    right_.clear();
    for (; place < end; ++place) {
      __builtin_prefetch(cells_.at(place[std::min<int64_t>(16, end - place - 1)].cell));
      uint32_t* cell = cells_.at(place->cell);
      if (cell[0] != a || cell[span_a] != b) continue;
      const uint32_t before = cell[-1], after = cell[span_x];
      cell[span_a - 1] = cell[span_a] = kGap;
      cell[0] = cell[span_x - 1] = x;
      const int64_t count = cells_.weights(place->weight);
      if (before == x) twice += count;
      if (before != kGap) left_.note(before, {place->cell - span_[before], place->weight}, count);
      if (after != kGap) right_.note(after, *place, count);
    }
    return twice;
  }

  // Where x follows x, the place to the left of the second x was noted to the right of the first as (x, a).
  void settle(uint32_t a, uint32_t b, uint32_t x, int64_t twice) {
    for (const uint32_t n : left_.touched) pairs_.prefetch(pair_key(n, a));
    for (const uint32_t n : left_.touched) {
      if (n != x) lose(pair_key(n, a), left_[n].count);
      gain(pair_key(n, x), left_[n], left_[n].count);
    }
    for (const uint32_t n : right_.touched) pairs_.prefetch(pair_key(b, n));
    for (const uint32_t n : right_.touched) {
      lose(pair_key(b, n), right_[n].count);
      gain(pair_key(x, n), right_[n], right_[n].count - (n == a ? twice : 0));
    }
    file(left_);
    file(right_);
  }

  void lose(PairKey key, int64_t count) {
    PairEntry* entry = pairs_.find(key);
    if (entry) entry->count -= count;
  }

  void gain(PairKey key, Side::Neighbour& neighbour, int64_t count) {
    if (count < threshold_ || !eligible(left_of(key), right_of(key))) return;
    pairs_.make_room([&](const PairEntry& entry) { return entry.count >= threshold_; });
    PairEntry& entry = pairs_[key];
    entry.count = count;
    entry.first = neighbour.next = static_cast<uint32_t>(places_.size());
    entry.places = neighbour.places;
    neighbour.kept = true;
    places_.resize(places_.size() + neighbour.places);
    queue_.push({count, key});
  }

  void file(Side& side) {
    for (const Side::Found& found : side.found) {
      Side::Neighbour& neighbour = side[found.neighbour];
      if (neighbour.kept) places_[neighbour.next++] = found.place;
    }
  }

  const TrainMergesArgs& a_;
  Cells cells_;
  std::vector<uint32_t> span_;  // by token: how many initial symbols it covers
  int64_t threshold_ = 1;
  PairTable<PairEntry> pairs_;
  CandidateQueue queue_;
  std::vector<Place> places_;
  Side left_, right_;
};

}  // namespace

void train_merges(const TrainMergesArgs& a) { Trainer(a).run(); }

}  // namespace tk::bpe::host
