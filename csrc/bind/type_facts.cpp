// SPDX-License-Identifier: Apache-2.0
#include "bind/type_facts.h"

#include <atomic>

namespace tk::bind {
namespace {

// Entries are added by compare-and-swap and never moved or freed: readers need no lock, and a fork in another thread
// cannot leave one held. Types beyond the last slot are looked up at every call.
constexpr int kRemembered = 32;
std::atomic<const TypeFacts*> remembered[kRemembered];

PyObject* attribute(PyTypeObject* type, const char* name) {
  PyObject* found = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name);
  if (!found) PyErr_Clear();
  return found;
}

bool has_attribute(PyTypeObject* type, const char* name) {
  PyObject* found = attribute(type, name);
  Py_XDECREF(found);
  return found != nullptr;
}

const dlpack::ExchangeApi* look_up_api(PyTypeObject* type) {
  PyObject* capsule = attribute(type, "__dlpack_c_exchange_api__");
  if (!capsule) return nullptr;
  // The capsule lives as long as the process, by the specification.
  auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);
  if (!api) PyErr_Clear();
  return api && api->header.version.major == dlpack::kMajor ? api : nullptr;
}

void remember(const TypeFacts& facts) {
  auto* added = new TypeFacts(facts);
  for (std::atomic<const TypeFacts*>& slot : remembered) {
    const TypeFacts* present = nullptr;
    if (slot.compare_exchange_strong(present, added)) {
      Py_INCREF(reinterpret_cast<PyObject*>(facts.type));  // keeps the address from being reused by another type
      return;
    }
    if (present->type == facts.type) break;
  }
  delete added;
}

}  // namespace

TypeFacts facts_of(PyTypeObject* type) {
  for (const std::atomic<const TypeFacts*>& slot : remembered) {
    const TypeFacts* known = slot.load(std::memory_order_acquire);
    if (!known) break;
    if (known->type == type) return *known;
  }
  const TypeFacts facts{type, look_up_api(type), has_attribute(type, "is_neg")};
  // What is no array at all must not crowd out what is.
  if (facts.api || has_attribute(type, "__dlpack__")) remember(facts);
  return facts;
}

}  // namespace tk::bind
