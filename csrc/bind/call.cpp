// SPDX-License-Identifier: Apache-2.0
#include "bind/call.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "bind/allocator.h"

namespace tk::bind {

namespace {

#if defined(TK_MODULE_CUDA)
constexpr bool kHostMemory = false;
#else
constexpr bool kHostMemory = true;
#endif

constexpr size_t kPackAlign = 64;

const char* dtype_name(int bit) {
  static constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "float64", "int32",
                                           "int64",   "uint8",   "bool",     "int8"};
  return kNames[bit];
}

std::string dtypes_text(uint32_t dtypes) {
  std::vector<const char*> found;
  for (int bit = 0; bit < 9; ++bit) {
    if (dtypes >> bit & 1u) found.push_back(dtype_name(bit));
  }
  std::string text;
  for (size_t i = 0; i < found.size(); ++i) {
    if (i) text += i + 1 == found.size() ? " or " : ", ";
    text += found[i];
  }
  return text;
}

std::string got_text(const Imported& imported) {
  return extents_text(imported.view) + " " + dtype_text(imported.raw_dtype);
}

bool is_letter(char c) { return c >= 'A' && c <= 'Z'; }

bool ends_shape(char c) { return c == '\0' || c == '|'; }

int rank_of(const char* shape) {
  int rank = 0;
  for (const char* c = shape; !ends_shape(*c); ++c) rank += *c != ' ' && (c == shape || c[-1] == ' ');
  return rank;
}

// "B N|N" lists shapes of different rank: the one that can fit, else the first.
const char* alternative(const char* shapes, int rank) {
  for (const char* shape = shapes;; ++shape) {
    if (rank_of(shape) == rank) return shape;
    while (!ends_shape(*shape)) ++shape;
    if (!*shape) return shapes;
  }
}

Tensor with_regular_strides(const View& view) {
  Tensor t;
  static_cast<View&>(t) = view;
  t.present = true;
  regularise_strides(t);
  return t;
}

// Nothing to read, but an address: that of an empty array on a device is null, by which kernels know an absent one.
Tensor without_elements(const View& view, DType dtype) {
  static unsigned char nothing[kPackAlign];
  Tensor empty;
  static_cast<View&>(empty) = view;
  empty.present = true;
  set_dense_strides(empty);
  empty.dtype = dtype;
  empty.data = nothing;
  return empty;
}

template <class AnyView>
AnyView swap_innermost(AnyView view) {
  std::swap(view.shape[view.ndim - 1], view.shape[view.ndim - 2]);
  std::swap(view.strides[view.ndim - 1], view.strides[view.ndim - 2]);
  return view;
}

std::string device_text(const View& view) {
  switch (view.device_type) {
    case dlpack::kCPU:
    case dlpack::kCUDAHost:
      return "an array on the CPU";
    case dlpack::kCUDA:
    case dlpack::kCUDAManaged:
      return "an array on CUDA device " + std::to_string(view.device_id);
    default:
      return "an array on DLPack device (" + std::to_string(view.device_type) + ", " + std::to_string(view.device_id) +
             ")";
  }
}

}  // namespace

bool Call::on_host() { return kHostMemory; }

int64_t Call::dim(char letter) const { return dims_[letter - 'A']; }
void Call::set(char letter, int64_t extent) { dims_[letter - 'A'] = extent; }

int64_t Call::set_count(const char* name, char letter, py::handle object) {
  const int64_t extent = integer(name, object, 0);
  set(letter, extent);
  return extent;
}

void Call::fail_value(const char* name, const std::string& expected, const std::string& got) const {
  throw ValueError(std::string(op_) + ": " + name + " must be " + expected + ", got " + got);
}

void Call::fail_type(const char* name, const std::string& expected, const std::string& got) const {
  throw TypeError(std::string(op_) + ": " + name + " must be " + expected + ", got " + got);
}

int64_t Call::integer(const char* name, py::handle object, int64_t low) const {
  const std::string expected = "an integer of at least " + std::to_string(low);
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    PyErr_Clear();
    fail_type(name, expected, Py_TYPE(object.ptr())->tp_name);
  }
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow || value < low) fail_value(name, expected, py::str(index));
  return value;
}

double Call::real(const char* name, py::handle object, double low, double high) const {
  const auto range = [&] { return std::string(py::str("in [{}, {}]").format(low, high)); };
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    fail_type(name, "a number " + range(), Py_TYPE(object.ptr())->tp_name);
  }
  if (!(value >= low && value <= high)) fail_value(name, range(), py::str(object));
  return value;
}

