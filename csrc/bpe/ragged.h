// SPDX-License-Identifier: Apache-2.0
// One function over a batch of texts, its answers of any length one after the other.
#pragma once
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "core/parallel.h"

namespace tk::bpe {

// Text b is bytes[offsets[b], offsets[b + 1]).
struct Texts {
  const char* bytes;
  const int64_t* offsets;
  int64_t count;
  std::string_view operator[](int64_t b) const {
    return {bytes + offsets[b], static_cast<size_t>(offsets[b + 1] - offsets[b])};
  }
};

struct RaggedIds {
  std::vector<int64_t> ids, ends;  // ends: one past the last byte of every id, in its own text
  std::vector<int64_t> offsets;    // of every text, and one past the last
  int64_t failed_text = -1;        // the first that no segmentation covers, and where it stops
  int64_t failed_at = -1;
};

// What a function adds to for one text.
struct IdSink {
  std::vector<int64_t> ids, ends;
  void add(int64_t id, int64_t end) {
    ids.push_back(id);
    ends.push_back(end);
  }
};

// Runs of texts that are worth a thread, cut by their lengths alone: run r is texts [runs[r], runs[r + 1]).
inline std::vector<int64_t> runs_of(const Texts& texts) {
  std::vector<int64_t> runs{0};
  for (int64_t b = 0; b < texts.count; ++b) {
    const int64_t bytes = texts.offsets[b + 1] - texts.offsets[runs.back()];
    if (bytes >= kGrain / 4 || b + 1 == texts.count) runs.push_back(b + 1);
  }
  return runs;
}

// Calls f(text, sink) for every text; f returns -1, or the byte where it failed.
template <class F>
RaggedIds for_each_text(const Texts& texts, F&& f) {
  const std::vector<int64_t> runs = runs_of(texts);
  const auto count = static_cast<int64_t>(runs.size()) - 1;
  std::vector<IdSink> sinks(count);
  std::vector<int64_t> failed(texts.count, -1);
  RaggedIds all;
  all.offsets.assign(texts.count + 1, 0);
  parallel_for(count, [&](int64_t r) {
    for (int64_t b = runs[r]; b < runs[r + 1]; ++b) {
      const auto before = static_cast<int64_t>(sinks[r].ids.size());
      failed[b] = f(texts[b], &sinks[r]);
      all.offsets[b + 1] = static_cast<int64_t>(sinks[r].ids.size()) - before;
    }
  });
  for (int64_t b = 0; b < texts.count; ++b) {
    all.offsets[b + 1] += all.offsets[b];
    if (failed[b] >= 0 && all.failed_text < 0) all.failed_text = b, all.failed_at = failed[b];
  }
  if (count == 1) {
    all.ids = std::move(sinks[0].ids);
    all.ends = std::move(sinks[0].ends);
    return all;
  }
  all.ids.reserve(all.offsets.back());
  all.ends.reserve(all.offsets.back());
  for (IdSink& sink : sinks) {
    all.ids.insert(all.ids.end(), sink.ids.begin(), sink.ids.end());
    all.ends.insert(all.ends.end(), sink.ends.begin(), sink.ends.end());
    sink = IdSink();
  }
  return all;
}

}  // namespace tk::bpe
