// SPDX-License-Identifier: Apache-2.0
// Family bpe: encoding and decoding.
#include <pybind11/pybind11.h>

#include "bind/families.h"

#if defined(TK_MODULE_CPU)
#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "bind/call.h"
#include "bind/id_objects.h"
#include "bind/pattern_arg.h"
#include "bind/text_arg.h"
#include "bind/vocab_arg.h"
#include "bpe/decode.h"
#include "bpe/encode.h"
#include "bpe/merge.h"
#include "core/parallel.h"

namespace tk::bind {
namespace {

// count_till_limit encodes so many bytes at a time for every id of its limit.
constexpr int64_t kBytesPerId = 8;
constexpr int64_t kLeastCounted = 1 << 9, kMostCounted = 1 << 14;

struct EncodeOptions {
  int64_t threads = 0, part = 0, limit = INT64_MAX;
};

// Ends of pieces per text: ascending, inside it, the last one its size.
void check_ends(const Call& call, const std::vector<bpe::Text>& texts, const Tensor& ends, const Tensor& ends_of) {
  for (size_t i = 0; i < texts.size(); ++i) {
    const int64_t* first = ends.as<int64_t>() + ends_of.as<int64_t>()[i];
    const int64_t* last = ends.as<int64_t>() + ends_of.as<int64_t>()[i + 1];
    int64_t begin = 0;
    for (const int64_t* end = first; end < last; begin = *end++) {
      if (*end >= begin && *end <= texts[i].size) continue;
      call.fail_value("ends", "ascending and inside the text",
                      std::to_string(*end) + " at flat position " + std::to_string(end - ends.as<int64_t>()));
    }
    if (begin != texts[i].size) {
      call.fail_value("ends", "complete, the last one the size of its text",
                      std::to_string(begin) + " for " + std::to_string(texts[i].size) + " bytes");
    }
  }
}

// The ids of all texts; `offsets` (B + 1), int64, is filled with where those of each begin.
std::unique_ptr<IdArray> encode(const char* op, py::handle vocab_, const TextArgs& args, std::string_view pattern_,
                                py::handle ends_, py::handle ends_of_, py::handle offsets_,
                                const EncodeOptions& options, std::vector<int64_t>* counts_out = nullptr) {
  Call call(op);
  const bpe::Vocab& vocab = vocab_of(op, vocab_);
  const bpe::Pattern pattern = pattern_of(call, pattern_);
  const auto batch = static_cast<int64_t>(args.texts().size());
  call.set('B', batch);
  call.set('C', batch + 1);
  const Tensor ends = call.optional_dense("ends", ends_, kIndex, "P");
  const Tensor ends_of = call.optional_dense("ends_offsets", ends_of_, kIndex, "C");
  if (ends) {
    call.check_offsets("ends_offsets", ends_of, call.dim('P'));
    check_ends(call, args.texts(), ends, ends_of);
  }
  const Tensor offsets = call.optional_out("offsets", offsets_, DType::i64, "C");
  std::vector<int64_t> counts(static_cast<size_t>(batch));
  auto result = std::make_unique<IdArray>();
  TK_RUN(call, bpe, encode,
         bpe::EncodeArgs{&vocab.view(), args.texts().data(), batch, pattern, ends.as<int64_t>(), ends_of.as<int64_t>(),
                         counts.data(), &result->ids, options.threads, options.part, options.limit});
  result->ids.trim();
  if (offsets) {
    offsets.as<int64_t>()[0] = 0;
    std::inclusive_scan(counts.begin(), counts.end(), offsets.as<int64_t>() + 1);
  }
  if (counts_out) *counts_out = std::move(counts);
  return result;
}

void add_slices(TextArgs& args, py::handle texts, py::handle bounds_) {
  Call call("encode_batch");
  const int64_t bytes = args.add("texts", texts).size;
  const Tensor bounds = call.dense("offsets", bounds_, kIndex, "C");
  call.check_offsets("offsets", bounds, bytes);
  args.cut(bounds.as<int64_t>(), bounds.size(0) - 1);
}

// `texts` is a sequence, or, with offsets, all of them in one array.
std::unique_ptr<IdArray> encode_texts(py::handle vocab, py::handle texts, py::handle bounds, std::string_view pattern,
                                      py::handle ends, py::handle ends_of, py::handle offsets, py::handle threads,
                                      int64_t part) {
  TextArgs args("encode_batch");
  if (bounds.is_none()) {
    args.add_all("texts", texts);
  } else {
    add_slices(args, texts, bounds);
  }
  EncodeOptions options;
  if (!threads.is_none()) options.threads = Call("encode_batch").integer("threads", threads, 1);
  options.part = part;
  return encode("encode_batch", vocab, args, pattern, ends, ends_of, offsets, options);
}

std::unique_ptr<IdArray> encode_text(py::handle vocab, py::handle text, std::string_view pattern, py::handle ends,
                                     py::handle ends_of, int64_t part) {
  TextArgs args("encode");
  args.add("text", text);
  EncodeOptions options;
  options.part = part;
  return encode("encode", vocab, args, pattern, ends, ends_of, py::none(), options);
}

// What callers that want lists would make of the arrays.
py::list encode_list(py::handle vocab, py::handle text, std::string_view pattern) {
  const auto found = encode_text(vocab, text, pattern, py::none(), py::none(), 0);
  return id_list(found->ids.data(), found->ids.size());
}

py::list encode_lists(py::handle vocab, py::handle texts, std::string_view pattern, py::handle threads) {
  TextArgs args("encode_batch");
  args.add_all("texts", texts);
  EncodeOptions options;
  if (!threads.is_none()) options.threads = Call("encode_batch").integer("threads", threads, 1);
  std::vector<int64_t> counts;
  const auto found = encode("encode_batch", vocab, args, pattern, py::none(), py::none(), py::none(), options, &counts);
  py::list lists(counts.size());
  const int32_t* ids = found->ids.data();
  for (size_t i = 0; i < counts.size(); ids += counts[i++]) lists[i] = id_list(ids, counts[i]);
  return lists;
}

// -1: more than the limit. A text that is far longer than the limit is not encoded to its end.
int64_t count_till_limit(py::handle vocab_, py::handle text, py::handle limit_, std::string_view pattern,
                         py::handle ends, py::handle ends_of) {
  Call call("count_till_limit");
  TextArgs args("count_till_limit");
  args.add("text", text);
  EncodeOptions options;
  options.limit = call.integer("limit", limit_, 0);
  options.part = std::clamp(options.limit, kLeastCounted, kMostCounted) * kBytesPerId;
  const auto ids = encode("count_till_limit", vocab_, args, pattern, ends, ends_of, py::none(), options);
  return ids->ids.size() > options.limit ? -1 : ids->ids.size();
}

// One piece by a method of merge.h.
std::unique_ptr<IdArray> encode_piece(py::handle vocab_, py::handle piece_, std::string_view method) {
  const bpe::VocabView& v = vocab_of("encode_piece", vocab_).view();
  TextArgs args("encode_piece");
  const bpe::Text piece = args.add("piece", piece_);
  int64_t (*merge)(const bpe::VocabView&, const uint8_t*, int64_t, int32_t*) = nullptr;
  if (method == "scan") merge = &bpe::merge_scan;
  if (method == "heap") merge = &bpe::merge_heap;
  if (method == "backtrack") merge = &bpe::merge_backtrack;
  if (method == "table") merge = &bpe::merge_table;
  if (!merge) {
    throw ValueError("encode_piece: method must be 'auto', 'scan', 'heap', 'backtrack' or 'table', got '" +
                     std::string(method) + "'");
  }
  auto result = std::make_unique<IdArray>();
  const py::gil_scoped_release unlocked;
  result->ids.reserve(piece.size + 1);
  int32_t* out = result->ids.data();
  const int32_t whole = v.whole_piece && piece.size ? bpe::find_token(v, piece.bytes, piece.size) : bpe::kNoToken;
  if (whole != bpe::kNoToken) {
    out[0] = whole;
    result->ids.grew(1);
  } else {
    const std::vector<uint8_t> present = bpe::present_bytes(v, piece.bytes, piece.bytes, piece.size);
    result->ids.grew(merge(v, present.data(), static_cast<int64_t>(present.size()), out));
  }
  for (int64_t i = 0; i < result->ids.size(); ++i) out[i] = v.ids[out[i]];
  result->ids.trim();
  return result;
}

// ---- decoding ----------------------------------------------------------------------------------------------------
struct Ids {
  std::vector<int32_t> tokens;
  std::vector<int64_t> parts;  // where the bytes of every part begin, and their total
};

class TokenReader {
 public:
  TokenReader(const Call& call, const bpe::Vocab& vocab)
      : call_(call), vocab_(vocab), dense_(vocab.ids_are_indices()) {}

