// SPDX-License-Identifier: Apache-2.0
#include "bind/call.h"

#include <cstring>
#include <string>

#include "bind/allocator.h"

#if defined(TK_MODULE_SIMT)
#include "simt/call_scope.h"
#endif
#if defined(TK_MODULE_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace tk::bind {

struct Call::Staging {
#if defined(TK_MODULE_SIMT)
  simt::CallScope scope;
#endif
};

namespace {

#if defined(TK_MODULE_CUDA)
constexpr bool kHostMemory = false;
#else
constexpr bool kHostMemory = true;
#endif

constexpr size_t kPackAlign = 64;

py::object& workspace_allocator() {
  static auto* allocator = new py::object;  // never freed: destroying it after the interpreter would crash
  return *allocator;
}

const char* dtype_name(int bit) {
  static constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "float64",
                                           "int32",   "int64",   "uint8",    "bool"};
  return kNames[bit];
}

std::string dtypes_text(uint32_t dtypes) {
  std::vector<const char*> found;
  for (int bit = 0; bit < 8; ++bit) {
    if (dtypes >> bit & 1u) found.push_back(dtype_name(bit));
  }
  std::string text;
  for (size_t i = 0; i < found.size(); ++i) {
    if (i) text += i + 1 == found.size() ? " or " : ", ";
    text += found[i];
  }
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

std::string got_text(const Imported& imported) {
  return extents_text(imported.view) + " " + dtype_text(imported.raw_dtype);
}

bool is_letter(char c) { return c >= 'A' && c <= 'Z'; }

int rank_of(const char* shape) {
  int rank = 0;
  for (const char* c = shape; *c; ++c) rank += *c != ' ' && (c == shape || c[-1] == ' ');
  return rank;
}

// Strides that the kernels may rely on: none negative, the innermost one, extents of one and empty arrays regular.
bool expressible(const View& view, bool dense) {
  const auto item = static_cast<int64_t>(item_size(view.dtype));
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(item) != 0) return false;
  if (is_contiguous(view)) return true;
  if (dense || view.strides[view.ndim - 1] != 1) return false;
  for (int i = 0; i < view.ndim; ++i) {
    if (view.strides[i] < 0) return false;
  }
  return true;
}

Tensor with_regular_strides(const View& view) {
  Tensor t;
  static_cast<View&>(t) = view;
  t.present = true;
  int64_t dense = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    if (t.shape[i] == 1) t.strides[i] = dense;
    dense = t.strides[i] * (t.shape[i] > 0 ? t.shape[i] : 1);
  }
  return t;
}

void set_dense_strides(View& view) {
  int64_t dense = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    view.strides[i] = dense;
    dense *= view.shape[i] > 0 ? view.shape[i] : 1;
  }
}

// Visits every element of a strided array in row-major order.
template <class Visit>
void for_each_element(const View& view, Visit visit) {
  int64_t position[kMaxDims] = {};
  const auto item = static_cast<int64_t>(item_size(view.dtype));
  const char* element = static_cast<const char*>(view.data);
  if (is_empty(view)) return;
  for (;;) {
    visit(element);
    int axis = view.ndim - 1;
    for (; axis >= 0; --axis) {
      element += view.strides[axis] * item;
      if (++position[axis] < view.shape[axis]) break;
      element -= view.strides[axis] * item * view.shape[axis];
      position[axis] = 0;
    }
    if (axis < 0) return;
  }
}

void pack_elements(const View& view, char* out) {
  const size_t item = item_size(view.dtype);
  for_each_element(view, [&](const char* element) {
    std::memcpy(out, element, item);
    out += item;
  });
}

void widen_elements(const View& view, int64_t* out) {
  for_each_element(view, [&](const char* element) {
    int32_t value;
    std::memcpy(&value, element, sizeof value);
    *out++ = value;
  });
}

}  // namespace

Call::Call(const char* op) : op_(op) {
  for (int64_t& d : dims_) d = -1;
}

Call::~Call() = default;

int64_t Call::dim(char letter) const { return dims_[letter - 'A']; }
void Call::set(char letter, int64_t extent) { dims_[letter - 'A'] = extent; }

void Call::fail_value(const char* name, const std::string& expected, const std::string& got) const {
  throw ValueError(std::string(op_) + ": " + name + " must be " + expected + ", got " + got);
}

