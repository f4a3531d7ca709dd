// SPDX-License-Identifier: Apache-2.0
// What a call does once its arguments are checked: where memory comes from and how a launcher is started.
#include <stdexcept>
#include <string>

#include "bind/allocator.h"
#include "bind/call.h"

#if defined(TK_MODULE_SIMT)
#include "simt/call_scope.h"
#endif
#if defined(TK_MODULE_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace tk::bind {

#if defined(TK_MODULE_SIMT)
struct Call::Staging {
  explicit Staging(const char* op) : scope(op) {}
  simt::CallScope scope;
};
#elif defined(TK_MODULE_CUDA)
// A launch goes to the device of the arrays; the caller's current device is put back whatever happens.
struct Call::Staging {
  explicit Staging(int device) {
    check(cudaGetDevice(&previous));
    check(cudaSetDevice(device));
  }
  ~Staging() { cudaSetDevice(previous); }
  static void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
  }
  int previous = 0;
};
#else
struct Call::Staging {};
#endif

Call::Call(const char* op) : op_(op) {
  for (int64_t& d : dims_) d = -1;
}

Call::~Call() = default;

// On the host executor kernels see guarded copies, so that one element too many is caught.
void Call::stage([[maybe_unused]] Slot& slot, [[maybe_unused]] Tensor& tensor) {
#if defined(TK_MODULE_SIMT)
  if (!staging_) staging_ = std::make_unique<Staging>(op_);
  int64_t reach = 1;
  for (int i = 0; i < tensor.ndim; ++i) reach += (tensor.shape[i] - 1) * tensor.strides[i];
  const size_t bytes = is_empty(tensor) ? 0 : static_cast<size_t>(reach) * item_size(tensor.dtype);
  const simt::Use use = slot.updated ? simt::Use::updated : slot.written ? simt::Use::written : simt::Use::read;
  tensor.data = staging_->scope.stage(slot.name, tensor.data, bytes, use);
#endif
}

GpuContext Call::prepare([[maybe_unused]] size_t workspace_bytes) {
  GpuContext context;
  context.workspace_bytes = workspace_bytes;
#if defined(TK_MODULE_SIMT)
  if (!staging_) staging_ = std::make_unique<Staging>(op_);
  if (workspace_bytes) context.workspace = staging_->scope.workspace(workspace_bytes);
#elif defined(TK_MODULE_CUDA)
  const View& view = slots_[0].arg.imported().view;
  staging_ = std::make_unique<Staging>(view.device_id);
  context.stream = TensorArg::current_stream(slots_[0].object, view);
  if (workspace_bytes) {
    const auto bytes = static_cast<int64_t>(workspace_bytes);
    workspace_owner_ = new_array(slots_[0].object, view.dtype, DType::u8, &bytes, 1);
    context.workspace = workspace_.import(op_, "workspace", workspace_owner_).view.data;
  }
#endif
  return context;
}

#if defined(TK_MODULE_SIMT)
// Once per order of threads and timing of copies.
void Call::under_schedules(const std::function<void()>& launcher) { staging_->scope.run(launcher); }
#endif

void Call::finish() {
#if defined(TK_MODULE_SIMT)
  staging_->scope.finish();
#endif
}

}  // namespace tk::bind
