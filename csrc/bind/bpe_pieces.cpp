// SPDX-License-Identifier: Apache-2.0
// Family bpe: counted pieces. Host code on host memory: in _C alone.
#include <pybind11/pybind11.h>

#include "bind/families.h"

#if defined(TK_MODULE_CPU)
#include <pybind11/numpy.h>

#include <algorithm>
#include <deque>

#include "bind/bpe_words.h"
#include "bind/pattern_arg.h"
#include "bpe/count_pieces.h"

namespace tk::bind {
namespace {

using bpe::CountedText;
using bpe::PieceCounter;

// Texts and what keeps them where they are.
class HeldTexts {
 public:
  explicit HeldTexts(const char* op) : op_(op) {}
  HeldTexts(const HeldTexts&) = delete;
  HeldTexts& operator=(const HeldTexts&) = delete;
  ~HeldTexts() {
    for (Py_buffer& buffer : buffers_) PyBuffer_Release(&buffer);
  }

  // str as UTF-8 (UnicodeEncodeError for lone surrogates), anything else by its buffer.
  void add(PyObject* text) {
    Py_ssize_t size = 0;
    if (PyUnicode_Check(text)) {
      const char* data = PyUnicode_AsUTF8AndSize(text, &size);
      if (!data) throw py::error_already_set();
      return add(data, size);
    }
    if (PyBytes_Check(text)) return add(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text));
    Py_buffer buffer;
    if (PyObject_GetBuffer(text, &buffer, PyBUF_SIMPLE) != 0) {
      PyErr_Clear();
      fail(Py_TYPE(text)->tp_name);
    }
    buffers_.push_back(buffer);
    if (buffer.itemsize != 1) fail(Py_TYPE(text)->tp_name);
    add(static_cast<const char*>(buffer.buf), buffer.len);
  }

  const std::vector<CountedText>& texts() const { return texts_; }

 private:
  [[noreturn]] void fail(const char* type) const {
    std::string text = op_;  // GCC 12 warns of a sum of strings
    text.append(": texts must be str, bytes or flat arrays of uint8, got ").append(type);
    throw TypeError(text.append(" at position ").append(std::to_string(texts_.size())));
  }
  void add(const char* data, int64_t size) { texts_.push_back({reinterpret_cast<const uint8_t*>(data), size, size}); }