void Call::check_extents(const char* name, std::initializer_list<int64_t> extents) const {
  int64_t bytes = 8;
  bool fits = true;
  for (const int64_t extent : extents) fits = fits && !__builtin_mul_overflow(bytes, extent, &bytes);
  if (!fits) fail_value(name, "small enough for an array", "more elements than int64 can count");
}

Call::Slot& Call::next_slot(const char* name, py::handle object) {
  if (used_ == kMaxArgs) throw std::length_error("tokernel: an op has more arguments than Call can hold");
  Slot& slot = slots_[static_cast<size_t>(used_++)];
  slot.name = name;
  slot.object = object;
  return slot;
}

Tensor Call::in(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  return take(name, object, dtypes, shape, Layout::strided);
}

Tensor Call::in(const char* name, py::handle object, DType dtype, const char* shape) {
  return take(name, object, dtype_bit(dtype), shape, Layout::strided);
}

Tensor Call::dense(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  return take(name, object, dtypes, shape, Layout::dense);
}

Tensor Call::matrices(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  return take(name, object, dtypes, shape, Layout::transposable);
}

Tensor Call::table(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  return take(name, object, dtypes, shape, Layout::table);
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

Tensor Call::take(const char* name, py::handle object, uint32_t dtypes, const char* shape, Layout layout) {
  Slot& slot = next_slot(name, object);
  const Imported& imported = slot.arg.import(op_, name, object);
  check_device(slot, imported.view);
  check_shape(slot, imported.view, shape, imported);
  check_dtype(slot, imported, dtypes);
  note_extent(slot, imported);
  check_overlap(slot);
  const bool widens = layout != Layout::table && (dtypes & dtype_bit(DType::i64)) != 0;
  const bool dense = layout == Layout::dense || widens;
  Tensor tensor = make_readable(slot, imported.view, dense, layout == Layout::transposable);
  stage(slot, tensor);
  return tensor;
}

py::object Call::allocate(const char* name, DType dtype, const char* shape) const {
  View wanted;
  for (const char* c = shape; *c; ++c) {
    if (is_letter(*c)) wanted.shape[wanted.ndim++] = dim(*c);
  }
  Extent extent;
  if (!find_extent(wanted, &extent)) fail_value(name, "smaller than 2**60 elements", extents_text(wanted));
  return new_array(slots_[0].object, slots_[0].arg.imported().view.dtype, dtype, wanted.shape, wanted.ndim);
}

py::object Call::results() {
  for (py::object& output : outputs_) output = finish_array(slots_[0].object, std::move(output));
  if (outputs_.size() == 1) return outputs_[0];
  py::tuple all(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) all[i] = outputs_[i];
  return all;
}

Tensor Call::out(const char* name, py::handle object, DType dtype, const char* shape) {
  const bool ours = object.is_none();
  outputs_.push_back(ours ? allocate(name, dtype, shape) : py::reinterpret_borrow<py::object>(object));
  object = outputs_.back();
  Slot& slot = next_slot(name, object);
  slot.written = true;
  const Imported& imported = slot.arg.import(op_, name, object);
  check_device(slot, imported.view);
  check_shape(slot, imported.view, shape, imported);
  check_dtype(slot, imported, dtype_bit(dtype));
  if (!ours) {
    check_writable(slot, imported);
    const bool fits = is_contiguous(imported.view) || is_empty(imported.view);
    if (!fits) fail_value(name, "C-contiguous", "a strided array");
  }
  note_extent(slot, imported);
  check_overlap(slot);
  Tensor tensor = with_regular_strides(imported.view);
  stage(slot, tensor);
  return tensor;
}

Tensor Call::inout(const char* name, py::handle object, uint32_t dtypes, const char* shape) {
  Slot& slot = next_slot(name, object);
  slot.written = true;
  slot.updated = true;
  const Imported& imported = slot.arg.import(op_, name, object);
  const View& view = imported.view;
  check_device(slot, view);
  check_shape(slot, view, shape, imported);
  check_dtype(slot, imported, dtypes);
  check_writable(slot, imported);
  const int inner = view.ndim - 1;
  if (view.shape[inner] > 1 && view.strides[inner] != 1 && !is_empty(view)) {
    fail_value(name, "contiguous along its last dimension", "a strided array");
  }
  if (!has_own_elements(view)) fail_value(name, "free of shared memory and negative strides", "a view with some");
  note_extent(slot, imported);
  check_overlap(slot);
  Tensor tensor = with_regular_strides(view);
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
  fail_value(slot.name, expected, device_text(view));
}

void Call::check_dtype(const Slot& slot, const Imported& imported, uint32_t dtypes) const {
  if (imported.supported && (dtypes & dtype_bit(imported.view.dtype))) return;
  throw TypeError(std::string(op_) + ": " + slot.name + " must be " + dtypes_text(dtypes) + ", got " +
                  dtype_text(imported.raw_dtype));
}

// "B N C" means three extents; a number is a fixed extent.
void Call::check_shape(const Slot& slot, const View& view, const char* shapes, const Imported& imported) {
  const char* shape = alternative(shapes, view.ndim);
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
  if (!fits) fail_value(slot.name, shape_text(shapes), got_text(imported));
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
    if (*c == '|') return text + ")" + bound + " or " + shape_text(c + 1);
    text += *c;
    if (!is_letter(*c) || dim(*c) < 0) continue;
    bound += std::string(bound.empty() ? " with " : ", ") + *c + " = " + std::to_string(dim(*c));
  }
  return text + (rank_of(shape) == 1 ? ",)" : ")") + bound;
}