  void reserve(int64_t count) {
    ids_.tokens.resize(static_cast<size_t>(count));
    ids_.parts.reserve(static_cast<size_t>(count / bpe::kDecodePart) + 2);
  }

  void add(int64_t i, int64_t id) {
    const bpe::VocabView& v = vocab_.view();
    if (i % bpe::kDecodePart == 0) ids_.parts.push_back(bytes_);
    const int32_t token =
        dense_ ? (static_cast<uint64_t>(id) < static_cast<uint64_t>(v.size) ? static_cast<int32_t>(id) : bpe::kNoToken)
               : vocab_.token_of(id);
    if (token == bpe::kNoToken) {
      call_.fail_value("ids", "ids of tokens", std::to_string(id) + " at position " + std::to_string(i));
    }
    ids_.tokens[static_cast<size_t>(i)] = token;
    bytes_ += bpe::token_length(v, token);
  }

  Ids take() {
    ids_.parts.push_back(bytes_);
    return std::move(ids_);
  }

 private:
  const Call& call_;
  const bpe::Vocab& vocab_;
  const bool dense_;
  Ids ids_;
  int64_t bytes_ = 0;
};

Ids ids_of_list(const Call& call, const bpe::Vocab& vocab, py::handle list) {
  TokenReader reader(call, vocab);
  const Py_ssize_t count = PyList_GET_SIZE(list.ptr());
  reader.reserve(count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    const auto item = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(list.ptr(), i));
    int overflow = 0;
    const int64_t id =
        PyLong_Check(item.ptr()) ? PyLong_AsLongLongAndOverflow(item.ptr(), &overflow) : call.integer("ids", item, 0);
    if (overflow) {
      call.fail_value("ids", "ids of tokens", std::string(py::str(item)) + " at position " + std::to_string(i));
    }
    reader.add(i, id);
    // The __index__ of what is no int is Python code, which may do anything to the list.
    if (PyList_GET_SIZE(list.ptr()) != count)
      call.fail_value("ids", "a list that stays as long as it is", "one that does not");
  }
  return reader.take();
}

Ids ids_of_array(const Call& call, const bpe::Vocab& vocab, const Tensor& ids) {
  TokenReader reader(call, vocab);
  reader.reserve(ids.size(0));
  for (int64_t i = 0; i < ids.size(0); ++i) reader.add(i, ids.as<int64_t>()[i]);
  return reader.take();
}

py::bytes decode(py::handle vocab_, py::handle ids_) {
  Call call("decode");
  const bpe::Vocab& vocab = vocab_of("decode", vocab_);
  const Ids ids = PyList_Check(ids_.ptr()) ? ids_of_list(call, vocab, ids_)
                                           : ids_of_array(call, vocab, call.dense("ids", ids_, kIndex, "N"));
  const int64_t total = ids.parts.back();
  auto bytes = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, total));
  if (!bytes) throw py::error_already_set();
  auto* out = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(bytes.ptr()));
  TK_RUN(call, bpe, decode,
         bpe::DecodeArgs{&vocab.view(), ids.tokens.data(), ids.parts.data(), out,
                         static_cast<int64_t>(ids.tokens.size()), total});
  return bytes;
}

