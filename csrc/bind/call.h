// SPDX-License-Identifier: Apache-2.0
// The one checking layer. A Call collects the arguments of one op, checks them against each other, and runs the
// kernel; nothing runs and nothing is written before every check has passed.
//
//   Call call("gather_rows");
//   const Tensor x = call.in("x", x_, kFloat, "B N C");        // a letter binds on first sight, then must agree
//   const Tensor index = call.in("index", index_, kIndex, "B M");
//   const Tensor out = call.out("out", out_, x.dtype, "B M C");
//   call.check_index("index", index, call.dim('N'));
//   TK_RUN(call, merge, gather_rows, merge::GatherRowsArgs{...});
#pragma once
#include <pybind11/pybind11.h>

#include <array>
#include <functional>
#include <initializer_list>
#include <memory>
#include <type_traits>
#include <vector>

#include "bind/tensor_arg.h"
#include "core/dispatch.h"
#include "core/error.h"
#include "core/op.h"

namespace tk::bind {

// ---- sets of dtypes an argument may have ------------------------------------------------------------------------
constexpr uint32_t dtype_bit(DType t) { return 1u << static_cast<int>(t); }
constexpr uint32_t kFloat = dtype_bit(DType::f32) | dtype_bit(DType::f16) | dtype_bit(DType::bf16);
constexpr uint32_t kF32 = dtype_bit(DType::f32);
constexpr uint32_t kIndex = dtype_bit(DType::i64) | dtype_bit(DType::i32);    // reaches the kernel as int64
constexpr uint32_t kMask = dtype_bit(DType::boolean) | dtype_bit(DType::u8);  // reaches the kernel as uint8
constexpr uint32_t kInt8 = dtype_bit(DType::i8);
constexpr uint32_t kAny = ~0u;

// A checked argument. Innermost extent contiguous, strides never negative. `false` when an optional one was None.
struct Tensor : View {
  explicit operator bool() const { return present; }
  int64_t size(int i) const { return shape[i]; }
  int64_t stride(int i) const { return strides[i]; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  bool present = false;
};

class Call {
 public:
  explicit Call(const char* op);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // A shape may have alternatives of different rank: "B N|N".
  // Inputs keep their outer strides; what cannot be expressed (a strided innermost extent, negative strides, a
  // misaligned pointer) is packed: on a device by torch for its tensors, and refused for arrays of others.
  Tensor in(const char* name, py::handle object, uint32_t dtypes, const char* shape);
  Tensor in(const char* name, py::handle object, DType dtype, const char* shape);
  // As in, but always without gaps: for small arrays that kernels address flat.
  Tensor dense(const char* name, py::handle object, uint32_t dtypes, const char* shape);
  // As in, but either of the two innermost extents may be the one without gaps: a transposed matrix needs no copy.
  Tensor matrices(const char* name, py::handle object, uint32_t dtypes, const char* shape);
  // None is a valid argument and gives an absent Tensor.
  Tensor optional(const char* name, py::handle object, uint32_t dtypes, const char* shape);
  Tensor optional_dense(const char* name, py::handle object, uint32_t dtypes, const char* shape);
  // Written by the op: writable, without gaps, disjoint from every other argument. None allocates a new array in the
  // framework of the first argument; every letter of the shape must be bound by then.
  Tensor out(const char* name, py::handle object, DType dtype, const char* shape);
  Tensor optional_out(const char* name, py::handle object, DType dtype, const char* shape);
  // Changed in place: writable and disjoint from every other argument, as an output, but of any outer strides, and
  // never converted. What lies between its elements is not touched.
  Tensor inout(const char* name, py::handle object, uint32_t dtypes, const char* shape);
  // As in, but int32 stays int32 and no integer array is packed for its outer strides: for tables too large to copy.
  Tensor table(const char* name, py::handle object, uint32_t dtypes, const char* shape);

  // What the op returns to Python: its one output, or a tuple of them. Call after TK_RUN.
  py::object results();

  // The extent a letter stands for; `set` binds one that no array shows (a count given as a number).
  int64_t dim(char letter) const;
  void set(char letter, int64_t extent);
  // As set, for a count that the caller passed as a number; returns it.
  int64_t set_count(const char* name, char letter, py::handle object);

