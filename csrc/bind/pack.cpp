// SPDX-License-Identifier: Apache-2.0
#include "bind/pack.h"

#include <cstring>

namespace tk::bind {
namespace {

constexpr int64_t kWidestItem = 8;

// Visits the rows of the innermost extent in row-major order: visit(first element, count, step in bytes).
template <class Visit>
void for_each_row(const View& view, Visit visit) {
  if (is_empty(view)) return;
  const auto item = static_cast<int64_t>(item_size(view.dtype));
  const char* row = static_cast<const char*>(view.data);
  const int inner = view.ndim - 1;
  if (inner < 0) return visit(row, int64_t{1}, item);
  int64_t position[kMaxDims] = {};
  for (;;) {
    visit(row, view.shape[inner], view.strides[inner] * item);
    int axis = inner - 1;
    for (; axis >= 0; --axis) {
      row += view.strides[axis] * item;
      if (++position[axis] < view.shape[axis]) break;
      row -= view.strides[axis] * item * view.shape[axis];
      position[axis] = 0;
    }
    if (axis < 0) return;
  }
}

template <class From, class To>
void copy_elements(const View& view, To* out) {
  for_each_row(view, [&](const char* element, int64_t count, int64_t step) {
    for (int64_t i = 0; i < count; ++i, element += step) {
      From value;
      std::memcpy(&value, element, sizeof value);
      *out++ = value;
    }
  });
}

}  // namespace

bool expressible(const View& view, bool dense) {
  if (reinterpret_cast<uintptr_t>(view.data) % item_size(view.dtype) != 0) return false;
  if (is_contiguous(view)) return true;
  if (dense || view.strides[view.ndim - 1] != 1) return false;
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] > 1 && view.strides[i] < 0) return false;
  }
  return true;
}

bool has_own_elements(const View& view) {
  if (is_empty(view)) return true;
  bool taken[kMaxDims] = {};
  int64_t reach = 1;  // of the dimensions with the smallest strides so far, in elements
  for (int step = 0; step < view.ndim; ++step) {
    int next = -1;
    for (int i = 0; i < view.ndim; ++i) {
      if (!taken[i] && (next < 0 || view.strides[i] < view.strides[next])) next = i;
    }
    taken[next] = true;
    if (view.shape[next] <= 1) continue;
    if (view.strides[next] < reach) return false;
    reach += (view.shape[next] - 1) * view.strides[next];
  }
  return true;
}

void regularise_strides(View& view) {
  int64_t dense = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] <= 1) view.strides[i] = dense;
    dense = view.strides[i] * (view.shape[i] > 0 ? view.shape[i] : 1);
  }
}

void set_dense_strides(View& view) {
  int64_t dense = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    view.strides[i] = dense;
    dense *= view.shape[i] > 0 ? view.shape[i] : 1;
  }
}

void pack_elements(const View& view, void* out) {
  switch (item_size(view.dtype)) {
    case 8:
      return copy_elements<uint64_t>(view, static_cast<uint64_t*>(out));
    case 4:
      return copy_elements<uint32_t>(view, static_cast<uint32_t*>(out));
    case 2:
      return copy_elements<uint16_t>(view, static_cast<uint16_t*>(out));
    default:
      return copy_elements<uint8_t>(view, static_cast<uint8_t*>(out));
  }
}

void widen_elements(const View& view, int64_t* out) { copy_elements<int32_t>(view, out); }

bool find_extent(const View& view, Extent* extent) {
  int64_t count = kWidestItem;
  Extent reached{0, 1};
  for (int i = 0; i < view.ndim; ++i) {
    const int64_t n = view.shape[i];
    if (n < 0 || __builtin_mul_overflow(count, n > 0 ? n : 1, &count)) return false;
    int64_t reach = 0;
    if (n > 1 && __builtin_mul_overflow(n - 1, view.strides[i], &reach)) return false;
    int64_t& end = reach < 0 ? reached.low : reached.high;
    if (__builtin_add_overflow(end, reach, &end)) return false;
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(reached.low, kWidestItem, &bytes)) return false;
  if (__builtin_mul_overflow(reached.high, kWidestItem, &bytes)) return false;
  const auto item = static_cast<int64_t>(item_size(view.dtype));
  *extent = is_empty(view) ? Extent{} : Extent{reached.low * item, reached.high * item};
  return true;
}

}  // namespace tk::bind