Call::Slot& Call::next_slot(const char* name, py::handle object) {
  if (used_ == kMaxArgs) throw std::length_error("tokernel: an op has more arguments than Call can hold");
  Slot& slot = slots_[static_cast<size_t>(used_++)];
  slot.name = name;
  slot.object = object;
  return slot;
}

Tensor Call::in(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  return take(name, object, dtypes, shape, false);
}

Tensor Call::in(const char* name, py::handle object, DType dtype, const char* shape) {
  return take(name, object, dtype_bit(dtype), shape, false);
}

Tensor Call::dense(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  return take(name, object, dtypes, shape, true);
}

Tensor Call::optional(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  return object.is_none() ? Tensor{} : in(name, object, dtypes, shape);
}

Tensor Call::optional_dense(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  return object.is_none() ? Tensor{} : dense(name, object, dtypes, shape);
}

Tensor Call::optional_out(const char* name, py::handle object, DType dtype, const char* shape) {
  return object.is_none() ? Tensor{} : out(name, object, dtype, shape);
}

Tensor Call::take(const char* name, py::handle object, uint32_t dtypes, const char* shape, bool dense) {
  Slot& slot = next_slot(name, object);
  const Imported& imported = slot.arg.import(op_, name, object);
  check_device(slot, imported.view);
  check_shape(slot, imported.view, shape, imported);
  check_dtype(slot, imported, dtypes);
  note_extent(slot, imported.view);
  Tensor tensor = make_readable(slot, imported.view, dense || (dtypes & dtype_bit(DType::i64)) != 0);
  stage(slot, tensor);
  return tensor;
}

py::object Call::allocate(DType dtype, const char* shape) const {
  int64_t extents[kMaxDims];
  int ndim = 0;
  for (const char* c = shape; *c; ++c) {
    if (is_letter(*c)) extents[ndim++] = dim(*c);
  }
  return new_array(slots_[0].object, slots_[0].arg.imported().view.dtype, dtype, extents, ndim);
}

py::object Call::results() {
  for (py::object& output : outputs_) output = finish_array(slots_[0].object, std::move(output));
  if (outputs_.size() == 1) return outputs_[0];
  py::tuple all(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) all[i] = outputs_[i];
  return all;
}

Tensor Call::out(const char* name, py::handle object, DType dtype, const char* shape) {
  outputs_.push_back(object.is_none() ? allocate(dtype, shape) : py::reinterpret_borrow<py::object>(object));
  object = outputs_.back();
  Slot& slot = next_slot(name, object);
  slot.written = true;
  const Imported& imported = slot.arg.import(op_, name, object);
  check_device(slot, imported.view);
  check_shape(slot, imported.view, shape, imported);
  check_dtype(slot, imported, dtype_bit(dtype));
  check_writable(slot, imported);
  note_extent(slot, imported.view);
  check_overlap(slot);
  Tensor tensor = with_regular_strides(imported.view);
  stage(slot, tensor);
  return tensor;
}

void Call::check_device(const Slot& slot, const View& view) {
#if defined(TK_MODULE_CUDA)
  const bool right = view.device_type == dlpack::kCUDA || view.device_type == dlpack::kCUDAManaged;
  const char* expected = "on a CUDA device, as the other arguments";
#else
  const bool right = view.device_type == dlpack::kCPU || view.device_type == dlpack::kCUDAHost;
  const char* expected = "on the CPU, as the other arguments";
#endif
  const int32_t first = slots_[0].arg.device_id();
  if (right && (kHostMemory || view.device_id == first)) return;
  fail_value(slot.name, expected,
             "DLPack device (" + std::to_string(view.device_type) + ", " + std::to_string(view.device_id) + ")");
}

void Call::check_dtype(const Slot& slot, const Imported& imported, uint32_t dtypes) const {
  if (imported.supported && (dtypes & dtype_bit(imported.view.dtype))) return;
  throw TypeError(std::string(op_) + ": " + slot.name + " must be " + dtypes_text(dtypes) + ", got " +
                  dtype_text(imported.raw_dtype));
}

