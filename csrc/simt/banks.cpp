// SPDX-License-Identifier: Apache-2.0
#include "simt/banks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <unordered_map>
#include <utility>

#include "simt/executor.h"
#include "simt/where.h"

namespace tk::simt::banks {

bool counting = false;

namespace {

constexpr size_t kWidest = 16;  // bytes that one lane can ask for at once
constexpr unsigned kBanks = 32;

// One instruction of a warp, as far as its lanes have come.
struct Instruction {
  uint32_t lanes = 0;
  uint32_t bytes = 0;
  std::array<uint32_t, 32> offset;  // in shared memory
};

// One place of the kernel, as one warp has passed it since its lanes last met.
struct Trace {
  Kind kind = Kind::read;
  std::array<uint32_t, 32> passed{};  // times, by lane
  std::vector<Instruction> instructions;
};

using Traces = std::unordered_map<uint32_t, Trace>;  // by pc

std::array<Traces, kMaxWarps> traces;
std::map<std::pair<uint32_t, uint32_t>, Place> totals;  // by kernel and pc

// The words that one part of a warp asks for; at most one for each bank and lane of a conflict-free part.
class Part {
 public:
  void add(uint32_t offset, uint32_t bytes) {
    for (uint32_t word = offset / 4; word <= (offset + bytes - 1) / 4; ++word) words_[count_++] = word;
  }

  // The most words that one bank has to serve.
  unsigned wavefronts(bool take_turns) {
    const auto end = words_.begin() + count_;
    std::sort(words_.begin(), end);
    const auto last = take_turns ? end : std::unique(words_.begin(), end);
    std::array<unsigned, kBanks> served{};
    for (auto word = words_.begin(); word != last; ++word) ++served[*word % kBanks];
    return *std::max_element(served.begin(), served.end());
  }

 private:
  std::array<uint32_t, 64> words_;  // a lane may straddle one word more
  unsigned count_ = 0;
};

Place& place_of(uint32_t pc, Kind kind, size_t bytes) {
  const uint32_t kernel = module_offset(machine().body.kernel);
  Place& place = totals[{kernel, pc}];
  place.kernel = kernel;
  place.pc = pc;
  place.kind = kind;
  place.bytes = std::max(place.bytes, bytes);
  return place;
}

void serve(Place& place, Part& part) {
  const unsigned wavefronts = part.wavefronts(place.kind == Kind::atomic);
  if (wavefronts == 0) return;
  place.wavefronts += wavefronts;
  ++place.least;
  place.worst = std::max(place.worst, wavefronts);
}

void total(uint32_t pc, const Trace& trace) {
  for (const Instruction& instruction : trace.instructions) {
    Place& place = place_of(pc, trace.kind, instruction.bytes);
    ++place.instructions;
    const unsigned lanes = instruction.bytes <= 4 ? 32 : instruction.bytes <= 8 ? 16 : 8;
    for (unsigned first = 0; first < 32; first += lanes) {
      Part part;
      for (unsigned lane = first; lane < first + lanes; ++lane) {
        if (instruction.lanes >> lane & 1u) part.add(instruction.offset[lane], instruction.bytes);
      }
      serve(place, part);
    }
  }
}

void note_piece(size_t offset, size_t bytes, uint32_t pc, Kind kind) {
  const unsigned self = machine().self;
  const unsigned lane = self % 32;
  Trace& trace = traces[self / 32][pc];
  trace.kind = kind;
  const uint32_t turn = trace.passed[lane]++;
  if (turn >= trace.instructions.size()) trace.instructions.emplace_back();
  Instruction& instruction = trace.instructions[turn];
  instruction.lanes |= 1u << lane;
  instruction.bytes = std::max(instruction.bytes, static_cast<uint32_t>(bytes));
  instruction.offset[lane] = static_cast<uint32_t>(offset);
}

size_t offset_of(const void* address) {
  return static_cast<size_t>(static_cast<const unsigned char*>(address) - machine().arena);
}

}  // namespace

void count(bool on) { counting = on; }

void note(const void* address, size_t bytes, const void* pc, Kind kind) {
  if (!machine().running) return;
  const size_t offset = offset_of(address);
  if (offset >= kArenaBytes) return;
  for (size_t at = 0; at < bytes; at += kWidest) {
    note_piece(offset + at, std::min(kWidest, bytes - at), module_offset(pc), kind);
  }
}

void note_matrices(const void* const* rows, int matrices, const void* pc) {
  Place& place = place_of(module_offset(pc), Kind::matrix, kWidest);
  ++place.instructions;
  for (int i = 0; i < matrices; ++i) {
    Part part;
    for (int row = 0; row < 8; ++row) part.add(static_cast<uint32_t>(offset_of(rows[8 * i + row])), kWidest);
    serve(place, part);
  }
}

void begin_launch() {
  for (Traces& trace : traces) trace.clear();
}

void finish_warp(unsigned warp) {
  for (const auto& [pc, trace] : traces[warp]) total(pc, trace);
  traces[warp].clear();
}

void finish_block() {
  for (unsigned w = 0; w * 32 < machine().threads; ++w) finish_warp(w);
}

std::vector<Place> places() {
  std::vector<Place> all;
  for (const auto& [key, place] : totals) all.push_back(place);
  return all;
}

void reset() { totals.clear(); }

}  // namespace tk::simt::banks