  const char* op_;
  std::vector<CountedText> texts_;
  std::deque<Py_buffer> buffers_;
};

void count_held(const std::vector<CountedText>& texts, bpe::Pattern pattern, int64_t threads, PieceCounter& counter) {
  const bpe::CountPiecesArgs args{texts.data(), static_cast<int64_t>(texts.size()), pattern, threads, &counter};
  const Level level = current_level();
  {
    const py::gil_scoped_release unlocked;
    (level == Level::ref ? bpe::ref::count_pieces : bpe::host::count_pieces)(args);
  }
  note_last_level(level);
}

int64_t thread_count(const Call& call, py::handle threads) {
  return threads.is_none() ? 0 : call.integer("threads", threads, 1);
}

void add_texts(PieceCounter& counter, const py::list& list, std::string_view pattern_, py::handle threads_) {
  const Call call("count_pieces");
  const bpe::Pattern pattern = pattern_of(call, pattern_);
  const int64_t threads = thread_count(call, threads_);
  HeldTexts texts("count_pieces");
  for (const py::handle text : list) texts.add(text.ptr());
  count_held(texts.texts(), pattern, threads, counter);
}

// Counts the front of a text that may go on, and returns how many bytes that is; all of them where it is the `last`.
int64_t add_stream(PieceCounter& counter, py::handle bytes, std::string_view pattern_, bool last, py::handle threads_) {
  const Call call("count_pieces");
  const bpe::Pattern pattern = pattern_of(call, pattern_);
  const int64_t threads = thread_count(call, threads_);
  HeldTexts held("count_pieces");
  held.add(bytes.ptr());
  std::vector<CountedText> texts = held.texts();
  if (!last) texts[0].size = bpe::settled_bytes(pattern, texts[0].begin, texts[0].all);
  if (texts[0].size > 0) count_held(texts, pattern, threads, counter);
  return texts[0].size;
}

// As add_stream, with every line, its end included, as a text of its own.
int64_t add_lines(PieceCounter& counter, py::handle bytes, std::string_view pattern_, bool last, py::handle threads_) {
  const Call call("count_pieces");
  const bpe::Pattern pattern = pattern_of(call, pattern_);
  const int64_t threads = thread_count(call, threads_);
  HeldTexts held("count_pieces");
  held.add(bytes.ptr());
  const uint8_t *p = held.texts()[0].begin, *end = p + held.texts()[0].all;
  std::vector<CountedText> lines;
  while (p < end) {
    const auto* newline = static_cast<const uint8_t*>(std::memchr(p, '\n', end - p));
    if (!newline && !last) break;
    const uint8_t* next = newline ? newline + 1 : end;
    lines.push_back({p, next - p, next - p});
    p = next;
  }
  count_held(lines, pattern, threads, counter);
  return p - held.texts()[0].begin;
}

// Pieces cut by ends from outside, one for each end; empty ones do not count.
void add_pieces(PieceCounter& counter, py::handle text_, py::handle ends_) {
  Call call("count_pieces");
  const Tensor text = call.dense("text", text_, dtype_bit(DType::u8), "N");
  const Tensor ends = call.dense("ends", ends_, kIndex, "P");
  const int64_t size = text.size(0);
  const auto* end = ends.as<int64_t>();
  int64_t begin = 0;
  for (int64_t i = 0; i < ends.size(0); begin = end[i++]) {
    if (end[i] >= begin && end[i] <= size) continue;
    call.fail_value("ends", "non-decreasing and at most " + std::to_string(size),
                    std::to_string(end[i]) + " at flat position " + std::to_string(i));
  }
  begin = 0;
  for (int64_t i = 0; i < ends.size(0); begin = end[i++]) {
    if (end[i] > begin) counter.add(text.as<uint8_t>() + begin, end[i] - begin, size - begin);
  }
  note_last_level(current_level());
}

void add_counts(PieceCounter& counter, py::handle pieces_, py::handle offsets_, py::handle counts_) {
  Call call("count_pieces");
  const Tensor pieces = call.dense("pieces", pieces_, dtype_bit(DType::u8), "N");
  const Tensor offsets = call.dense("offsets", offsets_, kIndex, "O");
  const Tensor counts = call.dense("counts", counts_, kIndex, "P");
  call.check_offsets("offsets", offsets, pieces.size(0));
  check_counts(call, counts, offsets);
  const auto* at = offsets.as<int64_t>();
  for (int64_t i = 0; i < counts.size(0); ++i) {
    const int64_t size = at[i + 1] - at[i], count = counts.as<int64_t>()[i];
    if (size && count) counter.add(pieces.as<uint8_t>() + at[i], size, pieces.size(0) - at[i], count);
  }
}

struct Listed {
  unsigned __int128 front;  // its first 15 bytes as a number, then how many it has
  std::string_view piece;
  int64_t count;
  bool operator<(const Listed& other) const { return front != other.front ? front < other.front : piece < other.piece; }
};

// Shorter ones first among those with zeros behind each other, as bytes are ordered.
unsigned __int128 front_of(std::string_view piece) {
  uint64_t part[2] = {};
  std::memcpy(part, piece.data(), std::min<size_t>(15, piece.size()));
  part[1] |= std::min<uint64_t>(16, piece.size()) << 56;
  return static_cast<unsigned __int128>(__builtin_bswap64(part[0])) << 64 | __builtin_bswap64(part[1]);
}

std::vector<Listed> list_pieces(const PieceCounter& counter, bool sorted) {
  std::vector<Listed> pieces;
  pieces.reserve(counter.size());
  counter.for_each(
      [&](std::string_view piece, int64_t count) { pieces.push_back({sorted ? front_of(piece) : 0, piece, count}); });
  if (sorted) std::sort(pieces.begin(), pieces.end());
  return pieces;
}

// (pieces (N) uint8, offsets (P + 1), counts (P)), ascending by bytes or in no order.
py::tuple counted(const PieceCounter& counter, bool sorted) {
  const std::vector<Listed> list = list_pieces(counter, sorted);
  int64_t bytes = 0;
  for (const Listed& item : list) bytes += static_cast<int64_t>(item.piece.size());
  const auto size = static_cast<int64_t>(list.size());
  py::array_t<uint8_t> pieces(bytes);
  py::array_t<int64_t> offsets(size + 1), counts(size);
  uint8_t* to = pieces.mutable_data();
  int64_t *offset = offsets.mutable_data(), *count = counts.mutable_data();
  *offset = 0;
  for (const Listed& item : list) {
    std::memcpy(to, item.piece.data(), item.piece.size());
    to += item.piece.size();
    *count++ = item.count;
    offset[1] = offset[0] + static_cast<int64_t>(item.piece.size());
    ++offset;
  }
  return py::make_tuple(pieces, offsets, counts);
}

}  // namespace

void bind_bpe_pieces(py::module_& m) {
  py::class_<PieceCounter>(m, "PieceCounter")
      .def(py::init<>())
      .def("add_texts", &add_texts)
      .def("add_stream", &add_stream)
      .def("add_lines", &add_lines)
      .def("add_pieces", &add_pieces)
      .def("add_counts", &add_counts)
      .def("counted", &counted, py::arg("sorted") = true);
}

}  // namespace tk::bind
#else
namespace tk::bind {

void bind_bpe_pieces(py::module_&) {}

}  // namespace tk::bind
#endif
