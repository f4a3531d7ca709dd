// SPDX-License-Identifier: Apache-2.0
// Parallel loops over chunks. Work is cut by shape, never by thread count, so one and many threads give the same bits.
#pragma once
#include <cstdint>

namespace tk {

// Calls fn(context, i) for every i in [0, chunks), on the pool or, inside another loop, inline. After an exception no
// further chunk starts, and one of those thrown is rethrown here.
void run_chunks(int64_t chunks, void (*fn)(void* context, int64_t chunk), void* context);

// Threads a parallel loop may use: min(affinity, TOKERNEL_NUM_THREADS or set_num_threads, the limit set by the caller's
// framework).
int num_threads();
void set_num_threads(int n);        // 0 lifts the limit
void set_framework_threads(int n);  // torch.get_num_threads(), refreshed by the binding; 0 = no limit

namespace {

// Work below this many bytes (or multiply-adds / 4) is not worth waking a thread for.
constexpr int64_t kGrain = 1 << 16;

template <class Body>
inline void parallel_for(int64_t chunks, Body&& body) {
  run_chunks(
      chunks, [](void* context, int64_t i) { (*static_cast<Body*>(context))(i); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Runs body(begin, end) over [0, n) in chunks that each cost about `grain` units, given the cost of one item.
template <class Body>
inline void parallel_ranges(int64_t n, int64_t item_cost, Body&& body, int64_t grain = kGrain) {
  if (n <= 0) return;
  int64_t items = item_cost > 0 ? (grain + item_cost - 1) / item_cost : n;
  if (items < 1) items = 1;
  const int64_t chunks = (n + items - 1) / items;
  parallel_for(chunks, [&](int64_t c) {
    const int64_t begin = c * items;
    body(begin, begin + items < n ? begin + items : n);
  });
}

}  // namespace
}  // namespace tk
