// SPDX-License-Identifier: Apache-2.0
// What is known of an array type for good: looked up once, then found without a lock.
#pragma once
#include <Python.h>

#include "bind/dlpack.h"

namespace tk::bind {

struct TypeFacts {
  PyTypeObject* type = nullptr;
  const dlpack::ExchangeApi* api = nullptr;  // null: the type has no C exchange API of our major version
  bool torch_like = false;                   // has torch's is_neg: a view may stand for the negative of its memory
};

TypeFacts facts_of(PyTypeObject* type);

}  // namespace tk::bind