  // Kernels of this extension work on memory that the binding may read.
  static bool on_host();
  // Every index in [low, high); only where the memory is on the host.
  void check_index(const char* name, const Tensor& index, int64_t high, int64_t low = 0) const;
  // Offsets start at 0, never decrease, and end at `total` (per row of the last extent); host only.
  void check_offsets(const char* name, const Tensor& offsets, int64_t total) const;
  // No NaN and no infinity, where the caller asked for that (set_check_finite) and the memory is on the host.
  void check_finite(const char* name, const Tensor& x) const;
  // A count or size given as a Python (or NumPy) integer, at least `low`.
  int64_t integer(const char* name, py::handle object, int64_t low) const;
  // A finite number in [low, high].
  double real(const char* name, py::handle object, double low, double high) const;
  // The product of extents fits an array of 8-byte items.
  void check_extents(const char* name, std::initializer_list<int64_t> extents) const;
  [[noreturn]] void fail_value(const char* name, const std::string& expected, const std::string& got) const;
  [[noreturn]] void fail_type(const char* name, const std::string& expected, const std::string& got) const;

  template <class Args>
  void run(const Table<Args>& table, const Args& args) {
    const Level level = current_level();
    Kernel<Args>* kernel = table.fn[static_cast<int>(level)];
    {
      const py::gil_scoped_release unlocked;
      kernel(args);
    }
    note_last_level(level);
  }

  template <class Args>
  void run_gpu(void (*launcher)(const Args&, const GpuContext&), size_t (*workspace)(const Args&), const Args& args) {
    const GpuContext context = prepare(workspace(args));
    {
      const py::gil_scoped_release unlocked;
#if defined(TK_MODULE_SIMT)
      under_schedules([&] { launcher(args, context); });
#else
      launcher(args, context);
#endif
    }
    finish();
  }

 private:
  static constexpr int kMaxArgs = 20;

  struct Slot {
    TensorArg arg;
    py::handle object;
    const char* name = nullptr;
    const char* lowest = nullptr;  // first and one past the last byte the op may touch
    const char* highest = nullptr;
    bool written = false;
    bool updated = false;  // written, and read before
  };

  py::object allocate(const char* name, DType dtype, const char* shape) const;
  Slot& next_slot(const char* name, py::handle object);
  enum class Layout { strided, dense, transposable, table };
  Tensor take(const char* name, py::handle object, uint32_t dtypes, const char* shape, Layout layout);
  void check_device(const Slot& slot, const View& view);
  void check_dtype(const Slot& slot, const Imported& imported, uint32_t dtypes) const;
  void check_shape(const Slot& slot, const View& view, const char* shape, const Imported& imported);
  void check_writable(const Slot& slot, const Imported& imported) const;
  void check_overlap(const Slot& slot) const;
  void note_extent(Slot& slot, const Imported& imported) const;
  Tensor make_readable(Slot& slot, const View& view, bool dense, bool transposable);
  void* keep_bytes(size_t bytes);
  void* keep_copy(const Slot& slot, DType dtype);
  std::string shape_text(const char* shape) const;
  void stage(Slot& slot, Tensor& tensor);
  GpuContext prepare(size_t workspace_bytes);
  void under_schedules(const std::function<void()>& launcher);  // host executor only
  void finish();

  const char* op_;
  int64_t dims_[26];
  std::array<Slot, kMaxArgs> slots_;
  int used_ = 0;
  std::vector<std::unique_ptr<char[]>> packed_;
  struct Copy {
    py::object array;
    std::unique_ptr<TensorArg> arg;
  };
  std::vector<Copy> copies_;  // packed by the framework, on a device
  struct Staging;  // what a run sets up and takes down: guarded copies (host executor), the current device (CUDA)
  std::unique_ptr<Staging> staging_;
  std::vector<py::object> outputs_;
  TensorArg workspace_;
  py::object workspace_owner_;
};

// Whether check_finite looks; returns what held before.
bool set_check_finite(bool enabled);
// Registers tk::ValueError and tk::TypeError with pybind11 for this extension.
void register_errors(py::module_& m);
// Introspection (`describe`), and the hooks through which Python lends memory.
void bind_call(py::module_& m);

}  // namespace tk::bind

#if defined(TK_MODULE_CPU)
#define TK_RUN(call, family, op, ...)                                                                   \
  do {                                                                                                  \
    const auto tk_args = __VA_ARGS__;                                                                   \
    static constexpr ::tk::Table<std::decay_t<decltype(tk_args)>> tk_table{TK_LEVEL_TABLE(family, op)}; \
    (call).run(tk_table, tk_args);                                                                      \
  } while (false)
#else
#define TK_RUN(call, family, op, ...)                                                    \
  do {                                                                                   \
    const auto tk_args = __VA_ARGS__;                                                    \
    (call).run_gpu(&::tk::family::gpu::op, &::tk::family::gpu::op##_workspace, tk_args); \
  } while (false)
#endif
