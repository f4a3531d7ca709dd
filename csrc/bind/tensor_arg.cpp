// SPDX-License-Identifier: Apache-2.0
#include "bind/tensor_arg.h"

#include <atomic>
#include <mutex>
#include <string>

#include "core/error.h"

namespace tk::bind {
namespace {

// ---- the exchange API of a type: looked up once, then found without taking a lock ------------------------------
struct CachedApi {
  PyTypeObject* type;
  const dlpack::ExchangeApi* api;  // null: the type has none
};

constexpr int kCacheSize = 16;
CachedApi cache[kCacheSize];
std::atomic<int> cached{0};
std::mutex cache_mutex;

const dlpack::ExchangeApi* look_up_api(PyTypeObject* type) {
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (!capsule) {
    PyErr_Clear();
    return nullptr;
  }
  // The capsule lives as long as the process, by the specification.
  auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);
  if (!api) PyErr_Clear();
  return api && api->header.version.major == dlpack::kMajor ? api : nullptr;
}

const dlpack::ExchangeApi* api_of(PyTypeObject* type) {
  const int n = cached.load(std::memory_order_acquire);
  for (int i = 0; i < n; ++i) {
    if (cache[i].type == type) return cache[i].api;
  }
  const dlpack::ExchangeApi* api = look_up_api(type);
  const std::lock_guard lock(cache_mutex);
  const int slot = cached.load(std::memory_order_relaxed);
  if (slot < kCacheSize) {
    Py_INCREF(reinterpret_cast<PyObject*>(type));  // keeps the address from being reused by another type
    cache[slot] = {type, api};
    cached.store(slot + 1, std::memory_order_release);
  }
  return api;
}

// ---- the Python protocol ------------------------------------------------------------------------------------
struct Names {
  PyObject* dlpack = PyUnicode_InternFromString("__dlpack__");
  PyObject* device = PyUnicode_InternFromString("__dlpack_device__");
  PyObject* version_keyword = Py_BuildValue("(s)", "max_version");
  PyObject* device_keywords = Py_BuildValue("(ss)", "max_version", "stream");
  PyObject* version = Py_BuildValue("(ii)", 1, 3);
  PyObject* legacy_stream = PyLong_FromLong(1);
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
[[noreturn]] void raise_refused(const char* op, const char* name, py::handle object) {
  py::error_already_set error;
  throw TypeError(std::string(op) + ": " + name + " cannot be read from " + Py_TYPE(object.ptr())->tp_name + ": " +
                  py::str(error.value()).cast<std::string>());
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

const Imported& TensorArg::import(const char* op, const char* name, py::handle object) {
  if (!import_by_exchange(op, name, object)) import_by_capsule(op, name, object);
  return imported_;
}

bool TensorArg::import_by_exchange(const char* op, const char* name, py::handle object) {
  const dlpack::ExchangeApi* api = api_of(Py_TYPE(object.ptr()));
  if (!api) return false;
  imported_.route = Route::exchange;
  if (api->borrow) {
    dlpack::Tensor tensor;
    if (api->borrow(object.ptr(), &tensor) != 0) raise_refused(op, name, object);
    fill(op, name, tensor);
    return true;
  }
  if (api->import_owned(object.ptr(), &versioned_) != 0) raise_refused(op, name, object);
  fill(op, name, versioned_->tensor);
  return true;
}

void TensorArg::import_by_capsule(const char* op, const char* name, py::handle object) {
  if (!PyObject_HasAttr(object.ptr(), names().dlpack)) raise_not_an_array(op, name, object);
  py::object capsule = py::reinterpret_steal<py::object>(ask_for_capsule(object));
  if (!capsule) raise_refused(op, name, object);
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    versioned_ = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    if (versioned_->version.major != dlpack::kMajor) {
      throw TypeError(std::string(op) + ": " + name + " must speak DLPack version 1, got version " +
                      std::to_string(versioned_->version.major));
    }
    imported_.route = Route::versioned;
    fill(op, name, versioned_->tensor);
    imported_.view.read_only = (versioned_->flags & dlpack::kReadOnly) != 0;
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
  int64_t dense = 1;
  bool overflow = false;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    view.shape[i] = tensor.shape[i];
    view.strides[i] = tensor.strides ? tensor.strides[i] : dense;
    if (tensor.shape[i] > 0) overflow |= __builtin_mul_overflow(dense, tensor.shape[i], &dense);
  }
  overflow |= __builtin_mul_overflow(dense, int64_t{8}, &dense);  // the widest element
  if (overflow) throw ValueError(std::string(op) + ": " + name + " must have fewer than 2**60 elements");
  imported_.raw_dtype = tensor.dtype;
  imported_.supported = to_dtype(tensor.dtype, &view.dtype);
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
  const dlpack::ExchangeApi* api = api_of(Py_TYPE(object.ptr()));
  void* stream = nullptr;
  if (!api || !api->current_stream) return nullptr;
  if (api->current_stream(static_cast<dlpack::DeviceType>(view.device_type), view.device_id, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

}  // namespace tk::bind
