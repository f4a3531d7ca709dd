// SPDX-License-Identifier: Apache-2.0
// Family bpe: tokens that are added to a vocabulary (special tokens among them), which merging knows nothing of:
// encoding between them, and decoding where ids may be theirs.
#include <pybind11/pybind11.h>

#include "bind/families.h"

#if defined(TK_MODULE_CPU)
#include <cstring>
#include <string>
#include <vector>

#include "bind/call.h"
#include "bind/id_objects.h"
#include "bind/pattern_arg.h"
#include "bind/text_arg.h"
#include "bind/vocab_arg.h"
#include "bpe/encode.h"

namespace tk::bind {
namespace {

// The bytes that every id of a list stands for; what is no token of the vocabulary is looked up in `added`, and held.
std::vector<bpe::Text> pieces_of(const char* op, const bpe::Vocab& vocab, const py::list& ids, const py::dict& added,
                                 std::vector<py::object>& held) {
  const Call call(op);
  const bpe::VocabView& v = vocab.view();
  std::vector<bpe::Text> pieces(ids.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    // What is no int runs Python code when it is read, which may do anything to the list.
    if (ids.size() != pieces.size()) call.fail_value("ids", "a list that stays as long as it is", "one that does not");
    const auto item = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(ids.ptr(), static_cast<Py_ssize_t>(i)));
    int overflow = 0;
    const int64_t id = PyLong_Check(item.ptr()) ? PyLong_AsLongLongAndOverflow(item.ptr(), &overflow)
                                                : call.integer("ids", item, INT64_MIN);
    const int32_t token = overflow ? bpe::kNoToken : vocab.token_of(id);
    if (token != bpe::kNoToken) {
      pieces[i] = {v.bytes + v.offsets[token], bpe::token_length(v, token)};
      continue;
    }
    PyObject* bytes = PyDict_GetItemWithError(added.ptr(), item.ptr());
    if (!bytes && PyErr_Occurred()) throw py::error_already_set();
    if (!bytes || !PyBytes_Check(bytes)) {
      call.fail_value("ids", "ids of tokens", std::string(py::str(item)) + " at position " + std::to_string(i));
    }
    held.push_back(py::reinterpret_borrow<py::object>(bytes));
    pieces[i] = {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(bytes)), PyBytes_GET_SIZE(bytes)};
  }
  return pieces;
}

py::bytes decode_added(py::handle vocab, const py::list& ids, const py::dict& added) {
  std::vector<py::object> held;
  const std::vector<bpe::Text> pieces = pieces_of("decode", vocab_of("decode", vocab), ids, added, held);
  int64_t total = 0;
  for (const bpe::Text& piece : pieces) total += piece.size;
  auto bytes = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, total));
  if (!bytes) throw py::error_already_set();
  char* out = PyBytes_AS_STRING(bytes.ptr());
  for (const bpe::Text& piece : pieces) {
    std::memcpy(out, piece.bytes, static_cast<size_t>(piece.size));
    out += piece.size;
  }
  return bytes;
}

py::list decode_each(py::handle vocab, const py::list& ids, const py::dict& added) {
  std::vector<py::object> held;
  const std::vector<bpe::Text> pieces = pieces_of("decode", vocab_of("decode", vocab), ids, added, held);
  py::list list(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    list[i] = py::bytes(reinterpret_cast<const char*>(pieces[i].bytes), static_cast<size_t>(pieces[i].size));
  }
  return list;
}

// The ids of what lies between the places [starts, ends) of added tokens, and in those places theirs.
py::list encode_between(py::handle vocab_, py::handle text_, std::string_view pattern_, py::handle starts_,
                        py::handle ends_, py::handle added_) {
  Call call("encode");
  const bpe::Vocab& vocab = vocab_of("encode", vocab_);
  const bpe::Pattern pattern = pattern_of(call, pattern_);
  TextArgs args("encode");
  const bpe::Text text = args.add("text", text_);
  const Tensor starts = call.dense("starts", starts_, kIndex, "M");
  const Tensor ends = call.dense("ends", ends_, kIndex, "M");
  const Tensor added = call.dense("added", added_, kIndex, "M");
  const int64_t places = starts.size(0);
  std::vector<bpe::Text> between;
  int64_t begin = 0;
  for (int64_t i = 0; i < places; ++i) {
    const int64_t start = starts.as<int64_t>()[i], end = ends.as<int64_t>()[i];
    if (start < begin || end < start || end > text.size) {
      call.fail_value("starts", "places in the text, one after the other", std::to_string(start));
    }
    between.push_back({text.bytes + begin, start - begin});
    begin = end;
  }
  between.push_back({text.bytes + begin, text.size - begin});
  std::vector<int64_t> counts(between.size());
  bpe::IdBuffer ids;
  TK_RUN(call, bpe, encode,
         bpe::EncodeArgs{&vocab.view(), between.data(), places + 1, pattern, nullptr, nullptr, counts.data(), &ids, 0,
                         0, INT64_MAX});
  py::list list(static_cast<size_t>(ids.size() + places));
  Py_ssize_t at = 0;
  const auto put = [&](int64_t id) {
    PyObject* object = id <= INT32_MAX ? id_object(static_cast<int32_t>(id)) : PyLong_FromLongLong(id);
    if (!object) throw py::error_already_set();
    PyList_SET_ITEM(list.ptr(), at++, object);
  };
  const int32_t* id = ids.data();
  for (int64_t i = 0; i <= places; ++i) {
    for (int64_t k = 0; k < counts[static_cast<size_t>(i)]; ++k) put(*id++);
    if (i < places) put(added.as<int64_t>()[i]);
  }
  return list;
}

}  // namespace

void bind_bpe_added(py::module_& m) {
  m.def("decode_added", &decode_added);
  m.def("decode_each", &decode_each);
  m.def("encode_between", &encode_between);
}

}  // namespace tk::bind
#else
namespace tk::bind {
void bind_bpe_added(py::module_&) {}
}  // namespace tk::bind
#endif
