// SPDX-License-Identifier: Apache-2.0
// The vocabulary as an argument, and ids as Python sees them.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>

#include "bpe/id_buffer.h"
#include "bpe/vocab.h"

namespace tk::bind {
namespace py = pybind11;

// Python's view of an IdBuffer: a buffer of int32 that NumPy takes as it is.
struct IdArray {
  bpe::IdBuffer ids;
};

// A bpe::Vocab from its Python object, which must outlive the call.
const bpe::Vocab& vocab_of(const char* op, py::handle object);

}  // namespace tk::bind
