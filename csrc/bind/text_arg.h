// SPDX-License-Identifier: Apache-2.0
// Texts as arguments: str (its UTF-8, which Python keeps), bytes, or anything with a buffer of single bytes. Nothing is
// copied; the objects are held for as long as the argument lives.
#pragma once
#include <pybind11/pybind11.h>

#include <deque>
#include <string>
#include <vector>

#include "bpe/encode.h"

namespace tk::bind {
namespace py = pybind11;

class TextArgs {
 public:
  explicit TextArgs(const char* op) : op_(op) {}
  ~TextArgs() {
    for (Py_buffer& buffer : buffers_) PyBuffer_Release(&buffer);
  }
  TextArgs(const TextArgs&) = delete;
  TextArgs& operator=(const TextArgs&) = delete;

  // `name` is the argument's, as messages have it. Throws TypeError and ValueError.
  bpe::Text add(const std::string& name, py::handle object);
  // A list or tuple of them.
  void add_all(const char* name, py::handle objects);

  // The one text there is becomes `count` of them, between the offsets.
  void cut(const int64_t* offsets, int64_t count);

  const std::vector<bpe::Text>& texts() const { return texts_; }

 private:
  bpe::Text from_str(const std::string& name, py::handle object);
  bpe::Text from_buffer(const std::string& name, py::handle object);

  const char* op_;
  std::vector<bpe::Text> texts_;
  std::vector<py::object> held_;
  std::deque<Py_buffer> buffers_;
};

}  // namespace tk::bind
