// SPDX-License-Identifier: Apache-2.0
#include "quantize/nearest.h"
#include "quantize/pq_encode.cuh"

namespace tk::quantize::gpu {
namespace {

constexpr size_t kAligned = 256;

size_t aligned(int64_t bytes) { return (static_cast<size_t>(bytes) + kAligned - 1) / kAligned * kAligned; }

// The index and the distance of every part of the rows of one search, ahead of what nearest needs.
struct PqEncodeRoom {
  size_t best, nearest;
};

PqEncodeRoom room_of(const PqEncodeArgs& a) {
  const int64_t cells = a.search.books * pq_encode_rows(a, 0);
  const size_t best = aligned(cells * 8);
  return {best, best + aligned(cells * 4)};
}

template <class C>
void write_codes(const int64_t* index, int64_t parts, int64_t rows, C* codes, void* stream) {
  const dim3 blocks(static_cast<unsigned>((parts * rows + kPqEncodeThreads - 1) / kPqEncodeThreads));
  launch(pq_encode_kernel<C>, blocks, dim3(kPqEncodeThreads), 0, stream, index, parts, rows, codes);
}

}  // namespace

size_t pq_encode_workspace(const PqEncodeArgs& a) {
  return room_of(a).nearest + nearest_workspace({pq_encode_search(a, 0), nullptr, nullptr, nullptr, nullptr});
}

void pq_encode(const PqEncodeArgs& a, const GpuContext& context) {
  const int64_t parts = a.search.books;
  if (parts == 0) return;
  const PqEncodeRoom room = room_of(a);
  char* memory = static_cast<char*>(context.workspace);
  auto* index = reinterpret_cast<int64_t*>(memory);
  auto* best = reinterpret_cast<float*>(memory + room.best);
  const GpuContext rest{context.stream, memory + room.nearest, context.workspace_bytes - room.nearest};
  for (int64_t begin = 0; begin < a.search.rows; begin += kPqEncodeRows) {
    const int64_t rows = pq_encode_rows(a, begin);
    nearest({pq_encode_search(a, begin), index, best, nullptr, nullptr}, rest);
    if (a.bytes) {
      write_codes(index, parts, rows, static_cast<uint8_t*>(a.codes) + begin * parts, context.stream);
    } else {
      write_codes(index, parts, rows, static_cast<int64_t*>(a.codes) + begin * parts, context.stream);
    }
  }
}

}  // namespace tk::quantize::gpu
