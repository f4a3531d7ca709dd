// SPDX-License-Identifier: Apache-2.0
// One array argument: any DLPack producer becomes a View.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "bind/dlpack.h"
#include "bind/pack.h"
#include "core/view.h"

namespace tk::bind {
namespace py = pybind11;

// How the array came in. Only the versioned capsule says whether the memory may be written to.
enum class Route { exchange, versioned, legacy };

// What is only known once the array is here; `view.dtype` is valid when `supported`.
struct Imported {
  View view;
  Extent extent;
  dlpack::DataType raw_dtype{};
  Route route = Route::exchange;
  bool supported = true;
  bool torch_like = false;          // has torch's is_neg and requires_grad
  const char* read_only = nullptr;  // why writing would be wrong, as far as the producer says
};

class TensorArg {
 public:
  TensorArg() = default;
  TensorArg(const TensorArg&) = delete;
  TensorArg& operator=(const TensorArg&) = delete;
  ~TensorArg() { release(); }

  // Throws TypeError when `object` is no array, hides its data, or speaks another DLPack version; ValueError when
  // its extents are impossible.
  const Imported& import(const char* op, const char* name, py::handle object);

  const Imported& imported() const { return imported_; }
  int32_t device_id() const { return imported_.view.device_id; }

  // The stream the caller's framework works on now, when it says; otherwise null (the legacy default stream).
  static void* current_stream(py::handle object, const View& view);

 private:
  void read(const char* op, const char* name, py::handle object, const dlpack::ExchangeApi* api);
  void read_exchange(const char* op, const char* name, py::handle object, const dlpack::ExchangeApi& api);
  void read_capsule(const char* op, const char* name, py::handle object);
  void take_capsule(const char* op, const char* name, py::handle object, py::handle capsule);
  void fill(const char* op, const char* name, const dlpack::Tensor& tensor);
  void release();

  Imported imported_;
  dlpack::ManagedVersioned* versioned_ = nullptr;
  dlpack::Managed* legacy_ = nullptr;
  py::object copy_;  // stands in for an array whose own memory cannot be read as it is
};

// "(2, 3)", as Python writes a tuple.
std::string extents_text(const View& view);

// "float32", "int64", ... for messages, also for dtypes that no op accepts.
std::string dtype_text(const dlpack::DataType& dtype);

}  // namespace tk::bind
