// SPDX-License-Identifier: Apache-2.0
// Launches, the scheduler and the block-wide barrier.
#include "simt/executor.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <string_view>

#include "simt/banks.h"
#include "simt/race.h"
#include "simt/where.h"

namespace tk::simt {

Machine the_machine;

namespace {

bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && std::string_view(a.file_name()) == b.file_name();
}

std::string text_of_extent(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

void begin_round() {
  Machine& m = the_machine;
  m.cursor = 0;
  if (m.schedule.order != Order::shuffled) return;
  for (unsigned i = m.threads - 1; i > 0; --i) std::swap(m.order[i], m.order[m.random() % (i + 1)]);
}

unsigned next_ready() {
  Machine& m = the_machine;
  for (;;) {
    if (m.cursor == m.threads) begin_round();
    const unsigned thread = m.order[m.cursor++];
    if (m.state[thread] == State::ready) return thread;
  }
}

void run_thread(unsigned thread) {
  Machine& m = the_machine;
  const unsigned before = m.self;
  if (thread == before) return;
  m.self = thread;
  m.accesses = 0;
  ++m.statistics.switches;
  switch_fiber(m.fibers[before], m.fibers[thread], m.switching);
}

std::string lanes_text(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "%08x", mask);
  return text;
}

TK_COLD void report_deadlock() {
  const Machine& m = the_machine;
  std::string text = "deadlock: ";
  int shown = 0;
  for (unsigned w = 0; w * 32 < m.threads; ++w) {
    const Warp& warp = m.warps[w];
    for (unsigned g = 0; g < warp.open && shown < 4; ++g, ++shown) {
      const Warp::Group& group = warp.groups[g];
      const auto lane = static_cast<unsigned>(__builtin_ctz(group.arrived));
      text += "warp " + std::to_string(w) + " waits at " + text_of(warp.site[lane]) + " with mask " +
              lanes_text(group.mask) + " for lanes " + lanes_text(group.mask & warp.present & ~group.arrived) +
              " that never come; ";
    }
  }
  text += std::to_string(m.waiting) + " of " + std::to_string(m.live) + " live threads wait at __syncthreads";
  if (m.waiting) text += " (" + text_of(m.barrier_site) + ")";
  fail(text);
}

TK_COLD void report_divergence(const Site& at) {
  fail("divergent __syncthreads: this thread is at " + text_of(at) + ", others of its block wait at " +
       text_of(the_machine.barrier_site));
}

void release_barrier() {
  Machine& m = the_machine;
  m.waiting = 0;
  for (unsigned i = 0; i < m.threads; ++i) {
    if (m.state[i] != State::barrier) continue;
    m.state[i] = State::ready;
    ++m.ready;
  }
  race::order_block();
  if (banks::counting) banks::finish_block();
  begin_round();
}

void leave_thread() {
  Machine& m = the_machine;
  check_copies_landed(m.self);
  m.state[m.self] = State::done;
  --m.ready;
  --m.live;
  leave_warp(m.self);
  if (m.live && m.waiting == m.live) release_barrier();
  if (m.live == 0) {
    m.running = false;
    switch_fiber(m.fibers[m.self], m.main, m.switching);
    return;
  }
  if (m.ready == 0) report_deadlock();
  run_thread(next_ready());
}

[[noreturn]] void thread_loop() {
  for (;;) {
    the_machine.body.call(the_machine.body.object);
    leave_thread();
  }
}

void prepare_fibers() {
  Machine& m = the_machine;
  if (!m.fibers) {
    m.fibers = std::make_unique<Fiber[]>(kMaxThreads);
    m.stacks.reserve(kMaxThreads);
  }
  for (; m.prepared < m.threads; ++m.prepared) {
    prepare_fiber(m.fibers[m.prepared], m.stacks.stack(m.prepared), StackPool::usable(m.prepared), &thread_loop,
                  m.switching);
  }
}

void check_configuration(const dim3& grid, const dim3& block) {
  const bool block_fits = block.x > 0 && block.y > 0 && block.z > 0 && block.x <= 1024 && block.y <= 1024 &&
                          block.z <= 64 && uint64_t{block.x} * block.y * block.z <= kMaxThreads;
  const bool grid_fits =
      grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
  if (!block_fits)
    fail("a block of " + text_of_extent(uint3{block.x, block.y, block.z}) + " threads cannot be launched");
  if (!grid_fits) fail("a grid of " + text_of_extent(uint3{grid.x, grid.y, grid.z}) + " blocks cannot be launched");
}

void prepare_threads(const dim3& block) {
  Machine& m = the_machine;
  m.threads = block.x * block.y * block.z;
  for (unsigned i = 0; i < m.threads; ++i) {
    m.index[i] = uint3{i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
  std::iota(m.order.begin(), m.order.begin() + m.threads, uint16_t{0});
  if (m.schedule.order == Order::reverse) std::reverse(m.order.begin(), m.order.begin() + m.threads);
  m.random.seed(static_cast<unsigned>(m.schedule.seed * 2654435761u + 1));
}

// A permutation of [0, count) that needs no memory: multiplication by a number coprime to count.
class BlockOrder {
 public:
  BlockOrder(const Schedule& schedule, uint64_t count) : schedule_(schedule), count_(count) {
    step_ = count / 2 + 1 + schedule.seed % 97;
    while (std::gcd(step_, count) != 1) ++step_;
  }
  uint64_t operator[](uint64_t i) const {
    if (schedule_.order == Order::forward) return i;
    if (schedule_.order == Order::reverse) return count_ - 1 - i;
    return static_cast<uint64_t>(static_cast<unsigned __int128>(i) * step_ % count_ + schedule_.seed % count_) % count_;
  }

 private:
  Schedule schedule_;
  uint64_t count_;
  uint64_t step_;
};

void run_block(uint64_t block) {
  Machine& m = the_machine;
  const dim3& grid = m.grid.blocks;
  m.block_index = uint3{static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                        static_cast<unsigned>(block / grid.x / grid.y)};
  std::fill_n(m.state.begin(), m.threads, State::ready);
  m.ready = m.live = m.threads;
  m.waiting = 0;
  reset_warps();
  reset_copies();
  poison_shared();
  race::begin_block();
  begin_round();
  ++m.statistics.blocks;
  m.statistics.threads += m.threads;
  m.self = next_ready();
  m.accesses = 0;
  m.running = true;
  switch_fiber(m.main, m.fibers[m.self], m.switching);
  if (banks::counting) banks::finish_block();
}

// Fibers of a launch that failed are abandoned in the middle of a kernel: they start afresh next time.
void raise_error() {
  Machine& m = the_machine;
  m.prepared = 0;
  std::string error;
  error.swap(m.error);
  throw std::runtime_error(error);
}

}  // namespace

std::mutex& machine_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::string text_of(const Site& site) { return repository_path(site.file_name()) + ":" + std::to_string(site.line()); }

std::string text_of(unsigned thread) {
  const Machine& m = the_machine;
  return "thread " + text_of_extent(m.index[thread]);
}

TK_COLD void fail(const std::string& message) {
  Machine& m = the_machine;
  const std::string launch = m.grid.at.line() ? ", launched at " + text_of(m.grid.at) : "";
  if (!m.running) throw std::runtime_error("simt: " + m.op + ": " + message + launch);
  m.error = "simt: " + m.op + ": " + message + " [" + text_of(m.self) + " of block " + text_of_extent(m.block_index) +
            launch + "]";
  m.running = false;
  for (;;) switch_fiber(m.fibers[m.self], m.main, m.switching);
}

void park(State state) {
  Machine& m = the_machine;
  m.state[m.self] = state;
  --m.ready;
  if (m.ready == 0) report_deadlock();
  run_thread(next_ready());
}

uint3 thread_index() { return the_machine.index[the_machine.self]; }
uint3 block_index() { return the_machine.block_index; }
dim3 block_extent() { return the_machine.block; }
dim3 grid_extent() { return the_machine.grid.blocks; }

void barrier(Site at) {
  Machine& m = the_machine;
  ++m.statistics.barriers;
  if (m.waiting == 0) {
    m.barrier_site = at;
  } else if (!same_site(m.barrier_site, at)) {
    report_divergence(at);
  }
  m.state[m.self] = State::barrier;
  --m.ready;
  if (++m.waiting == m.live) release_barrier();
  if (m.ready == 0) report_deadlock();
  run_thread(next_ready());
}

void run_grid(const Grid& grid, dim3 block, size_t dynamic_shared, const Body& body) {
  Machine& m = the_machine;
  m.grid = grid;
  m.block = block;
  m.body = body;
  check_configuration(grid.blocks, block);
  ++m.launch;
  ++m.statistics.launches;
  reset_shared(dynamic_shared);
  prepare_threads(block);
  prepare_fibers();
  race::begin_launch();
  if (banks::counting) banks::begin_launch();
  const uint64_t blocks = uint64_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z;
  const BlockOrder order(m.schedule, blocks);
  for (uint64_t i = 0; i < blocks; ++i) {
    run_block(order[i]);
    if (!m.error.empty()) raise_error();
  }
}

}  // namespace tk::simt