void decode_ends(py::handle vocab_, py::handle ids_, py::handle ends_) {
  Call call("decode_offsets");
  const bpe::Vocab& vocab = vocab_of("decode_offsets", vocab_);
  const Ids ids = PyList_Check(ids_.ptr()) ? ids_of_list(call, vocab, ids_)
                                           : ids_of_array(call, vocab, call.dense("ids", ids_, kIndex, "N"));
  call.set('N', static_cast<int64_t>(ids.tokens.size()));
  auto* ends = call.out("ends", ends_, DType::i64, "N").as<int64_t>();
  int64_t end = 0;
  for (const int32_t token : ids.tokens) *ends++ = end += bpe::token_length(vocab.view(), token);
}

// ---- tables of prefixes ------------------------------------------------------------------------------------------
bool is_valid_pair(py::handle vocab_, int64_t left_, int64_t right_) {
  const bpe::Vocab& vocab = vocab_of("is_valid_pair", vocab_);
  const bpe::VocabView& v = vocab.view();
  int32_t tokens[2];
  for (int k = 0; k < 2; ++k) {
    tokens[k] = vocab.token_of(k ? right_ : left_);
    if (tokens[k] == bpe::kNoToken) {
      throw ValueError("is_valid_pair: ids must be ids of tokens, got " + std::to_string(k ? right_ : left_));
    }
  }
  return bpe::is_valid_pair(v, tokens[0], tokens[1]);
}

std::unique_ptr<IdArray> prefix_tokens(py::handle vocab_, py::handle piece_) {
  const bpe::VocabView& v = vocab_of("prefix_tokens", vocab_).view();
  TextArgs args("prefix_tokens");
  const bpe::Text piece = args.add("piece", piece_);
  if (!v.complete) {
    for (int64_t i = 0; i < piece.size; ++i) {
      if (v.byte_token[piece.bytes[i]] != bpe::kNoToken) continue;
      throw ValueError("prefix_tokens: piece must be made of bytes that are tokens, got byte " +
                       std::to_string(piece.bytes[i]) + " at position " + std::to_string(i));
    }
  }
  auto result = std::make_unique<IdArray>();
  const py::gil_scoped_release unlocked;
  result->ids.reserve(piece.size + 1);
  int32_t* last = result->ids.data();
  bpe::prefix_tokens(v, piece.bytes, piece.size, last);
  for (int64_t k = 1; k <= piece.size; ++k) last[k] = v.ids[last[k]];
  result->ids.grew(piece.size + 1);
  return result;
}

}  // namespace

void bind_bpe_encode(py::module_& m) {
  m.def("encode_text", &encode_text);
  m.def("encode_list", &encode_list);
  m.def("encode_lists", &encode_lists);
  m.def("encode_texts", &encode_texts);
  m.def("encode_piece", &encode_piece);
  m.def("decode", &decode);
  m.def("decode_ends", &decode_ends);
  m.def("count_till_limit", &count_till_limit);
  m.def("is_valid_pair", &is_valid_pair);
  m.def("prefix_tokens", &prefix_tokens);
}

}  // namespace tk::bind
#else
namespace tk::bind {
void bind_bpe_encode(py::module_&) {}
}  // namespace tk::bind
#endif