void Call::check_writable(const Slot& slot, const Imported& imported) const {
  if (imported.read_only) fail_value(slot.name, "writable", imported.read_only);
  if (imported.route == Route::legacy && !exports_only_writable(slot.object)) {
    fail_value(slot.name, "writable",
               std::string("an array of type ") + Py_TYPE(slot.object.ptr())->tp_name +
                   ", which does not say whether it may be written");
  }
  if (imported.torch_like && py::getattr(slot.object, "requires_grad", py::none()).is(py::bool_(true))) {
    fail_value(slot.name, "detached from autograd", "a tensor that requires grad (pass its .detach())");
  }
  const View& view = imported.view;
  if (reinterpret_cast<uintptr_t>(view.data) % item_size(view.dtype) != 0) {
    fail_value(slot.name, "aligned to its item size", "a misaligned array");
  }
}

void Call::note_extent(Slot& slot, const Imported& imported) const {
  const auto* base = static_cast<const char*>(imported.view.data);
  slot.lowest = base + imported.extent.low;
  slot.highest = base + imported.extent.high;
}

// Two arrays may share memory only when both are read.
void Call::check_overlap(const Slot& slot) const {
  if (slot.lowest == slot.highest) return;
  for (int i = 0; i < used_; ++i) {
    const Slot& other = slots_[static_cast<size_t>(i)];
    if (&other == &slot || other.lowest == other.highest || !(slot.written || other.written)) continue;
    if (slot.lowest < other.highest && other.lowest < slot.highest) {
      fail_value(slot.name, "memory of its own", std::string("an array that overlaps ") + other.name);
    }
  }
}

Tensor Call::make_readable(Slot& slot, const View& view, bool dense, bool transposable) {
  const bool widen = dense && view.dtype == DType::i32;
  if (!kHostMemory && is_empty(view)) return without_elements(view, widen ? DType::i64 : view.dtype);
  if (!widen && expressible(view, dense)) return with_regular_strides(view);
  if (transposable && expressible(swap_innermost(view), false)) {
    return swap_innermost(with_regular_strides(swap_innermost(view)));
  }
  Tensor packed;
  static_cast<View&>(packed) = view;
  packed.present = true;
  set_dense_strides(packed);
  packed.dtype = widen ? DType::i64 : view.dtype;
  if (!kHostMemory) {
    packed.data = keep_copy(slot, packed.dtype);
    return packed;
  }
  int64_t count = 0;
  count_elements(view, &count);
  packed.data = keep_bytes(static_cast<size_t>(count) * item_size(packed.dtype));
  if (widen) {
    widen_elements(view, packed.as<int64_t>());
  } else {
    pack_elements(view, packed.data);
  }
  return packed;
}

// On a device only the framework can copy. torch does so on its current stream, which the kernel follows.
void* Call::keep_copy(const Slot& slot, DType dtype) {
  const View& view = slot.arg.imported().view;
  if (!slot.arg.imported().torch_like) {
    const bool widen = dtype != view.dtype;
    fail_value(slot.name, widen ? "int64 on a device" : "contiguous on a device",
               widen ? "int32" : "a strided or misaligned array");
  }
  py::object copy = new_array(slot.object, view.dtype, dtype, view.shape, view.ndim);
  copy.attr("copy_")(slot.object.attr("detach")());
  copies_.push_back({copy, std::make_unique<TensorArg>()});
  return copies_.back().arg->import(op_, slot.name, copy).view.data;
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

}  // namespace tk::bind
