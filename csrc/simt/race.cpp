// SPDX-License-Identifier: Apache-2.0
#include "simt/race.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "simt/banks.h"
#include "simt/executor.h"
#include "simt/report.h"
#include "simt/shadow.h"
#include "simt/where.h"

namespace tk::simt::race {
namespace {

struct TrackedRegion : Region {
  size_t shadow;  // word of the shadow where the region starts
};

// What the lanes of a warp know of each other: `seen[a][b]` is the number of the last __syncwarp of lane b that lane a
// is ordered after. `all` is the last one that every live lane took part in.
struct WarpClock {
  uint32_t stamp = 0;
  uint32_t all = 0;
  bool partial = false;  // `seen` is in use
  std::array<std::array<uint32_t, 32>, 32> seen;
};

struct Detector {
  bool on = false;
  uint32_t epoch = 0;
  uint32_t launch_first = 0;  // epochs in which the running launch and block began
  uint32_t block_first = 0;
  std::array<WarpClock, kMaxWarps> clocks;
  std::vector<TrackedRegion> regions;
  size_t last_region = 0;
  size_t last_array = 0;
  Shadow global;
  Shadow shared;
};

Detector detector;

// ---- order --------------------------------------------------------------------------------------------------------
// Whether everybody in `group`, which acted in the current epoch, is ordered before the running thread.
bool ordered(const Accessors& group) {
  const unsigned self = machine().self;
  const unsigned warp = self / 32;
  if (group.warps != 1u << warp) return false;
  uint32_t others = group.lanes & ~(1u << self % 32);
  const WarpClock& clock = detector.clocks[warp];
  if (others == 0 || clock.all > group.stamp) return true;
  if (!clock.partial) return false;
  for (; others; others &= others - 1) {
    if (clock.seen[self % 32][static_cast<unsigned>(std::countr_zero(others))] <= group.stamp) return false;
  }
  return true;
}

void set_alone(Accessors& group, const Access& access) {
  const unsigned self = machine().self;
  group = Accessors{detector.epoch,  1u << self / 32,
                    1u << self % 32, detector.clocks[self / 32].stamp,
                    access.pc,       static_cast<uint16_t>(self),
                    access.atomic};
}

void join(Accessors& group, const Access& access) {
  const unsigned self = machine().self;
  const uint32_t warp = 1u << self / 32;
  if (group.epoch != detector.epoch || (group.warps == warp && ordered(group))) return set_alone(group, access);
  const bool same_warp = group.thread / 32u == self / 32;
  group.warps |= warp;
  group.lanes = (same_warp ? group.lanes : 0) | 1u << self % 32;
  if (!same_warp) group.stamp = detector.clocks[self / 32].stamp;  // else the earliest: never a false alarm
  group.pc = access.pc;
  group.thread = static_cast<uint16_t>(self);
}

// Shared memory belongs to one block: what earlier blocks did there does not count.
template <bool kShared>
void check_cell(Cell& cell, const Access& access, const char* memory, size_t offset) {
  const uint32_t scope = kShared ? detector.block_first : detector.launch_first;
  Accessors& writers = cell.writers;
  Accessors& readers = cell.readers;
  if (cell.copying == static_cast<uint32_t>(machine().launch)) report_copying(access, writers, memory, offset);
  if (writers.epoch >= scope && !(access.atomic && writers.atomic)) {
    if (!kShared && writers.epoch < detector.block_first) {
      report_race(access, writers, true, true, memory, offset);
    }
    if (writers.epoch == detector.epoch && !ordered(writers)) {
      report_race(access, writers, true, false, memory, offset);
    }
    if (!kShared && cell.foreign_write == detector.launch_first) {
      report_race(access, writers, true, true, memory, offset);
    }
  }
  if (!access.write) {
    if (!kShared && readers.epoch >= scope && readers.epoch < detector.block_first) cell.foreign_read = scope;
    return join(readers, access);
  }
  if (readers.epoch >= scope) {
    if (!kShared && (readers.epoch < detector.block_first || cell.foreign_read == scope)) {
      report_race(access, readers, false, true, memory, offset);
    }
    if (readers.epoch == detector.epoch && !ordered(readers)) {
      report_race(access, readers, false, false, memory, offset);
    }
  }
  if (!access.atomic) return set_alone(writers, access);
  if (!kShared && writers.epoch >= scope && writers.epoch < detector.block_first) cell.foreign_write = scope;
  if (writers.epoch == detector.epoch && writers.atomic) return join(writers, access);
  // A thread's own plain write stays one for the others, whatever atomics it adds.
  const unsigned self = machine().self;
  const bool plain =
      writers.epoch == detector.epoch && writers.thread == self && writers.stamp == detector.clocks[self / 32].stamp;
  set_alone(writers, access);
  if (plain) writers.atomic = false;
}

// Calls visit(cell, byte) for the cells of [offset, offset + bytes), one a word where the word is whole.
template <class Visit>
void for_each_cell(Shadow& shadow, size_t base, size_t offset, size_t bytes, uint32_t scope, Visit visit) {
  if (bytes == 4 && offset % 4 == 0) {
    Cell& whole = shadow.word(base + offset / 4);
    if (whole.split != scope) return visit(whole, offset);
  }
  size_t at = offset;
  const size_t end = offset + bytes;
  while (at < end) {
    const size_t word = at / 4;
    Cell& whole = shadow.word(base + word);
    const size_t stop = std::min(end, word * 4 + 4);
    if (stop - at == 4 && whole.split != scope) {
      visit(whole, at);
    } else {
      Cell* parts = shadow.parts(base + word);
      if (whole.split != scope) {
        for (int i = 0; i < 4; ++i) parts[i] = whole;
        whole.split = scope;
      }
      for (size_t byte = at; byte < stop; ++byte) visit(parts[byte % 4], byte);
    }
    at = stop;
  }
}

// ---- where an access falls ------------------------------------------------------------------------------------------
const SharedArray& array_of(const Access& access, size_t offset) {
  const std::vector<SharedArray>& arrays = machine().arrays;
  const auto holds = [&](const SharedArray& a) {
    return offset >= a.offset && offset + access.bytes <= a.offset + a.bytes;
  };
  if (detector.last_array < arrays.size() && holds(arrays[detector.last_array])) return arrays[detector.last_array];
  const SharedArray* nearest = &arrays.front();
  for (const SharedArray& array : arrays) {
    if (holds(array)) {
      detector.last_array = static_cast<size_t>(&array - arrays.data());
      return array;
    }
    // Half of the red zone on either side is its own.
    if (array.offset <= offset + kRedZone / 2) nearest = &array;
  }
  report_array(access, *nearest, offset);
}

TrackedRegion* region_of(const Access& access) {
  const auto holds = [&](const TrackedRegion& r) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(r.first);
    return access.address >= first && access.address + access.bytes <= first + r.bytes;
  };
  if (detector.last_region < detector.regions.size() && holds(detector.regions[detector.last_region])) {
    return &detector.regions[detector.last_region];
  }
  for (TrackedRegion& region : detector.regions) {
    if (!holds(region)) continue;
    detector.last_region = static_cast<size_t>(&region - detector.regions.data());
    return &region;
  }
  return nullptr;
}

TK_COLD void report_miss(const Access& access) {
  constexpr int64_t kNear = 4096;
  const TrackedRegion* nearest = nullptr;
  int64_t best = kNear;
  for (const TrackedRegion& region : detector.regions) {
    const int64_t offset = static_cast<int64_t>(access.address - reinterpret_cast<uintptr_t>(region.first));
    const int64_t distance = offset < 0 ? -offset : offset - static_cast<int64_t>(region.bytes);
    if (distance >= best) continue;
    best = distance;
    nearest = &region;
  }
  if (nearest) {
    report_bounds(access, "'" + nearest->name + "'", nearest->bytes,
                  static_cast<int64_t>(access.address - reinterpret_cast<uintptr_t>(nearest->first)));
  }
  report_stray(access);
}

bool own_stack(uintptr_t address) {
  const Machine& m = machine();
  return address - reinterpret_cast<uintptr_t>(m.stacks.stack(m.self)) < StackPool::kStackBytes;
}

// Arguments of the kernel and constants may be read.
bool constant(const Access& access) {
  const Body& body = machine().body;
  const bool argument = access.address - reinterpret_cast<uintptr_t>(body.object) < body.bytes;
  return !access.write && (argument || in_module(reinterpret_cast<const void*>(access.address)));
}

void check(const Access& access) {
  Machine& m = machine();
  if (own_stack(access.address)) return;
  ++m.statistics.accesses;
  if (++m.accesses > m.access_limit) report_spinning(access);
  const size_t offset = access.address - reinterpret_cast<uintptr_t>(m.arena);
  if (offset < kArenaBytes) {
    const SharedArray& array = array_of(access, offset);
    const auto visit = [&](Cell& cell, size_t byte) {
      check_cell<true>(cell, access, array.name, byte - array.offset);
    };
    return for_each_cell(detector.shared, 0, offset, access.bytes, detector.block_first, visit);
  }
  TrackedRegion* region = region_of(access);
  if (!region) {
    if (constant(access)) return;
    report_miss(access);
  }
  if (access.write && !region->writable) report_input(access, region->name);
  const auto visit = [&](Cell& cell, size_t byte) {
    const size_t skip = reinterpret_cast<uintptr_t>(region->first) % 4;
    check_cell<false>(cell, access, region->name.c_str(), byte - skip);
  };
  const size_t skip = reinterpret_cast<uintptr_t>(region->first) % 4;
  const size_t inside = access.address - reinterpret_cast<uintptr_t>(region->first);
  for_each_cell(detector.global, region->shadow, skip + inside, access.bytes, detector.launch_first, visit);
}

bool watching() { return detector.on && machine().running; }

void check(const void* address, size_t bytes, const void* pc, bool write, bool atomic) {
  check(Access{reinterpret_cast<uintptr_t>(address), bytes, module_offset(pc), write, atomic});
}

// Between launches, long before the epoch could wrap around inside one.
void renew_epochs() {
  if (detector.epoch < 0x80000000u) return;
  detector.global.forget();
  detector.shared.forget();
  detector.epoch = 0;
}

template <class Change>
void change_copy(const void* shared, size_t bytes, Change change) {
  const size_t offset = static_cast<size_t>(static_cast<const unsigned char*>(shared) - machine().arena);
  for_each_cell(detector.shared, 0, offset, bytes, detector.block_first, [&](Cell& cell, size_t) { change(cell); });
}

}  // namespace

