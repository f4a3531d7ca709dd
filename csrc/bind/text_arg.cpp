// SPDX-License-Identifier: Apache-2.0
#include "bind/text_arg.h"

#include <cstring>

#include "core/error.h"

namespace tk::bind {

bpe::Text TextArgs::from_str(const std::string& name, py::handle object) {
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(object.ptr(), &size);
  if (utf8) return {reinterpret_cast<const uint8_t*>(utf8), size};
  if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) throw py::error_already_set();
  const py::error_already_set error;
  throw ValueError(std::string(op_) + ": " + name +
                   " must be text that UTF-8 can hold, got a lone surrogate at position " +
                   std::string(py::str(error.value().attr("start"))));
}

bpe::Text TextArgs::from_buffer(const std::string& name, py::handle object) {
  const auto fail = [&](const std::string& got) {
    throw TypeError(std::string(op_) + ": " + name + " must be str, bytes or a dense array of uint8, got " + got);
  };
  const char* type = Py_TYPE(object.ptr())->tp_name;
  Py_buffer buffer;
  if (PyObject_GetBuffer(object.ptr(), &buffer, PyBUF_ND | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    fail(type);
  }
  buffers_.push_back(buffer);
  const bool bytes = buffer.itemsize == 1 && (!buffer.format || std::strchr("Bc", buffer.format[0]));
  if (!bytes || buffer.ndim != 1) fail(std::string(type) + (bytes ? " of another rank" : " of another dtype"));
  return {static_cast<const uint8_t*>(buffer.buf), buffer.len};
}

bpe::Text TextArgs::add(const std::string& name, py::handle object) {
  held_.push_back(py::reinterpret_borrow<py::object>(object));
  bpe::Text text{};
  if (PyBytes_Check(object.ptr())) {
    text = {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(object.ptr())), PyBytes_GET_SIZE(object.ptr())};
  } else {
    text = PyUnicode_Check(object.ptr()) ? from_str(name, object) : from_buffer(name, object);
  }
  texts_.push_back(text);
  return text;
}

void TextArgs::add_all(const char* name, py::handle objects) {
  // A tuple of its own: asking an object for its buffer may run Python code, which may change a list.
  const auto items = py::reinterpret_steal<py::object>(PySequence_Tuple(objects.ptr()));
  if (!items || PyUnicode_Check(objects.ptr()) || PyBytes_Check(objects.ptr())) {
    PyErr_Clear();
    throw TypeError(std::string(op_) + ": " + name + " must be a sequence of texts, got " +
                    Py_TYPE(objects.ptr())->tp_name);
  }
  const Py_ssize_t count = PyTuple_GET_SIZE(items.ptr());
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* item = PyTuple_GET_ITEM(items.ptr(), i);
    if (PyBytes_Check(item) || PyUnicode_Check(item)) {
      add(name, item);
    } else {
      add(std::string(name) + "[" + std::to_string(i) + "]", item);
    }
  }
}

void TextArgs::cut(const int64_t* offsets, int64_t count) {
  const uint8_t* bytes = texts_.front().bytes;
  texts_.clear();
  for (int64_t i = 0; i < count; ++i) texts_.push_back({bytes + offsets[i], offsets[i + 1] - offsets[i]});
}

}  // namespace tk::bind