// "B N C" means three extents; a number is a fixed extent.
void Call::check_shape(const Slot& slot, const View& view, const char* shape, const Imported& imported) {
  bool fits = view.ndim == rank_of(shape);
  const char* c = shape;
  for (int i = 0; fits && i < view.ndim; ++i) {
    while (*c == ' ') ++c;
    if (is_letter(*c)) {
      int64_t& extent = dims_[*c++ - 'A'];
      if (extent < 0) extent = view.shape[i];
      fits = extent == view.shape[i];
    } else {
      char* end = nullptr;
      fits = std::strtoll(c, &end, 10) == view.shape[i];
      c = end;
    }
  }
  if (!fits) fail_value(slot.name, shape_text(shape), got_text(imported));
}

// "(B, M) with B = 2": letters bound by other arguments carry their extent.
std::string Call::shape_text(const char* shape) const {
  std::string text = "(";
  std::string bound;
  for (const char* c = shape; *c; ++c) {
    if (*c == ' ') {
      text += ", ";
      continue;
    }
    text += *c;
    if (!is_letter(*c) || dim(*c) < 0) continue;
    bound += std::string(bound.empty() ? " with " : ", ") + *c + " = " + std::to_string(dim(*c));
  }
  return text + (rank_of(shape) == 1 ? ",)" : ")") + bound;
}

void Call::check_writable(const Slot& slot, const Imported& imported) const {
  const View& view = imported.view;
  if (view.read_only) fail_value(slot.name, "writable", "a read-only array");
  if (imported.route == Route::legacy && std::strcmp(Py_TYPE(slot.object.ptr())->tp_name, "Tensor") != 0) {
    fail_value(slot.name, "writable",
               std::string("an array of type ") + Py_TYPE(slot.object.ptr())->tp_name +
                   ", which does not say whether it may be written");
  }
  if (!is_contiguous(view) && !is_empty(view)) fail_value(slot.name, "C-contiguous", "a strided array");
  if (reinterpret_cast<uintptr_t>(view.data) % item_size(view.dtype) != 0) {
    fail_value(slot.name, "aligned to its item size", "a misaligned array");
  }
}

void Call::note_extent(Slot& slot, const View& view) const {
  const auto* base = static_cast<const char*>(view.data);
  slot.lowest = slot.highest = base;
  if (is_empty(view)) return;
  const auto item = static_cast<int64_t>(item_size(view.dtype));
  int64_t low = 0;
  int64_t high = 0;
  for (int i = 0; i < view.ndim; ++i) {
    const int64_t reach = (view.shape[i] - 1) * view.strides[i];
    (reach < 0 ? low : high) += reach;
  }
  slot.lowest = base + low * item;
  slot.highest = base + (high + 1) * item;
}

void Call::check_overlap(const Slot& slot) const {
  for (int i = 0; i < used_; ++i) {
    const Slot& other = slots_[static_cast<size_t>(i)];
    if (&other == &slot || other.lowest == other.highest) continue;
    if (slot.lowest < other.highest && other.lowest < slot.highest) {
      fail_value(slot.name, "memory of its own", std::string("an array that overlaps ") + other.name);
    }
  }
}

Tensor Call::make_readable(Slot& slot, const View& view, bool dense) {
  const bool widen = dense && view.dtype == DType::i32;
  if (!widen && expressible(view, dense)) return with_regular_strides(view);
  if (!kHostMemory) {
    fail_value(slot.name, widen ? "int64 on a device" : "contiguous on a device",
               widen ? "int32" : "a strided or misaligned array");
  }
  int64_t count = 0;
  count_elements(view, &count);
  Tensor packed;
  static_cast<View&>(packed) = view;
  packed.present = true;
  set_dense_strides(packed);
  packed.dtype = widen ? DType::i64 : view.dtype;
  packed.data = keep_bytes(static_cast<size_t>(count) * item_size(packed.dtype));
  if (widen) {
    widen_elements(view, packed.as<int64_t>());
  } else {
    pack_elements(view, packed.as<char>());
  }
  return packed;
}

void* Call::keep_bytes(size_t bytes) {
  packed_.push_back(std::make_unique_for_overwrite<char[]>(bytes + kPackAlign));
  const auto address = reinterpret_cast<uintptr_t>(packed_.back().get());
  return reinterpret_cast<void*>((address + kPackAlign - 1) / kPackAlign * kPackAlign);
}