void watch(bool on) { detector.on = on; }

void add_region(Region region) {
  size_t next = 0;
  if (!detector.regions.empty()) next = detector.regions.back().shadow + detector.regions.back().bytes / 4 + 2;
  detector.regions.push_back(TrackedRegion{std::move(region), next});
}

void clear_regions() {
  detector.regions.clear();
  detector.last_region = 0;
}

void begin_launch() {
  if (!detector.on) return;
  detector.shared.reserve(kArenaBytes / 4);
  if (!detector.regions.empty()) {
    detector.global.reserve(detector.regions.back().shadow + detector.regions.back().bytes / 4 + 2);
  }
  renew_epochs();
  detector.launch_first = ++detector.epoch;
  detector.last_array = 0;
}

void begin_block() {
  detector.block_first = ++detector.epoch;
  for (unsigned w = 0; w * 32 < machine().threads; ++w) {
    WarpClock& clock = detector.clocks[w];
    clock.stamp = clock.all = 0;
    clock.partial = false;
  }
}

void order_block() { ++detector.epoch; }

void order_lanes(unsigned warp, uint32_t lanes) {
  WarpClock& clock = detector.clocks[warp];
  const uint32_t now = ++clock.stamp;
  if (lanes == machine().warps[warp].present) {
    clock.all = now;
    return;
  }
  if (!clock.partial) {
    clock.partial = true;
    for (auto& row : clock.seen) row.fill(0);
  }
  std::array<uint32_t, 32> known{};
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const auto lane = static_cast<unsigned>(std::countr_zero(rest));
    for (unsigned i = 0; i < 32; ++i) known[i] = std::max(known[i], clock.seen[lane][i]);
  }
  for (uint32_t rest = lanes; rest; rest &= rest - 1) known[static_cast<unsigned>(std::countr_zero(rest))] = now;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) clock.seen[static_cast<unsigned>(std::countr_zero(rest))] = known;
}

