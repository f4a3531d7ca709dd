// SPDX-License-Identifier: Apache-2.0
// Family bpe: the vocabulary and its prefix tables.
#include <pybind11/pybind11.h>

#include "bind/families.h"

#if defined(TK_MODULE_CPU)
#include <algorithm>
#include <string>

#include "bind/call.h"
#include "bind/text_arg.h"
#include "bind/vocab_arg.h"
#include "bpe/rank_file.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostVocabBytes = int64_t{1} << 31;

std::unique_ptr<bpe::Vocab> make_vocab(py::handle bytes_, py::handle offsets_, py::handle ids_, py::handle merges_,
                                       bool whole_piece, bool drop_missing) {
  Call call("vocab");
  const Tensor bytes = call.dense("tokens", bytes_, dtype_bit(DType::u8), "N");
  const Tensor offsets = call.dense("offsets", offsets_, kIndex, "C");
  if (call.dim('C') < 1) call.fail_value("offsets", "of at least one element", "none");
  if (call.dim('N') >= kMostVocabBytes)
    call.fail_value("tokens", "of less than 2**31 bytes", std::to_string(call.dim('N')));
  call.check_offsets("offsets", offsets, call.dim('N'));
  call.set('V', call.dim('C') - 1);
  const Tensor ids = call.dense("ids", ids_, kIndex, "V");
  call.check_index("ids", ids, INT32_MAX);
  call.set('T', 3);
  const Tensor merges = call.optional_dense("merges", merges_, kIndex, "M T");
  if (merges) call.check_index("merges", merges, INT32_MAX);
  bpe::VocabSource source;
  source.bytes.assign(bytes.as<uint8_t>(), bytes.as<uint8_t>() + bytes.size(0));
  source.offsets.assign(offsets.as<int64_t>(), offsets.as<int64_t>() + offsets.size(0));
  source.ids.assign(ids.as<int64_t>(), ids.as<int64_t>() + ids.size(0));
  if (merges) source.merges.assign(merges.as<int64_t>(), merges.as<int64_t>() + merges.size(0) * 3);
  source.ranked = !merges;
  source.whole_piece = whole_piece;
  source.drop_missing = drop_missing;
  const py::gil_scoped_release unlocked;
  return std::make_unique<bpe::Vocab>(std::move(source));
}

template <class T>
py::bytes bytes_of(const T* data, size_t count) {
  return py::bytes(reinterpret_cast<const char*>(data), count * sizeof(T));
}

// What a pickle and the device ops need, as raw memory; kernels.bpe.Vocab makes arrays of it.
py::dict vocab_tables(const bpe::Vocab& vocab) {
  const bpe::VocabView& v = vocab.view();
  const size_t slots = size_t{1} << (64 - v.pair_shift);
  std::vector<uint64_t> keys(slots);
  std::vector<int32_t> rank(slots), result(slots);
  for (size_t i = 0; i < slots; ++i) {
    const bpe::PairSlot pair = bpe::pair_at(v, i);
    keys[i] = static_cast<uint64_t>(static_cast<uint32_t>(pair.left)) << 32 | static_cast<uint32_t>(pair.right);
    rank[i] = pair.rank;
    result[i] = pair.result;
  }
  const auto size = static_cast<size_t>(v.size);
  const bpe::VocabSource& source = vocab.source();
  py::dict tables;
  tables["token_bytes"] = bytes_of(v.bytes, v.offsets[size]);
  tables["token_offsets"] = bytes_of(v.offsets, size + 1);
  tables["ids"] = bytes_of(v.ids, size);
  tables["byte_tokens"] = bytes_of(v.byte_token, 256);
  tables["pieces"] = bytes_of(v.pieces, static_cast<size_t>(v.piece_mask) + 1);
  tables["pair_keys"] = bytes_of(keys.data(), slots);
  tables["pair_ranks"] = bytes_of(rank.data(), slots);
  tables["pair_results"] = bytes_of(result.data(), slots);
  tables["merges"] = bytes_of(source.merges.data(), source.merges.size());
  return tables;
}

// How each token comes about, numbered as in the tables: (left, right, order) as raw memory.
py::tuple vocab_history(const bpe::Vocab& vocab) {
  const bpe::History& history = vocab.history();
  return py::make_tuple(bytes_of(history.left.data(), history.left.size()),
                        bytes_of(history.right.data(), history.right.size()),
                        bytes_of(history.order.data(), history.order.size()));
}

