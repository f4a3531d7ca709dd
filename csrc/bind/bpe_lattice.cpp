// SPDX-License-Identifier: Apache-2.0
// Family bpe: tries and what is made of them. Host code on host memory: in _C alone. The Python layer makes texts
// bytes and checks what only it can say; everything here is checked again as far as memory is concerned.
#include <pybind11/pybind11.h>

#include "bind/families.h"

#if defined(TK_MODULE_CPU)
#include <pybind11/numpy.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bpe/dynamic_merge.h"
#include "bpe/tokenize_longest.h"
#include "bpe/trie.h"
#include "bpe/unigram.h"
#include "core/dispatch.h"
#include "core/error.h"
#endif

namespace tk::bind {

#if defined(TK_MODULE_CPU)
namespace {

using bpe::Trie;
using Int32s = py::array_t<int32_t, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;
using Int64s = py::array_t<int64_t, py::array::c_style>;

// Hands the memory of a vector to NumPy.
template <class T>
py::array_t<T> lattice_array(std::vector<T>&& values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  std::vector<T>* held = owner.get();
  py::capsule free(owner.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(held->size(), held->data(), free);
}

// The bytes of an object with a flat buffer: alive as long as this is.
class LatticeText {
 public:
  explicit LatticeText(const py::buffer& object) : info_(object.request()) {
    if (info_.itemsize != 1 || info_.ndim != 1 || (info_.size > 1 && info_.strides[0] != 1)) {
      throw TypeError("Trie: text must be flat bytes");
    }
  }
  std::string_view view() const { return {static_cast<const char*>(info_.ptr), static_cast<size_t>(info_.size)}; }

 private:
  py::buffer_info info_;
};

void check_text_offsets(const char* op, const Int64s& offsets, int64_t bytes) {
  const int64_t* at = offsets.data();
  const py::ssize_t n = offsets.size();
  bool fits = n > 0 && at[0] == 0 && at[n - 1] == bytes;
  for (py::ssize_t i = 1; fits && i < n; ++i) fits = at[i - 1] <= at[i];
  if (!fits) throw ValueError(std::string(op) + ": offsets must rise from 0 to the number of bytes");
}

// Whether the reference was asked for; notes which code ran.
bool lattice_ref() {
  const Level level = current_level();
  note_last_level(level);
  return level == Level::ref;
}

std::shared_ptr<Trie> make_trie(const py::buffer& bytes_, const Int64s& offsets, const Int64s& values) {
  const LatticeText bytes(bytes_);
  check_text_offsets("Trie", offsets, static_cast<int64_t>(bytes.view().size()));
  if (values.size() + 1 != offsets.size()) throw ValueError("Trie: values must be as many as patterns");
  bpe::Patterns patterns{std::string(bytes.view()), {offsets.data(), offsets.data() + offsets.size()}};
  std::vector<int64_t> meant(values.data(), values.data() + values.size());
  const py::gil_scoped_release unlocked;
  return std::make_shared<Trie>(std::move(patterns), std::move(meant));
}

std::vector<bpe::TextMatch> prefixes_at(const Trie& trie, const LatticeText& text, int64_t start) {
  const auto n = static_cast<int64_t>(text.view().size());
  if (start < 0 || start > n) {
    throw ValueError("Trie: start must be in [0, " + std::to_string(n) + "], got " + std::to_string(start));
  }
  if (lattice_ref()) return bpe::ref::prefixes(trie, text.view(), start);
  std::vector<bpe::TextMatch> found;
  trie.each_prefix(text.view(), start, [&](int64_t end, int32_t pattern) { found.push_back({end, pattern}); });
  return found;
}

// The match `back` from the longest: (value, end) or None.
py::object trie_longest(const Trie& trie, const py::buffer& text, int64_t start, size_t back) {
  const std::vector<bpe::TextMatch> found = prefixes_at(trie, LatticeText(text), start);
  if (found.size() <= back) return py::none();
  const bpe::TextMatch& match = found[found.size() - 1 - back];
  return py::make_tuple(trie.values()[match.pattern], match.end);
}

py::tuple trie_prefixes(const Trie& trie, const py::buffer& text, int64_t start) {
  std::vector<int64_t> values, ends;
  for (const bpe::TextMatch& match : prefixes_at(trie, LatticeText(text), start)) {
    values.push_back(trie.values()[match.pattern]);
    ends.push_back(match.end);
  }
  return py::make_tuple(lattice_array(std::move(values)), lattice_array(std::move(ends)));
}

py::array_t<int64_t> trie_with_prefix(const Trie& trie, const py::buffer& prefix_) {
  const LatticeText prefix(prefix_);
  std::vector<int64_t> values;
  if (lattice_ref()) {
    for (const int32_t p : bpe::ref::with_prefix(trie, prefix.view())) values.push_back(trie.values()[p]);
  } else {
    const auto [first, last] = trie.with_prefix(prefix.view());
    for (int64_t i = first; i < last; ++i) values.push_back(trie.values()[trie.order()[i]]);
  }
  return lattice_array(std::move(values));
}

py::tuple trie_find_all(const Trie& trie, const py::buffer& text_) {
  const LatticeText text(text_);
  bpe::Matches found;
  std::vector<int64_t> values;
  const bool by_ref = lattice_ref();
  {
    const py::gil_scoped_release unlocked;
    found = by_ref ? bpe::ref::find_all(trie, text.view()) : trie.find_all(text.view());
    values.reserve(found.pattern.size());
    for (const int32_t p : found.pattern) values.push_back(trie.values()[p]);
  }
  return py::make_tuple(lattice_array(std::move(found.start)), lattice_array(std::move(found.end)),
                        lattice_array(std::move(values)));
}

// ids, ends, offsets; or throws where a text is not covered.
py::tuple lattice_answer(const char* op, const bpe::Texts& texts, bpe::RaggedIds&& found) {
  if (found.failed_text >= 0) {
    const int byte = static_cast<uint8_t>(texts[found.failed_text][found.failed_at]);
    throw ValueError(std::string(op) + ": text must be covered by the patterns where unk is None, got byte " +
                     std::to_string(byte) + " at position " + std::to_string(found.failed_at) + " of text " +
                     std::to_string(found.failed_text));
  }
  return py::make_tuple(lattice_array(std::move(found.ids)), lattice_array(std::move(found.ends)),
                        lattice_array(std::move(found.offsets)));
}

bpe::UnknownPiece lattice_unknown(const py::object& unk, bool whole_characters, double score, bool fuse) {
  bpe::UnknownPiece unknown;
  unknown.allowed = !unk.is_none();
  unknown.whole_characters = whole_characters;
  if (unknown.allowed) unknown.id = unk.cast<int64_t>();
  unknown.score = score;
  unknown.fuse = fuse;
  return unknown;
}

py::tuple tokenize_longest(const Trie& trie, const py::buffer& bytes_, const Int64s& offsets, const py::object& unk,
                           bool whole_characters) {
  const LatticeText bytes(bytes_);
  check_text_offsets("tokenize_longest", offsets, static_cast<int64_t>(bytes.view().size()));
  const bpe::Texts texts{bytes.view().data(), offsets.data(), offsets.size() - 1};
  const bpe::Unknown unknown = lattice_unknown(unk, whole_characters, 0.0, false);
  const bool by_ref = lattice_ref();
  bpe::RaggedIds found;
  {
    const py::gil_scoped_release unlocked;
    found = by_ref ? bpe::ref::tokenize_longest(trie, texts, unknown) : bpe::tokenize_longest(trie, texts, unknown);
  }
  return lattice_answer("tokenize_longest", texts, std::move(found));
}

void check_log_probs(const char* op, const Trie& trie, const Doubles& log_probs) {
  if (log_probs.size() != trie.size()) throw ValueError(std::string(op) + ": log_probs must be one a pattern");
}

py::tuple unigram_viterbi(const Trie& trie, const Doubles& log_probs, const py::buffer& bytes_, const Int64s& offsets,
                          const py::object& unk, bool whole_characters, double unk_score, bool fuse) {
  const LatticeText bytes(bytes_);
  check_text_offsets("unigram_viterbi", offsets, static_cast<int64_t>(bytes.view().size()));
  check_log_probs("unigram_viterbi", trie, log_probs);
  const bpe::Texts texts{bytes.view().data(), offsets.data(), offsets.size() - 1};
  const bpe::UnknownPiece unknown = lattice_unknown(unk, whole_characters, unk_score, fuse);
  const bool by_ref = lattice_ref();
  bpe::RaggedIds found;
  {
    const py::gil_scoped_release unlocked;
    found = by_ref ? bpe::ref::unigram_viterbi(trie, log_probs.data(), texts, unknown)
                   : bpe::unigram_viterbi(trie, log_probs.data(), texts, unknown);
  }
  return lattice_answer("unigram_viterbi", texts, std::move(found));
}

py::tuple unigram_expected(const Trie& trie, const Doubles& log_probs, const py::buffer& bytes_, const Int64s& offsets,
                           const Doubles& counts) {
  const LatticeText bytes(bytes_);
  check_text_offsets("unigram_em", offsets, static_cast<int64_t>(bytes.view().size()));
  check_log_probs("unigram_em", trie, log_probs);
  if (counts.size() + 1 != offsets.size()) throw ValueError("unigram_em: counts must be one a piece");
  const bpe::Texts texts{bytes.view().data(), offsets.data(), offsets.size() - 1};
  const bool by_ref = lattice_ref();
  bpe::ExpectedCounts found;
  {
    const py::gil_scoped_release unlocked;
    found = by_ref ? bpe::ref::unigram_expected(trie, log_probs.data(), texts, counts.data())
                   : bpe::unigram_expected(trie, log_probs.data(), texts, counts.data());
  }
  if (found.failed_text >= 0) {
    throw ValueError("unigram_em: pieces must be covered by the patterns, got one that is not at " +
                     std::to_string(found.failed_text));
  }
  return py::make_tuple(lattice_array(std::move(found.expected)), found.log_likelihood);
}

// The id that `join` answered, or -1 where it is none of 32 bits.
int32_t joined_answer(const py::object& answer) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(answer.ptr()));
  if (!number) {
    PyErr_Clear();
    throw TypeError(std::string("merge_pairs_batch: join must return an integer, got ") +
                    Py_TYPE(answer.ptr())->tp_name);
  }
  int overflow = 0;
  const long long id = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  return overflow || id < 0 || id > INT32_MAX ? -1 : static_cast<int32_t>(id);
}

py::tuple merge_pairs_batch(const Int32s& ids, const Int64s& offsets, int64_t max_merges, int32_t next_id,
                            const py::object& valid, const py::object& join) {
  check_text_offsets("merge_pairs_batch", offsets, ids.size());
  bpe::MergePairsArgs args{ids.data(), offsets.data(), offsets.size() - 1, max_merges, next_id, {}, {}};
  if (!valid.is_none()) {
    args.valid = [&](int32_t a, int32_t b) {
      const py::gil_scoped_acquire locked;
      const py::object answer = valid(a, b);
      const int yes = PyObject_IsTrue(answer.ptr());
      if (yes < 0) throw py::error_already_set();
      return yes == 1;
    };
  }
  if (!join.is_none()) {
    args.join = [&](int32_t a, int32_t b, int32_t next) {
      const py::gil_scoped_acquire locked;
      return joined_answer(join(a, b, next));
    };
  }
  const bool by_ref = lattice_ref();
  bpe::MergedPairs merged;
  {
    const py::gil_scoped_release unlocked;
    merged = by_ref ? bpe::ref::merge_pairs_batch(args) : bpe::merge_pairs_batch(args);
  }
  return py::make_tuple(lattice_array(std::move(merged.ids)), lattice_array(std::move(merged.offsets)),
                        lattice_array(std::move(merged.parts)), lattice_array(std::move(merged.count)),
                        lattice_array(std::move(merged.result)), lattice_array(std::move(merged.replaced)));
}

}  // namespace

void bind_bpe_lattice(py::module_& m) {
  m.def("merge_pairs_batch", &merge_pairs_batch);
  m.def("unigram_expected", &unigram_expected);
  m.def("unigram_viterbi", &unigram_viterbi);
  py::class_<Trie, std::shared_ptr<Trie>>(m, "Trie")
      .def(py::init(&make_trie))
      .def("size", &Trie::size)
      .def("reads_backward", &Trie::reads_backward)
      .def("longest", [](const Trie& t, const py::buffer& text, int64_t at) { return trie_longest(t, text, at, 0); })
      .def("second_longest",
           [](const Trie& t, const py::buffer& text, int64_t at) { return trie_longest(t, text, at, 1); })
      .def("prefixes", &trie_prefixes)
      .def("with_prefix", &trie_with_prefix)
      .def("find_all", &trie_find_all)
      .def("tokenize_longest", &tokenize_longest);
}

#else

void bind_bpe_lattice(py::module_&) {}

#endif

}  // namespace tk::bind
