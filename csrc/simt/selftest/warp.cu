// SPDX-License-Identifier: Apache-2.0
// Warp collectives: values, masks, and what orders memory inside a warp.
#include "simt/selftest/selftest.h"

namespace tk::simt::selftest {
namespace {

constexpr unsigned kAll = 0xffffffffu;

template <void (*kKernel)(int*)>
std::vector<int> on_one_warp(int per_lane = 1) {
  std::vector<int> out(32 * per_lane);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  arguments.run([&] { launch(kKernel, dim3(1), dim3(32), 0, nullptr, out_); });
  return out;
}

template <void (*kKernel)(int*)>
void fails() {
  on_one_warp<kKernel>();
}

// ---- values -------------------------------------------------------------------------------------------------------
constexpr int kShuffles = 9;

__global__ void shuffle_kernel(int* out) {
  const int lane = threadIdx.x;
  const int v = 100 + lane;
  int* row = out + lane * kShuffles;
  row[0] = __shfl_sync(kAll, v, 5);
  row[1] = __shfl_sync(kAll, v, 3, 8);
  row[2] = __shfl_up_sync(kAll, v, 3);
  row[3] = __shfl_up_sync(kAll, v, 3, 8);
  row[4] = __shfl_down_sync(kAll, v, 3);
  row[5] = __shfl_down_sync(kAll, v, 3, 8);
  row[6] = __shfl_xor_sync(kAll, v, 6);
  row[7] = __shfl_xor_sync(kAll, v, 12, 8);
  const double wide = __shfl_xor_sync(kAll, v + 0.5, 1);
  row[8] = static_cast<int>(wide * 2.0);
}

void shuffles() {
  const std::vector<int> out = on_one_warp<shuffle_kernel>(kShuffles);
  for (int lane = 0; lane < 32; ++lane) {
    const int in_eight = lane % 8;
    // An exchange may read an earlier segment, never a later one.
    const int across = (lane ^ 12) < (lane & ~7) + 8 ? lane ^ 12 : lane;
    const int from[] = {5,
                        (lane & ~7) + 3,
                        lane >= 3 ? lane - 3 : lane,
                        in_eight >= 3 ? lane - 3 : lane,
                        lane + 3 < 32 ? lane + 3 : lane,
                        in_eight + 3 < 8 ? lane + 3 : lane,
                        lane ^ 6,
                        across};
    for (int i = 0; i < 8; ++i) expect(out[lane * kShuffles + i] == 100 + from[i], "shuffle");
    expect(out[lane * kShuffles + 8] == 2 * (100 + (lane ^ 1)) + 1, "shuffle of eight bytes");
  }
}

__global__ void vote_kernel(int* out) {
  const int lane = threadIdx.x;
  const unsigned odd = __ballot_sync(kAll, lane % 2);
  const int any = __any_sync(kAll, lane == 7) + 2 * __any_sync(kAll, lane == 40);
  const int all = __all_sync(kAll, lane < 32) + 2 * __all_sync(kAll, lane < 31);
  out[lane] = odd == 0xaaaaaaaau && any == 1 && all == 1;
}

void votes() {
  for (const int right : on_one_warp<vote_kernel>()) expect(right == 1, "vote");
}

__global__ void disjoint_kernel(int* out) {
  const int lane = threadIdx.x;
  int v = lane;
  if (lane < 16) {
    v = __shfl_xor_sync(0x0000ffffu, v, 1);
  } else {
    v = __shfl_xor_sync(0xffff0000u, v, 2);
    v += 100 * __popc(__ballot_sync(0xffff0000u, lane % 2));
  }
  out[lane] = v;
}

void disjoint_masks() {
  const std::vector<int> out = on_one_warp<disjoint_kernel>();
  for (int lane = 0; lane < 32; ++lane)
    expect(out[lane] == (lane < 16 ? lane ^ 1 : (lane ^ 2) + 800), "disjoint masks");
}

// As on the device, a lane that has returned is not waited for.
__global__ void returned_kernel(int* out) {
  const int lane = threadIdx.x;
  out[lane] = lane;
  if (lane >= 20) return;
  __syncwarp();
  out[lane] = __shfl_down_sync(kAll, lane, 1, 4) + __popc(__ballot_sync(kAll, 1));
}

void returned_lanes() {
  const std::vector<int> out = on_one_warp<returned_kernel>();
  for (int lane = 0; lane < 32; ++lane) {
    expect(out[lane] == (lane >= 20 ? lane : 20 + (lane % 4 == 3 ? lane : lane + 1)), "returned lanes");
  }
}

// ---- memory -------------------------------------------------------------------------------------------------------
enum class Order { syncwarp, nothing, shuffle };

template <Order kOrder>
__global__ void reverse_kernel(int* out) {
  TK_SHARED(values, int[32]);
  const int lane = threadIdx.x;
  values[lane] = lane;
  if (kOrder == Order::syncwarp) __syncwarp();
  if (kOrder == Order::shuffle) __shfl_xor_sync(kAll, lane, 1);
  out[lane] = values[31 - lane];
}

void syncwarp() {
  const std::vector<int> out = on_one_warp<reverse_kernel<Order::syncwarp>>();
  for (int lane = 0; lane < 32; ++lane) expect(out[lane] == 31 - lane, "syncwarp");
}

// Halves of a warp that work apart, each ordered by its own mask.
template <bool kMeet>
__global__ void halves_kernel(int* out) {
  TK_SHARED(values, int[32]);
  const int lane = threadIdx.x;
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  for (int step = 0; step < 3; ++step) {
    values[lane] = lane + step;
    __syncwarp(half);
    out[lane] = values[lane ^ 15];
    __syncwarp(half);
  }
  if (kMeet) __syncwarp();
  out[lane] += values[31 - lane];
}

void halves() {
  const std::vector<int> out = on_one_warp<halves_kernel<true>>();
  for (int lane = 0; lane < 32; ++lane) expect(out[lane] == (lane ^ 15) + 31 - lane + 4, "syncwarp of halves");
}

// ---- wrong masks --------------------------------------------------------------------------------------------------
__global__ void not_in_mask_kernel(int* out) { out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1, 1); }

__global__ void never_come_kernel(int* out) {
  const int lane = threadIdx.x;
  if (lane < 16) {
    out[lane] = __shfl_xor_sync(kAll, lane, 1);
  } else {
    __syncthreads();
    out[lane] = lane;
  }
}

__global__ void disagree_kernel(int* out) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_xor_sync(lane < 16 ? kAll : 0xffff0001u, lane, 1);
}