void Call::check_index(const char* name, const Tensor& index, int64_t high, int64_t low) const {
  if (!kHostMemory) return;
  int64_t count = 0;
  count_elements(index, &count);
  const auto* values = index.as<int64_t>();
  bool fits = true;
  for (int64_t i = 0; i < count; ++i) fits &= values[i] >= low && values[i] < high;
  if (fits) return;
  int64_t i = 0;
  while (values[i] >= low && values[i] < high) ++i;
  fail_value(name, "in [" + std::to_string(low) + ", " + std::to_string(high) + ")",
             std::to_string(values[i]) + " at flat position " + std::to_string(i));
}

void Call::check_offsets(const char* name, const Tensor& offsets, int64_t total) const {
  if (!kHostMemory) return;
  const int64_t extent = offsets.size(offsets.ndim - 1);
  if (extent < 1) fail_value(name, "at least one offset long", "none");
  int64_t count = 0;
  count_elements(offsets, &count);
  const auto* values = offsets.as<int64_t>();
  for (int64_t i = 0; i < count; ++i) {
    const bool first = i % extent == 0;
    const bool last = i % extent == extent - 1;
    const char* rule = nullptr;
    if (first && values[i] != 0) rule = "0 at its start";
    if (!first && values[i] < values[i - 1]) rule = "non-decreasing";
    if (!rule && last && values[i] != total) rule = "equal to the number of tokens at its end";
    if (rule) fail_value(name, rule, std::to_string(values[i]) + " at flat position " + std::to_string(i));
  }
}

// On the host executor kernels see guarded copies, so that one element too many is caught.
void Call::stage([[maybe_unused]] Slot& slot, [[maybe_unused]] Tensor& tensor) {
#if defined(TK_MODULE_SIMT)
  if (!staging_) staging_ = std::make_unique<Staging>();
  int64_t reach = 1;
  for (int i = 0; i < tensor.ndim; ++i) reach += (tensor.shape[i] - 1) * tensor.strides[i];
  const size_t bytes = is_empty(tensor) ? 0 : static_cast<size_t>(reach) * item_size(tensor.dtype);
  tensor.data = staging_->scope.stage(slot.name, tensor.data, bytes, slot.written);
#endif
}

GpuContext Call::prepare([[maybe_unused]] size_t workspace_bytes) {
  GpuContext context;
  context.workspace_bytes = workspace_bytes;
#if defined(TK_MODULE_SIMT)
  if (!staging_) staging_ = std::make_unique<Staging>();
  if (workspace_bytes) context.workspace = staging_->scope.workspace(workspace_bytes);
#elif defined(TK_MODULE_CUDA)
  const View& view = slots_[0].arg.imported().view;
  cudaSetDevice(view.device_id);
  context.stream = TensorArg::current_stream(slots_[0].object, view);
  if (workspace_bytes) {
    workspace_owner_ = workspace_allocator()(slots_[0].object, workspace_bytes);
    context.workspace = workspace_.import(op_, "workspace", workspace_owner_).view.data;
  }
#endif
  return context;
}

void Call::finish() {
#if defined(TK_MODULE_SIMT)
  staging_->scope.finish();
#endif
}

void register_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ValueError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const TypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    }
  });
}

namespace {

// What the binding sees of an array: for debugging interoperability, and for the tests of every DLPack trap.
py::dict describe(py::handle object) {
  TensorArg arg;
  const Imported& imported = arg.import("describe", "x", object);
  static constexpr const char* kRoutes[] = {"exchange", "versioned", "legacy"};
  py::dict d;
  d["shape"] = py::tuple(py::cast(std::vector<int64_t>(imported.view.shape, imported.view.shape + imported.view.ndim)));
  d["strides"] =
      py::tuple(py::cast(std::vector<int64_t>(imported.view.strides, imported.view.strides + imported.view.ndim)));
  d["dtype"] = dtype_text(imported.raw_dtype);
  d["device"] = py::make_tuple(imported.view.device_type, imported.view.device_id);
  d["route"] = kRoutes[static_cast<int>(imported.route)];
  d["read_only"] = imported.view.read_only;
  d["address"] = reinterpret_cast<uintptr_t>(imported.view.data);
  return d;
}

}  // namespace

void bind_call(py::module_& m) {
  m.def("describe", &describe);
  bind_allocator(m);
  m.def("set_workspace_allocator", [](py::object allocator) { workspace_allocator() = std::move(allocator); });
}

}  // namespace tk::bind
