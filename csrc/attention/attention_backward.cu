// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "attention/attention_backward_launch.h"
#include "attention/wide_rows.h"

namespace tk::attention::gpu {
namespace {

constexpr int64_t kMost = (int64_t{1} << 31) - 1;

int64_t heads_of(const AttentionBackwardArgs& a) { return a.shape.batch * a.shape.heads; }

int64_t bias_parts(const AttentionBackwardArgs& a) { return a.grad_key_bias ? heads_of(a) * a.shape.extents.keys : 0; }

Meetings meetings_of(const AttentionBackwardArgs& a, unsigned* bits) {
  const int64_t slots = slots_of(a.policy, a.shape.extents, kMeetRows);
  return {bits, slots, divided_up(slots, 32), divided_up(a.shape.extents.keys, kMeetKeys)};
}

int64_t meeting_words(const AttentionBackwardArgs& a) {
  const Meetings m = meetings_of(a, nullptr);
  return heads_of(a) * m.key_blocks * m.words;
}

// Gradients of the bias and meetings lie side by side: both start as zeros.
BackwardScratch scratch_in(const AttentionBackwardArgs& a, void* workspace) {
  auto* centre = static_cast<float*>(workspace);
  float* bias = centre + heads_of(a) * a.shape.extents.queries;
  auto* bits = reinterpret_cast<unsigned*>(bias + bias_parts(a));
  return {centre, a.grad_key_bias ? bias : nullptr, meetings_of(a, bits)};
}

void check_counts(const AttentionBackwardArgs& a, int64_t slots) {
  const auto& [queries, keys] = a.shape.extents;
  const int64_t tiles = heads_of(a) * at_least(at_least(2 * slots, 2 * divided_up(queries, 32)), divided_up(keys, 16));
  if (queries <= kMost && keys <= kMost && tiles <= kMost) return;
  throw std::length_error("attention_backward: at most 2^31 - 1 queries, keys and tiles on a device");
}

void find_meetings(const AttentionBackwardArgs& a, const BackwardScratch& s, void* stream) {
  const int64_t words = bias_parts(a) + meeting_words(a);
  if (words == 0) return;
  auto* first = s.key_bias ? reinterpret_cast<unsigned*>(s.key_bias) : s.meetings.bits;
  launch(clear_meetings_kernel<void>, dim3(static_cast<unsigned>(divided_up(words, kRowThreads))), dim3(kRowThreads), 0,
         stream, first, words);
  const int64_t tiles = heads_of(a) * s.meetings.slots;
  if (a.shape.extents.queries == 0) return;
  launch(attention_meetings_kernel<void>, dim3(static_cast<unsigned>(divided_up(tiles, kMeetThreads / 32))),
         dim3(kMeetThreads), 0, stream, a.policy, a.shape, s.meetings, tiles);
}

}  // namespace

size_t attention_backward_workspace(const AttentionBackwardArgs& a) {
  return static_cast<size_t>(heads_of(a) * a.shape.extents.queries + bias_parts(a) + meeting_words(a)) * sizeof(float);
}

void attention_backward(const AttentionBackwardArgs& a, const GpuContext& context) {
  const BackwardScratch scratch = scratch_in(a, context.workspace);
  check_counts(a, scratch.meetings.slots);
  find_meetings(a, scratch, context.stream);
  const bool wide = are_wide({&a.grad, &a.q, &a.k, &a.v}, {a.grad_q, a.grad_k, a.grad_v}, a.shape.width, a.dtype);
  if (a.dtype == DType::f16) {
    attention_backward_float16(a, scratch, wide, context.stream);
  } else if (a.dtype == DType::bf16) {
    attention_backward_bfloat16(a, scratch, wide, context.stream);
  } else {
    attention_backward_float32(a, scratch, wide, context.stream);
  }
  const int64_t biases = a.grad_key_bias ? a.bias_batch * a.bias_heads * a.shape.extents.keys : 0;
  if (biases == 0) return;
  launch(attention_bias_kernel<void>, dim3(static_cast<unsigned>(divided_up(biases, kRowThreads))), dim3(kRowThreads),
         0, context.stream, scratch.key_bias, a.shape, a.bias_batch, a.bias_heads, a.grad_key_bias);
}

}  // namespace tk::attention::gpu
