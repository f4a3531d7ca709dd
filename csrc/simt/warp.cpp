// SPDX-License-Identifier: Apache-2.0
// Warp collectives: every lane of a mask deposits its operands and parks; the last one computes for all.
#include <bit>

#include "simt/banks.h"
#include "simt/executor.h"
#include "simt/race.h"
#include "simt/tensor_core.h"

namespace tk::simt {
namespace {

Warp& own_warp() { return machine().warps[machine().self / 32]; }

const char* name_of(Collective kind) {
  static constexpr const char* kNames[] = {
      "__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",  "__shfl_xor_sync", "a vote",
      "mma (f16)",  "mma (bf16)",  "ldmatrix_x2",    "ldmatrix_x2_trans", "ldmatrix_x4",     "ldmatrix_x4_trans"};
  return kNames[static_cast<int>(kind)];
}

template <class Visit>
void for_each_lane(uint32_t lanes, Visit visit) {
  for (; lanes; lanes &= lanes - 1) visit(static_cast<unsigned>(std::countr_zero(lanes)));
}

// What a lane reads from one that is not there: not a value anybody may rely on, and another one in the next run.
uint64_t undefined_value() { return 0x0101010101010101u * machine().poison; }

void complete(Warp& warp, const Warp::Group& group) {
  switch (group.kind) {
    case Collective::sync:
      break;
    case Collective::vote: {
      uint32_t bits = 0;
      for_each_lane(group.arrived, [&](unsigned lane) { bits |= static_cast<uint32_t>(warp.value[lane]) << lane; });
      for_each_lane(group.arrived, [&](unsigned lane) { warp.result[lane] = bits; });
      break;
    }
    case Collective::mma_f16:
    case Collective::mma_bf16:
      multiply_tile(warp.value.data(), group.kind == Collective::mma_bf16);
      break;
    case Collective::matrix_x2:
    case Collective::matrix_x2_transposed:
    case Collective::matrix_x4:
    case Collective::matrix_x4_transposed:
      distribute_matrices(warp.value.data());
      break;
    default:
      for_each_lane(group.arrived, [&](unsigned lane) {
        const auto from = static_cast<unsigned>(warp.source[lane]);
        warp.result[lane] = group.arrived >> from & 1u ? warp.value[from] : undefined_value();
      });
  }
}

void release(unsigned warp_index, unsigned group_index, unsigned running_lane) {
  Warp& warp = machine().warps[warp_index];
  const Warp::Group group = warp.groups[group_index];
  warp.groups[group_index] = warp.groups[--warp.open];
  complete(warp, group);
  if (group.kind == Collective::sync) race::order_lanes(warp_index, group.arrived);
  if (banks::counting && group.arrived == warp.present) banks::finish_warp(warp_index);
  for_each_lane(group.arrived, [&](unsigned lane) {
    if (lane != running_lane) wake(warp_index * 32 + lane);
  });
}

TK_COLD void report_disagreement(const Warp& warp, const Warp::Group& group, Collective kind, uint32_t mask,
                                 unsigned lane) {
  const auto other = static_cast<unsigned>(std::countr_zero(mask & group.arrived));
  char masks[48];
  std::snprintf(masks, sizeof masks, "mask %08x against mask %08x", mask, group.mask);
  fail(std::string("lanes that wait for each other disagree: ") + name_of(kind) + " at " + text_of(warp.site[lane]) +
       " against " + name_of(group.kind) + " of lane " + std::to_string(other) + " at " + text_of(warp.site[other]) +
       ", " + masks);
}

TK_COLD void report_outsider(Collective kind, unsigned lane, const Site& at) {
  fail(std::string(name_of(kind)) + " at " + text_of(at) + ": lane " + std::to_string(lane) +
       " calls it with a mask that leaves itself out");
}

TK_COLD void report_missing_lanes(Collective kind, const Site& at) {
  fail(std::string(name_of(kind)) + " at " + text_of(at) + " needs all 32 lanes of the warp, some have returned");
}

TK_COLD void report_width(int width, const Site& at) {
  fail("a shuffle at " + text_of(at) + " has width " + std::to_string(width) + ", not a power of two up to 32");
}

unsigned find_group(Warp& warp, Collective kind, uint32_t mask, unsigned lane) {
  for (unsigned g = 0; g < warp.open; ++g) {
    const Warp::Group& group = warp.groups[g];
    if (group.mask == mask && group.kind == kind) return g;
    if ((group.mask >> lane & 1u) && (mask & group.arrived)) report_disagreement(warp, group, kind, mask, lane);
  }
  warp.groups[warp.open] = Warp::Group{kind, mask, 0};
  return warp.open++;
}

bool complete_mask(const Warp& warp, const Warp::Group& group) {
  return (group.mask & warp.present & ~group.arrived) == 0;
}

uint64_t collective(Collective kind, uint32_t mask, uint64_t value, unsigned source, Site at) {
  Machine& m = machine();
  Warp& warp = own_warp();
  const unsigned lane = m.self % 32;
  ++m.statistics.collectives;
  warp.site[lane] = at;
  if (!(mask >> lane & 1u)) report_outsider(kind, lane, at);
  const unsigned g = find_group(warp, kind, mask, lane);
  warp.value[lane] = value;
  warp.source[lane] = static_cast<int8_t>(source);
  warp.groups[g].arrived |= 1u << lane;
  if (complete_mask(warp, warp.groups[g])) {
    release(m.self / 32, g, lane);
  } else {
    park(State::warp);
  }
  return warp.result[lane];
}

// A tensor-core operation needs the whole warp.
void whole_warp(Collective kind, uint64_t operands, Site at) {
  if (own_warp().present != 0xffffffffu) report_missing_lanes(kind, at);
  collective(kind, 0xffffffffu, operands, 0, at);
}

}  // namespace

void reset_warps() {
  Machine& m = machine();
  for (unsigned w = 0; w * 32 < m.threads; ++w) {
    const unsigned lanes = std::min(32u, m.threads - w * 32);
    m.warps[w].present = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1u;
    m.warps[w].open = 0;
  }
}

void leave_warp(unsigned thread) {
  Warp& warp = machine().warps[thread / 32];
  warp.present &= ~(1u << thread % 32);
  for (unsigned g = 0; g < warp.open;) {
    const Warp::Group& group = warp.groups[g];
    if (!(group.mask >> thread % 32 & 1u) || !complete_mask(warp, group)) {
      ++g;
    } else if (group.kind >= Collective::mma_f16) {
      const auto lane = static_cast<unsigned>(std::countr_zero(group.arrived));
      report_missing_lanes(group.kind, warp.site[lane]);
    } else {
      release(thread / 32, g, thread % 32);
    }
  }
}

void sync_warp(uint32_t mask, Site at) { collective(Collective::sync, mask, 0, 0, at); }

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t bits, int operand, int width, Site at) {
  const int lane = static_cast<int>(machine().self % 32);
  if (width < 1 || width > 32 || (width & (width - 1))) report_width(width, at);
  const int first = lane & ~(width - 1);
  int from = lane;
  switch (kind) {
    case Shuffle::index:
      from = first | (operand & (width - 1));
      break;
    case Shuffle::up:
      if (lane - operand >= first) from = lane - operand;
      break;
    case Shuffle::down:
      if (lane + operand < first + width) from = lane + operand;
      break;
    case Shuffle::exchange:
      if ((lane ^ operand) < first + width) from = lane ^ operand;
      break;
  }
  const auto collective_kind =
      static_cast<Collective>(static_cast<int>(Collective::shuffle_index) + static_cast<int>(kind));
  return collective(collective_kind, mask, bits, static_cast<unsigned>(from), at);
}

uint32_t vote(uint32_t mask, bool predicate, Site at) {
  return static_cast<uint32_t>(collective(Collective::vote, mask, predicate, 0, at));
}

void mma(float* d, const uint32_t* a, const uint32_t* b, bool bfloat, Site at) {
  const MmaOperands operands{d, a, b};
  whole_warp(bfloat ? Collective::mma_bf16 : Collective::mma_f16, reinterpret_cast<uint64_t>(&operands), at);
}

void load_matrix(uint32_t* registers, const void* row, int matrices, bool transposed, Site at) {
  const MatrixOperands operands{registers, row, matrices, transposed, __builtin_return_address(0)};
  if (static_cast<int>(machine().self % 32) < 8 * matrices) check_matrix_row(operands, at);
  const auto plain = static_cast<int>(matrices == 4 ? Collective::matrix_x4 : Collective::matrix_x2);
  whole_warp(static_cast<Collective>(plain + transposed), reinterpret_cast<uint64_t>(&operands), at);
}

}  // namespace tk::simt
