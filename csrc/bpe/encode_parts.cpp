// SPDX-License-Identifier: Apache-2.0
// How the work of encode is cut: short texts together, long ones at certain boundaries, all by shape.
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "bpe/encode.h"
#include "bpe/merge.h"
#include "bpe/safe_cut.h"
#include "bpe/vocab.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace tk::bpe {
namespace {

constexpr int64_t kPart = 1 << 17;  // bytes of text

// Texts [first, last) as wholes, or, when they are one, its pieces that begin in [from, to).
struct Part {
  int64_t first, last;
  int64_t from, to;
  int64_t bytes;
};

class Borrowed {
 public:
  explicit Borrowed(const Vocab& vocab) : vocab_(vocab), cache_(vocab.borrow_cache()) {}
  ~Borrowed() { vocab_.return_cache(std::move(cache_)); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  PieceCache* get() const { return cache_.get(); }

 private:
  const Vocab& vocab_;
  std::unique_ptr<PieceCache> cache_;
};

class Encoder {
 public:
  Encoder(const EncodeArgs& a, EncodeSpan* encode_span) : a_(a), encode_span_(encode_span) { cut(); }

  void run() {
    std::fill(a_.counts, a_.counts + a_.batch, 0);
    const int64_t allowed = a_.threads > 0 ? a_.threads : num_threads();
    const int64_t threads = std::min<int64_t>({allowed, num_threads(), static_cast<int64_t>(parts_.size())});
    if (threads <= 1 || a_.limit != INT64_MAX) {
      run_in_order();
    } else {
      run_on(threads);
    }
  }

 private:
  void cut() {
    const int64_t limit = a_.part > 0 ? a_.part : kPart;
    for (int64_t i = 0; i < a_.batch;) {
      int64_t last = i, bytes = 0;
      while (last < a_.batch && bytes + a_.texts[last].size <= limit) bytes += a_.texts[last++].size;
      if (last > i) {
        parts_.push_back({i, last, 0, 0, bytes});
        i = last;
      } else {
        cut_text(i++, limit);
      }
    }
  }

  void cut_text(int64_t i, int64_t limit) {
    const int64_t size = a_.texts[i].size;
    for (int64_t from = 0; from < size;) {
      const int64_t to = size - from > limit ? boundary(i, from + limit) : size;
      parts_.push_back({i, i + 1, from, to, to - from});
      from = to;
    }
  }

  // The first certain piece boundary at or behind a place.
  int64_t boundary(int64_t i, int64_t at) const {
    const uint8_t* begin = a_.texts[i].bytes;
    const uint8_t* end = begin + a_.texts[i].size;
    if (!a_.ends_of) return safe_cut(a_.pattern, begin + at, end, begin, end) - begin;
    return *std::lower_bound(a_.ends + a_.ends_of[i], a_.ends + a_.ends_of[i + 1], at);
  }

  int64_t encode_text(PieceCache* cache, int64_t i, int64_t from, int64_t to, int32_t* out) const {
    const uint8_t* begin = a_.texts[i].bytes;
    const int64_t* ends = nullptr;
    if (a_.ends_of) ends = std::upper_bound(a_.ends + a_.ends_of[i], a_.ends + a_.ends_of[i + 1], from);
    return encode_span_(
        {a_.vocab, cache, begin, begin + a_.texts[i].size, begin + from, begin + to, a_.pattern, ends, out});
  }

  // A part of one text gives its count in `single`, since other threads may have parts of the same text.
  int64_t encode_part(const Part& part, PieceCache* cache, int32_t* out, int64_t* single) const {
    if (part.to > 0) return *single = encode_text(cache, part.first, part.from, part.to, out);
    int64_t count = 0;
    for (int64_t i = part.first; i < part.last; ++i) {
      count += a_.counts[i] = encode_text(cache, i, 0, a_.texts[i].size, out + count);
    }
    return count;
  }

  // One thread writes where the ids stay.
  void run_in_order() {
    const Borrowed cache(*a_.vocab->owner);
    for (const Part& part : parts_) {
      if (a_.ids->size() > a_.limit) return;
      a_.ids->reserve(part.bytes + kSpanSlack);
      int64_t single = 0;
      a_.ids->grew(encode_part(part, cache.get(), a_.ids->end(), &single));
      a_.counts[part.first] += single;
    }
  }

  void run_on(int64_t threads) {
    struct Result {
      std::unique_ptr<int32_t[]> ids;
      int64_t count = 0, single = 0, place = 0;
    };
    std::vector<Result> results(parts_.size());
    std::atomic<size_t> next{0};
    parallel_for(threads, [&](int64_t) {
      const Borrowed cache(*a_.vocab->owner);
      for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < parts_.size();) {
        const Scratch<int32_t> out(parts_[i].bytes + kSpanSlack);
        Result& result = results[i];
        result.count = encode_part(parts_[i], cache.get(), out.data(), &result.single);
        result.ids = std::make_unique_for_overwrite<int32_t[]>(static_cast<size_t>(result.count));
        std::copy_n(out.data(), result.count, result.ids.get());
      }
    });
    int64_t total = 0;
    for (size_t i = 0; i < parts_.size(); ++i) {
      a_.counts[parts_[i].first] += results[i].single;
      results[i].place = total;
      total += results[i].count;
    }
    a_.ids->reserve(total);
    parallel_for(static_cast<int64_t>(parts_.size()), [&](int64_t i) {
      Result& result = results[static_cast<size_t>(i)];
      std::copy_n(result.ids.get(), result.count, a_.ids->end() + result.place);
      result.ids.reset();
    });
    a_.ids->grew(total);
  }

  const EncodeArgs& a_;
  EncodeSpan* encode_span_;
  std::vector<Part> parts_;
};

}  // namespace

void encode_parts(const EncodeArgs& a, EncodeSpan* encode_span) { Encoder(a, encode_span).run(); }

int64_t merge_with_gaps(const VocabView& v, const uint8_t* text, const uint8_t* p, int64_t n, int32_t* out) {
  const std::vector<uint8_t> present = present_bytes(v, text, p, n);
  return merge_heap(v, present.data(), static_cast<int64_t>(present.size()), out);
}

}  // namespace tk::bpe