__global__ void two_operations_kernel(int* out) {
  const int lane = threadIdx.x;
  if (lane < 16) {
    out[lane] = __shfl_xor_sync(kAll, lane, 1);
  } else {
    out[lane] = static_cast<int>(__ballot_sync(kAll, 1));
  }
}

__global__ void outside_mask_kernel(int* out) {
  const int lane = threadIdx.x;
  out[lane] = lane < 16 ? __shfl_xor_sync(0x0000ffffu, lane, 16) : 0;
}

__global__ void sum_after_return_kernel(int* out) {
  const int lane = threadIdx.x;
  out[lane] = 0;
  if (lane >= 20) return;
  int sum = lane;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  out[lane] = sum;
}

__global__ void width_kernel(int* out) { out[threadIdx.x] = __shfl_xor_sync(kAll, 1, 1, 12); }

constexpr Case kCases[] = {
    {"ok_shuffles", &shuffles},
    {"ok_votes", &votes},
    {"ok_disjoint_masks", &disjoint_masks},
    {"ok_returned_lanes", &returned_lanes},
    {"ok_syncwarp", &syncwarp},
    {"bug_no_syncwarp", &fails<reverse_kernel<Order::nothing>>},
    {"bug_shuffle_as_barrier", &fails<reverse_kernel<Order::shuffle>>},
    {"ok_syncwarp_of_halves", &halves},
    {"bug_halves_never_meet", &fails<halves_kernel<false>>},
    {"bug_caller_not_in_mask", &fails<not_in_mask_kernel>},
    {"bug_lanes_never_come", &fails<never_come_kernel>},
    {"bug_masks_disagree", &fails<disagree_kernel>},
    {"bug_two_operations", &fails<two_operations_kernel>},
    {"bug_reads_lane_outside_mask", &fails<outside_mask_kernel>},
    {"bug_sum_over_returned_lanes", &fails<sum_after_return_kernel>},
    {"bug_shuffle_width", &fails<width_kernel>},
};

}  // namespace

std::span<const Case> warp_cases() { return kCases; }

}  // namespace tk::simt::selftest