void note_read(const void* address, size_t bytes, const void* pc) {
  if (watching()) check(address, bytes, pc, false, false);
}

void begin_copy(const void* shared, size_t bytes, const void* pc) {
  if (!watching()) return;
  check(shared, bytes, pc, true, false);
  change_copy(shared, bytes, [](Cell& cell) { cell.copying = static_cast<uint32_t>(machine().launch); });
}

// The copy counts as a write of its thread now: others may see it after the next barrier.
void end_copy(const void* shared, size_t bytes) {
  if (!watching()) return;
  change_copy(shared, bytes, [](Cell& cell) {
    cell.copying = 0;
    const uint32_t issued_at = cell.writers.pc;
    set_alone(cell.writers, Access{0, kCopyBytes, issued_at, true, false});
  });
}

void hook_read(const void* address, size_t bytes, const void* pc) {
  if (watching()) check(address, bytes, pc, false, false);
}

void hook_write(const void* address, size_t bytes, const void* pc) {
  if (watching()) check(address, bytes, pc, true, false);
}

}  // namespace tk::simt::race

namespace tk::simt {

void note_atomic(const void* address, size_t bytes) {
  ++machine().statistics.atomics;
  if (race::watching()) race::check(address, bytes, __builtin_return_address(0), true, true);
  if (banks::counting) banks::note(address, bytes, __builtin_return_address(0), banks::Kind::atomic);
}

}  // namespace tk::simt
