// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "merge/select_edges.cuh"

namespace tk::merge::gpu {
namespace {

constexpr int64_t kSharedPairs = 8192;           // 64 KB, which every architecture since sm_80 grants a block
constexpr int64_t kMostRows = int64_t{1} << 31;  // a row and its rank are 32 bits of a pair

int64_t padded_rows(const SelectEdgesArgs& a) {
  int64_t size = 2;
  while (size < a.rows) size *= 2;
  return size;
}

bool fits_shared(const SelectEdgesArgs& a) { return padded_rows(a) <= kSharedPairs; }

}  // namespace

size_t select_edges_workspace(const SelectEdgesArgs& a) {
  return fits_shared(a) ? 0 : static_cast<size_t>(a.batch * padded_rows(a)) * sizeof(uint64_t);
}

void select_edges(const SelectEdgesArgs& a, const GpuContext& context) {
  if (a.batch == 0) return;
  if (a.rows >= kMostRows) throw std::length_error("select_edges: at most 2^31 - 1 rows on a device");
  const int64_t size = padded_rows(a);
  const int64_t threads = size < 128 ? 64 : size / 2 < kEdgeThreads ? size / 2 : kEdgeThreads;
  const size_t shared = fits_shared(a) ? static_cast<size_t>(size) * sizeof(uint64_t) : 0;
  launch(select_edges_kernel<void>, dim3(static_cast<unsigned>(a.batch)), dim3(static_cast<unsigned>(threads)), shared,
         context.stream, a, shared ? nullptr : static_cast<uint64_t*>(context.workspace), size);
}

}  // namespace tk::merge::gpu
