// SPDX-License-Identifier: Apache-2.0
#include "bind/tensor_arg.h"

#include <string>

#include "bind/type_facts.h"
#include "core/error.h"

namespace tk::bind {
namespace {

// ---- the Python protocol ------------------------------------------------------------------------------------
struct Names {
  PyObject* dlpack = PyUnicode_InternFromString("__dlpack__");
  PyObject* device = PyUnicode_InternFromString("__dlpack_device__");
  PyObject* version_keyword = Py_BuildValue("(s)", "max_version");
  PyObject* device_keywords = Py_BuildValue("(ss)", "max_version", "stream");
  PyObject* version = Py_BuildValue("(ii)", 1, 3);
  PyObject* legacy_stream = PyLong_FromLong(1);
  PyObject* is_neg = PyUnicode_InternFromString("is_neg");
  PyObject* resolve_neg = PyUnicode_InternFromString("resolve_neg");
};

const Names& names() {
  static const Names* created = new Names;  // never freed: it may be used until the interpreter is gone
  return *created;
}

// An array on a GPU is asked to synchronise with the stream we launch on; on the host there is none.
bool ask_with_stream(py::handle object) {
#if defined(TK_MODULE_CUDA)
  py::object device = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), names().device));
  if (!device) {
    PyErr_Clear();
    return false;
  }
  const auto type = device.cast<py::tuple>()[0].cast<int>();
  return type == dlpack::kCUDA || type == dlpack::kCUDAManaged;
#else
  static_cast<void>(object);
  return false;
#endif
}

PyObject* ask_for_capsule(py::handle object) {
  const Names& n = names();
  PyObject* arguments[] = {object.ptr(), n.version, n.legacy_stream};
  PyObject* capsule = PyObject_VectorcallMethod(n.dlpack, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                                ask_with_stream(object) ? n.device_keywords : n.version_keyword);
  if (capsule || !PyErr_ExceptionMatches(PyExc_TypeError)) return capsule;
  PyErr_Clear();  // a producer older than DLPack 1.0 knows no max_version
  return PyObject_CallMethodNoArgs(object.ptr(), n.dlpack);
}

bool to_dtype(const dlpack::DataType& raw, DType* dtype) {
  if (raw.lanes != 1) return false;
  switch (raw.code * 256 + raw.bits) {
    case dlpack::kFloat * 256 + 32:
      return *dtype = DType::f32, true;
    case dlpack::kFloat * 256 + 16:
      return *dtype = DType::f16, true;
    case dlpack::kBfloat * 256 + 16:
      return *dtype = DType::bf16, true;
    case dlpack::kFloat * 256 + 64:
      return *dtype = DType::f64, true;
    case dlpack::kInt * 256 + 32:
      return *dtype = DType::i32, true;
    case dlpack::kInt * 256 + 64:
      return *dtype = DType::i64, true;
    case dlpack::kInt * 256 + 8:
      return *dtype = DType::i8, true;
    case dlpack::kUInt * 256 + 8:
      return *dtype = DType::u8, true;
    case dlpack::kBool * 256 + 8:
      return *dtype = DType::boolean, true;
    default:
      return false;
  }
}

[[noreturn]] void raise_not_an_array(const char* op, const char* name, py::handle object) {
  throw TypeError(std::string(op) + ": " + name +
                  " must be an array (NumPy, torch, JAX, CuPy or any DLPack producer), got " +
                  Py_TYPE(object.ptr())->tp_name);
}

// The producer refused: its own words say best why (byte order, sparse layout, a dtype without DLPack code).
[[noreturn]] void raise_refused(const char* op, const char* name, py::handle object, py::error_already_set& error) {
  if (!error.matches(PyExc_Exception) || error.matches(PyExc_MemoryError)) throw error;
  throw TypeError(std::string(op) + ": " + name + " must be readable through DLPack, got " +
                  Py_TYPE(object.ptr())->tp_name + " (" + py::str(error.value()).cast<std::string>() + ")");
}

[[noreturn]] void raise_refused(const char* op, const char* name, py::handle object) {
  py::error_already_set error;
  raise_refused(op, name, object, error);
}

// NumPy before 2.1 cannot export a read-only array at all.
bool is_read_only_numpy(py::handle object) {
  const py::object flags = py::getattr(object, "flags", py::none());
  return py::getattr(flags, "writeable", py::none()).is(py::bool_(false));
}

// torch sets the negative bit on the imaginary part of a conjugate and on views of it, whose strides are all even.
bool may_be_imaginary_part(const View& view) {
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 0 || (view.shape[i] > 1 && view.strides[i] % 2 != 0)) return false;
  }
  return true;
}

py::object call_method(py::handle object, PyObject* name) {
  PyObject* result = PyObject_CallMethodNoArgs(object.ptr(), name);
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

}  // namespace

std::string dtype_text(const dlpack::DataType& dtype) {
  static constexpr const char* kNames[] = {"int", "uint", "float", "opaque", "bfloat", "complex"};
  if (dtype.code == dlpack::kBool) return "bool";
  const std::string base = dtype.code < 6 ? kNames[dtype.code] : "float8-like code " + std::to_string(dtype.code);
  std::string text = base + (dtype.code < 6 ? std::to_string(dtype.bits) : "");
  if (dtype.lanes != 1) text += "x" + std::to_string(dtype.lanes);
  return text;
}