// Tokens (bytes, offsets) and ranks of a rank file, as raw memory.
py::tuple parse_ranks(py::handle data_) {
  TextArgs args("parse_ranks");
  const bpe::Text data = args.add("data", data_);
  bpe::RankFile file;
  {
    const py::gil_scoped_release unlocked;
    file = bpe::parse_rank_file(data.bytes, data.size);
  }
  return py::make_tuple(bytes_of(file.bytes.data(), file.bytes.size()),
                        bytes_of(file.offsets.data(), file.offsets.size()),
                        bytes_of(file.ranks.data(), file.ranks.size()));
}

int32_t token_or_fail(const bpe::Vocab& vocab, const char* op, const char* name, int64_t id) {
  const int32_t token = vocab.token_of(id);
  if (token != bpe::kNoToken) return token;
  throw ValueError(std::string(op) + ": " + name + " must be the id of a token, got " + std::to_string(id));
}

py::bytes token_bytes(const bpe::Vocab& vocab, int64_t id) {
  const bpe::VocabView& v = vocab.view();
  const int32_t token = token_or_fail(vocab, "token_bytes", "id", id);
  return bytes_of(v.bytes + v.offsets[token], bpe::token_length(v, token));
}

py::object id_of(const bpe::Vocab& vocab, py::handle bytes) {
  TextArgs args("id_of");
  const bpe::Text text = args.add("token", bytes);
  const int32_t token = text.size ? bpe::find_token(vocab.view(), text.bytes, text.size) : bpe::kNoToken;
  if (token == bpe::kNoToken) return py::none();
  return py::int_(vocab.view().ids[token]);
}

// Tokens with a prefix stand together in the order of bytes.
std::unique_ptr<IdArray> tokens_with_prefix(const bpe::Vocab& vocab, py::handle prefix_) {
  TextArgs args("tokens_with_prefix");
  const bpe::Text prefix = args.add("prefix", prefix_);
  const bpe::VocabView& v = vocab.view();
  const std::vector<int32_t>& order = vocab.by_bytes();
  const auto compare = [&](int32_t token) {  // the first bytes of a token with the prefix
    const auto length = std::min<int64_t>(bpe::token_length(v, token), prefix.size);
    const int sign = length ? std::memcmp(v.bytes + v.offsets[token], prefix.bytes, static_cast<size_t>(length)) : 0;
    return sign != 0 ? sign : length < prefix.size ? -1 : 0;
  };
  const auto first = std::partition_point(order.begin(), order.end(), [&](int32_t t) { return compare(t) < 0; });
  const auto last = std::partition_point(first, order.end(), [&](int32_t t) { return compare(t) == 0; });
  auto found = std::make_unique<IdArray>();
  found->ids.reserve(last - first);
  std::transform(first, last, found->ids.data(), [&](int32_t token) { return v.ids[token]; });
  found->ids.grew(last - first);
  return found;
}

}  // namespace

const bpe::Vocab& vocab_of(const char* op, py::handle object) {
  if (py::isinstance<bpe::Vocab>(object)) return object.cast<const bpe::Vocab&>();
  throw TypeError(std::string(op) + ": vocab must be a Vocab, got " + Py_TYPE(object.ptr())->tp_name);
}

void bind_bpe_vocab(py::module_& m) {
  py::class_<bpe::Vocab>(m, "BpeVocab", py::is_final())
      .def(py::init(&make_vocab))
      .def_property_readonly("size", [](const bpe::Vocab& vocab) { return vocab.view().size; })
      .def_property_readonly("ranked", [](const bpe::Vocab& vocab) { return vocab.source().ranked; })
      .def_property_readonly("whole_piece", [](const bpe::Vocab& vocab) { return vocab.view().whole_piece; })
      .def_property_readonly("drop_missing", [](const bpe::Vocab& vocab) { return vocab.view().drop_missing; })
      .def_property_readonly("complete", [](const bpe::Vocab& vocab) { return vocab.view().complete; })
      .def_property_readonly("ascending", [](const bpe::Vocab& vocab) { return vocab.history().view.ascending; })
      .def("tables", &vocab_tables)
      .def("history", &vocab_history)
      .def("token_bytes", &token_bytes)
      .def("id_of", &id_of)
      .def("tokens_with_prefix", &tokens_with_prefix);
  m.def("parse_ranks", &parse_ranks);
  py::class_<IdArray>(m, "BpeIds", py::buffer_protocol(), py::is_final()).def_buffer([](IdArray& array) {
    return py::buffer_info(array.ids.data(), array.ids.size());
  });
}

}  // namespace tk::bind
#else
namespace tk::bind {
void bind_bpe_vocab(py::module_&) {}
}  // namespace tk::bind
#endif
