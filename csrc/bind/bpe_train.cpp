// SPDX-License-Identifier: Apache-2.0
// Family bpe: training and pair-count histories. They run on the CPU whatever the device of their arguments' framework.
#include <pybind11/pybind11.h>

#include "bind/families.h"

#if defined(TK_MODULE_CPU)
#include "bind/bpe_words.h"
#include "bpe/pair_count_history.h"
#include "bpe/train_merges.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 31;  // ids fit int32

// Runs one of the two implementations of a host op without the GIL.
template <class Args>
void run_host(void (*host)(const Args&), void (*ref)(const Args&), const Args& args) {
  const Level level = current_level();
  {
    const py::gil_scoped_release unlocked;
    (level == Level::ref ? ref : host)(args);
  }
  note_last_level(level);
}

py::object train_merges(py::handle pieces_, py::handle offsets_, py::handle counts_, py::handle vocab_size_,
                        py::handle token_bytes_, py::handle token_offsets_, py::handle tokens_, py::handle byte_ids_,
                        py::handle min_frequency_, py::handle max_token_length_, py::handle most_merges_,
                        py::handle progress_) {
  Call call("train_merges");
  const Tensor pieces = call.dense("pieces", pieces_, dtype_bit(DType::u8) | kIndex, "N");
  const Tensor offsets = call.dense("offsets", offsets_, kIndex, "O");
  const Tensor counts = call.dense("counts", counts_, kIndex, "P");
  const Tensor token_bytes = call.optional_dense("tokens", token_bytes_, dtype_bit(DType::u8), "S");
  const Tensor token_offsets = call.optional_dense("token_offsets", token_offsets_, dtype_bit(DType::i64), "T");
  const Tensor byte_ids = call.optional_dense("byte_ids", byte_ids_, kIndex, "B");
  const int64_t tokens = call.integer("tokens", tokens_, 0);
  const int64_t vocab_size = call.integer("vocab_size", vocab_size_, 0);
  const int64_t min_frequency = call.integer("min_frequency", min_frequency_, 0);
  const int64_t limit =
      max_token_length_.is_none() ? bpe::kNoLimit : call.integer("max_token_length", max_token_length_, 1);
  const int64_t most = most_merges_.is_none() ? INT64_MAX : call.integer("most_merges", most_merges_, 0);
  if (tokens >= kMostTokens) call.fail_value("tokens", "less than 2**31", std::to_string(tokens));
  if (vocab_size >= kMostTokens) call.fail_value("vocab_size", "less than 2**31", std::to_string(vocab_size));
  if (vocab_size < tokens) {
    call.fail_value("vocab_size", "at least the " + std::to_string(tokens) + " tokens that it starts with",
                    std::to_string(vocab_size));
  }
  call.check_offsets("offsets", offsets, pieces.size(0));
  check_counts(call, counts, offsets);
  if (byte_ids) {
    if (byte_ids.size(0) != 256) call.fail_value("byte_ids", "256 ids", std::to_string(byte_ids.size(0)));
    call.check_index("byte_ids", byte_ids, tokens, -1);
  }

  const bool bytes = pieces.dtype == DType::u8;
  if (!bytes) call.check_index("pieces", pieces, tokens);
  const bpe::Words words{bytes ? pieces.as<uint8_t>() : nullptr,
                         byte_ids.as<int64_t>(),
                         bytes ? nullptr : pieces.as<int64_t>(),
                         offsets.as<int64_t>(),
                         counts.as<int64_t>(),
                         counts.size(0)};
  check_words(call, words);
  bpe::TokenTexts texts(token_bytes.as<uint8_t>(), token_offsets.as<int64_t>(), tokens);
  texts.reserve_for_words(words);
  const bpe::Progress progress = Watch(progress_);
  std::vector<bpe::Merge> merges;
  const bpe::TrainMergesArgs args{words, &texts,    vocab_size, most, std::max<int64_t>(1, min_frequency),
                                  limit, &progress, &merges};
  run_host(&bpe::host::train_merges, &bpe::ref::train_merges, args);
  call.set('M', static_cast<int64_t>(merges.size()));
  call.set('W', 3);
  auto* out = call.out("merges", py::none(), DType::i64, "M W").as<int64_t>();
  for (const bpe::Merge& merge : merges) {
    *out++ = merge.left;
    *out++ = merge.right;
    *out++ = merge.result;
  }
  return call.results();
}

py::object pair_count_history(py::handle words_, py::handle offsets_, py::handle counts_, py::handle merges_,
                              py::handle progress_) {
  Call call("pair_count_history");
  const Tensor symbols = call.dense("words", words_, kIndex, "N");
  const Tensor offsets = call.dense("offsets", offsets_, kIndex, "O");
  const Tensor counts = call.dense("counts", counts_, kIndex, "W");
  const Tensor merges = call.dense("merges", merges_, kIndex, "T C");
  if (merges.size(1) != 3) call.fail_value("merges", "(T, 3) of left, right and result", extents_text(merges));
  call.check_offsets("offsets", offsets, symbols.size(0));
  check_counts(call, counts, offsets);
  call.check_index("words", symbols, kMostTokens);
  call.check_index("merges", merges, kMostTokens);
  // Of its own: `progress` is Python code, which may change the caller's array.
  const std::vector<int64_t> bounds(offsets.as<int64_t>(), offsets.as<int64_t>() + offsets.size(0));
  const bpe::Words words{nullptr, nullptr, symbols.as<int64_t>(), bounds.data(), counts.as<int64_t>(), counts.size(0)};
  check_words(call, words);
  std::vector<bpe::Merge> rule;
  for (int64_t t = 0; t < merges.size(0); ++t) {
    const int64_t* row = merges.as<int64_t>() + 3 * t;
    rule.push_back({static_cast<uint32_t>(row[0]), static_cast<uint32_t>(row[1]), static_cast<uint32_t>(row[2])});
  }

  const bpe::Progress progress = Watch(progress_);
  std::vector<bpe::PairKey> pairs;
  std::vector<int64_t> changed, off;
  const bpe::PairCountHistoryArgs args{words, rule.data(), merges.size(0), &progress, &pairs, &changed, &off};
  run_host(&bpe::host::pair_count_history, &bpe::ref::pair_count_history, args);
  call.set('K', static_cast<int64_t>(pairs.size()));
  call.set('B', 2);
  call.set('S', static_cast<int64_t>(off.size()));
  auto* delta = call.out("delta_pairs", py::none(), DType::i32, "K B").as<int32_t>();
  for (const bpe::PairKey pair : pairs) {
    *delta++ = static_cast<int32_t>(bpe::left_of(pair));
    *delta++ = static_cast<int32_t>(bpe::right_of(pair));
  }
  std::copy(changed.begin(), changed.end(), call.out("delta_counts", py::none(), DType::i64, "K").as<int64_t>());
  std::copy(off.begin(), off.end(), call.out("off", py::none(), DType::i64, "S").as<int64_t>());
  return call.results();
}

}  // namespace

void bind_bpe_train(py::module_& m) {
  m.def("train_merges", &train_merges);
  m.def("pair_count_history", &pair_count_history);
}

}  // namespace tk::bind
#else
namespace tk::bind {

void bind_bpe_train(py::module_&) {}

}  // namespace tk::bind
#endif
