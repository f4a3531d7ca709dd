// SPDX-License-Identifier: Apache-2.0
// What bindings of trainers share: unique words as arguments, and a look at Python now and then.
#pragma once
#include <chrono>

#include "bind/call.h"
#include "bpe/train_merges.h"
#include "bpe/train_words.h"

namespace tk::bind {

// One count, not negative, for each word that the (checked) offsets cut.
inline void check_counts(const Call& call, const Tensor& counts, const Tensor& offsets) {
  if (counts.size(0) != offsets.size(0) - 1) {
    call.fail_value("counts", "one for each of " + std::to_string(offsets.size(0) - 1) + " words",
                    std::to_string(counts.size(0)));
  }
  for (int64_t w = 0; w < counts.size(0); ++w) {
    const int64_t count = counts.as<int64_t>()[w];
    if (count >= 0) continue;
    call.fail_value("counts", "not negative", std::to_string(count) + " at flat position " + std::to_string(w));
  }
}

// No pair could be counted beyond int64, and places of symbols fit 32 bits.
inline void check_words(const Call& call, const bpe::Words& words) {
  const int64_t total = words.offsets[words.words];
  if (total > bpe::kMostSymbols - words.words) {
    call.fail_value("offsets", "of less than 2**32 symbols", std::to_string(total));
  }
  __int128 pairs = 0;
  for (int64_t w = 0; w < words.words; ++w) {
    pairs += __int128{words.counts[w]} * (words.offsets[w + 1] - words.offsets[w]);
  }
  if (pairs > INT64_MAX) call.fail_value("counts", "of less than 2**63 symbols in all", "more");
}

// Lets Ctrl-C end a long run, and tells `callback` (or nobody) how far it is; at most every 50 ms.
class Watch {
 public:
  explicit Watch(py::handle callback) : callback_(callback.is_none() ? nullptr : callback.ptr()) {}

  void operator()(int64_t done) {
    if (Clock::now() < next_) return;
    const py::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (callback_) py::reinterpret_borrow<py::object>(callback_)(done);
    next_ = Clock::now() + kPause;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPause{50};
  PyObject* callback_;  // the caller holds it
  Clock::time_point next_ = Clock::now() + kPause;
};

}  // namespace tk::bind
