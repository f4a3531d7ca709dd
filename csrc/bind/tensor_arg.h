// SPDX-License-Identifier: Apache-2.0
// One array argument: any DLPack producer becomes a View.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "bind/dlpack.h"
#include "core/view.h"

namespace tk::bind {
namespace py = pybind11;

// How the array came in: decides whether it may be written to.
enum class Route { exchange, versioned, legacy };

// What is only known once the array is here; `view.dtype` is valid when `supported`.
struct Imported {
  View view;
  dlpack::DataType raw_dtype{};
  Route route = Route::exchange;
  bool supported = true;
};

class TensorArg {
 public:
  TensorArg() = default;
  TensorArg(const TensorArg&) = delete;
  TensorArg& operator=(const TensorArg&) = delete;
  ~TensorArg() { release(); }

  // Throws TypeError when `object` is no array, hides its data, or speaks another DLPack version.
  const Imported& import(const char* op, const char* name, py::handle object);

  const Imported& imported() const { return imported_; }
  int32_t device_id() const { return imported_.view.device_id; }

  // The stream the caller's framework works on now, when it says; otherwise null (the legacy default stream).
  static void* current_stream(py::handle object, const View& view);

 private:
  bool import_by_exchange(const char* op, const char* name, py::handle object);
  void import_by_capsule(const char* op, const char* name, py::handle object);
  void fill(const char* op, const char* name, const dlpack::Tensor& tensor);
  void release();

  Imported imported_;
  dlpack::ManagedVersioned* versioned_ = nullptr;
  dlpack::Managed* legacy_ = nullptr;
};

// "float32", "int64", ... for messages, also for dtypes that no op accepts.
std::string dtype_text(const dlpack::DataType& dtype);

}  // namespace tk::bind