std::string extents_text(const View& view) {
  std::string text = "(";
  for (int i = 0; i < view.ndim; ++i) {
    if (i) text += ", ";
    text += std::to_string(view.shape[i]);
  }
  return text + (view.ndim == 1 ? ",)" : ")");
}

const Imported& TensorArg::import(const char* op, const char* name, py::handle object) {
  const TypeFacts facts = facts_of(Py_TYPE(object.ptr()));
  imported_.torch_like = facts.torch_like;
  read(op, name, object, facts.api);
  if (facts.torch_like && may_be_imaginary_part(imported_.view) &&
      call_method(object, names().is_neg).is(py::bool_(true))) {
    release();
    copy_ = call_method(object, names().resolve_neg);
    read(op, name, copy_, facts.api);
    imported_.read_only = "a view that stands for the negative of its memory";
  }
  return imported_;
}

void TensorArg::read(const char* op, const char* name, py::handle object, const dlpack::ExchangeApi* api) {
  if (api) {
    read_exchange(op, name, object, *api);
  } else {
    read_capsule(op, name, object);
  }
}

void TensorArg::read_exchange(const char* op, const char* name, py::handle object, const dlpack::ExchangeApi& api) {
  imported_.route = Route::exchange;
  if (api.borrow) {
    dlpack::Tensor tensor;
    if (api.borrow(object.ptr(), &tensor) != 0) raise_refused(op, name, object);
    return fill(op, name, tensor);
  }
  if (api.import_owned(object.ptr(), &versioned_) != 0) raise_refused(op, name, object);
  fill(op, name, versioned_->tensor);
  if (versioned_->flags & dlpack::kReadOnly) imported_.read_only = "a read-only array";
}

void TensorArg::read_capsule(const char* op, const char* name, py::handle object) {
  if (!PyObject_HasAttr(object.ptr(), names().dlpack)) raise_not_an_array(op, name, object);
  py::object capsule = py::reinterpret_steal<py::object>(ask_for_capsule(object));
  if (capsule) return take_capsule(op, name, object, capsule);
  py::error_already_set error;
  if (!error.matches(PyExc_BufferError) || !is_read_only_numpy(object)) raise_refused(op, name, object, error);
  copy_ = object.attr("copy")();
  capsule = py::reinterpret_steal<py::object>(ask_for_capsule(copy_));
  if (!capsule) raise_refused(op, name, object);
  take_capsule(op, name, object, capsule);
  imported_.read_only = "a read-only array";
}

// The capsule is renamed before anything else, as the protocol asks: from then on the deleter is ours to call.
void TensorArg::take_capsule(const char* op, const char* name, py::handle object, py::handle capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    versioned_ = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    if (versioned_->version.major != dlpack::kMajor) {
      throw TypeError(std::string(op) + ": " + name + " must speak DLPack version 1, got version " +
                      std::to_string(versioned_->version.major));
    }
    imported_.route = Route::versioned;
    fill(op, name, versioned_->tensor);
    if (versioned_->flags & dlpack::kReadOnly) imported_.read_only = "a read-only array";
    return;
  }
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor")) raise_not_an_array(op, name, object);
  legacy_ = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  imported_.route = Route::legacy;
  fill(op, name, legacy_->tensor);
}

void TensorArg::fill(const char* op, const char* name, const dlpack::Tensor& tensor) {
  View& view = imported_.view;
  if (tensor.ndim > kMaxDims) {
    throw ValueError(std::string(op) + ": " + name + " must have at most " + std::to_string(kMaxDims) +
                     " dimensions, got " + std::to_string(tensor.ndim));
  }
  view.data = tensor.data ? static_cast<char*>(tensor.data) + tensor.byte_offset : nullptr;
  view.device_type = tensor.device.type;
  view.device_id = tensor.device.id;
  view.ndim = tensor.ndim;
  for (int i = 0; i < tensor.ndim; ++i) {
    view.shape[i] = tensor.shape[i];
    view.strides[i] = tensor.strides ? tensor.strides[i] : 0;
  }
  imported_.raw_dtype = tensor.dtype;
  imported_.supported = to_dtype(tensor.dtype, &view.dtype);
  bool fits = find_extent(view, &imported_.extent);
  if (fits && !tensor.strides) {  // row-major; the product of the extents is known to fit by now
    set_dense_strides(view);
    fits = find_extent(view, &imported_.extent);
  }
  if (!fits) {
    throw ValueError(std::string(op) + ": " + name + " must span fewer than 2**60 elements, got extents " +
                     extents_text(view));
  }
  if (!view.data && !is_empty(view)) {
    throw TypeError(std::string(op) + ": " + name +
                    " must hold data, got an array without memory (a fake, meta or symbolic tensor)");
  }
}

void TensorArg::release() {
  if (versioned_ && versioned_->deleter) versioned_->deleter(versioned_);
  if (legacy_ && legacy_->deleter) legacy_->deleter(legacy_);
  versioned_ = nullptr;
  legacy_ = nullptr;
}

void* TensorArg::current_stream(py::handle object, const View& view) {
  const dlpack::ExchangeApi* api = facts_of(Py_TYPE(object.ptr())).api;
  void* stream = nullptr;
  if (!api || !api->current_stream) return nullptr;
  if (api->current_stream(static_cast<dlpack::DeviceType>(view.device_type), view.device_id, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

}  // namespace tk::bind
