// SPDX-License-Identifier: Apache-2.0
#include "bpe/count_pairs.cuh"
#include "merge/segment_members.cuh"

namespace tk::bpe::gpu {
namespace {

using merge::gpu::Carver;

constexpr int64_t kJoinBlocks = 512;

PairSpace pair_space(const CountPairsArgs& a, Carver& carver) {
  const int64_t n = a.tokens;
  PairSpace space{};
  space.state = carver.take<SortState>(1);
  space.last = carver.take<uint8_t>(n);
  for (int side = 0; side < 2; ++side) space.keys.key[side] = carver.take<uint64_t>(n);
  space.digits = carver.take<unsigned>(kDigits * sort_tiles(n));
  const int64_t digit_tiles = prefix_tiles(kDigits * sort_tiles(n));
  space.sums = carver.take<unsigned long long>(digit_tiles > prefix_tiles(n + 1) ? digit_tiles : prefix_tiles(n + 1));
  space.starts = carver.take<unsigned long long>(n);
  if (a.weights) {
    for (int side = 0; side < 2; ++side) space.keys.load[side] = carver.take<uint64_t>(n);
    space.mass = carver.take<unsigned long long>(n + 1);
  }
  return space;
}

template <class Id>
void write_keys(const CountPairsArgs& a, const PairSpace& space, void* stream) {
  const PairSource<Id> source{a, space};
  prefix_sums(source, PairSink<Id>{source}, a.tokens, space.sums, &space.state->count, stream);
}

}  // namespace

size_t count_pairs_workspace(const CountPairsArgs& a) {
  Carver carver{nullptr};
  pair_space(a, carver);
  return carver.used;
}

void count_pairs(const CountPairsArgs& a, const GpuContext& context) {
  Carver carver{static_cast<char*>(context.workspace)};
  const PairSpace space = pair_space(a, carver);
  void* const stream = context.stream;
  const auto grid = [](int64_t items) {
    return dim3(static_cast<unsigned>((items + kPairThreads - 1) / kPairThreads));
  };
  launch(clear_pairs_kernel<kPairThreads>, grid(a.tokens + 1), dim3(kPairThreads), 0, stream, space, a.tokens);
  if (a.batch) launch(mark_last_kernel<kPairThreads>, grid(a.batch), dim3(kPairThreads), 0, stream, a, space);
  a.dtype == DType::i32 ? write_keys<int32_t>(a, space, stream) : write_keys<int64_t>(a, space, stream);
  if (a.tokens) {
    const int64_t blocks = (a.tokens + kPairThreads - 1) / kPairThreads;
    launch(join_ids_kernel<kPairThreads>, dim3(static_cast<unsigned>(blocks < kJoinBlocks ? blocks : kJoinBlocks)),
           dim3(kPairThreads), 0, stream, space);
    sort_keys(space.keys, space.state, a.tokens, space.digits, space.sums, stream);
  }
  auto* const no_total = static_cast<unsigned long long*>(nullptr);
  if (a.weights) prefix_sums(MassSource{space}, MassSink{space}, a.tokens + 1, space.sums, no_total, stream);
  prefix_sums(RunSource{space}, RunSink{a, space}, a.tokens, space.sums, reinterpret_cast<unsigned long long*>(a.total),
              stream);
  if (a.tokens) launch(count_runs_kernel<kPairThreads>, grid(a.tokens), dim3(kPairThreads), 0, stream, a, space);
}

}  // namespace tk::bpe::gpu
