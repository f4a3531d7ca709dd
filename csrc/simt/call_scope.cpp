// SPDX-License-Identifier: Apache-2.0
#include "simt/call_scope.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "simt/executor.h"
#include "simt/race.h"
#include "simt/settings.h"

namespace tk::simt {
namespace {

constexpr size_t kGuardBytes = 4096;
constexpr unsigned char kGuardValue = 0xA5;
constexpr uintptr_t kAlign = 256;
constexpr uintptr_t kKeptBits = 16;  // the widest access of a GPU thread

// The detector knows the arguments of a call as long as the call runs.
class Registration {
 public:
  Registration() { race::clear_regions(); }
  ~Registration() { race::clear_regions(); }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;
  void add(const GuardedBuffer& buffer) {
    race::add_region(race::Region{buffer.name(), buffer.data(), buffer.bytes(), buffer.written()});
  }
};

bool is_guard(const unsigned char* bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (bytes[i] != kGuardValue) return false;
  }
  return true;
}

}  // namespace

GuardedBuffer::GuardedBuffer(std::string name, size_t bytes, const void* like, Use use)
    : name_(std::move(name)),
      bytes_(bytes),
      use_(use),
      memory_(std::make_unique_for_overwrite<unsigned char[]>(bytes + 2 * kGuardBytes + kAlign + kKeptBits)) {
  const auto first = reinterpret_cast<uintptr_t>(memory_.get()) + kGuardBytes;
  data_ = reinterpret_cast<unsigned char*>((first + kAlign - 1) / kAlign * kAlign +
                                           reinterpret_cast<uintptr_t>(like) % kKeptBits);
  std::memset(data_ - kGuardBytes, kGuardValue, kGuardBytes);
  std::memset(data_ + bytes_, kGuardValue, kGuardBytes);
}

void GuardedBuffer::fill(unsigned char value) const { std::memset(data_, value, bytes_); }

void GuardedBuffer::check_guards(const std::string& op) const {
  const bool before = is_guard(data_ - kGuardBytes, kGuardBytes);
  if (before && is_guard(data_ + bytes_, kGuardBytes)) return;
  throw std::runtime_error("simt: " + op + ": a kernel wrote " + (before ? "past the end of" : "before the start of") +
                           " argument '" + name_ + "' (" + std::to_string(bytes_) + " bytes)");
}

CallScope::CallScope(std::string op) : op_(std::move(op)) {}

void* CallScope::stage(const char* name, void* data, size_t bytes, Use use) {
  arguments_.push_back(Argument{GuardedBuffer(name, bytes, data, use), data});
  const GuardedBuffer& buffer = arguments_.back().buffer;
  if (bytes && use == Use::read) std::memcpy(buffer.data(), data, bytes);
  return buffer.data();
}

void* CallScope::workspace(size_t bytes) {
  arguments_.push_back(Argument{GuardedBuffer("workspace", bytes, nullptr, Use::written), nullptr});
  return arguments_.back().buffer.data();
}

void CallScope::run(const std::function<void()>& launcher) {
  const std::lock_guard<std::mutex> lock(machine_mutex());
  const Options& options = settings();
  Registration registration;
  for (const Argument& argument : arguments_) registration.add(argument.buffer);
  size_t index = 0;
  for (const Schedule& schedule : options.schedules) {
    for (const CopyTiming timing : options.timings) {
      const uint64_t copies = machine().statistics.async_copies;
      configure(op_, schedule, timing, index);
      run_once(launcher, index++);
      // Without cp.async both timings are the same run.
      if (machine().statistics.async_copies == copies) break;
    }
  }
}

void CallScope::run_once(const std::function<void()>& launcher, size_t index) {
  for (const Argument& argument : arguments_) {
    const GuardedBuffer& buffer = argument.buffer;
    if (buffer.use() == Use::written) buffer.fill(argument.original ? kPoisons[0] : machine().poison);
    if (buffer.use() == Use::updated && buffer.bytes()) std::memcpy(buffer.data(), argument.original, buffer.bytes());
  }
  launcher();
  for (const Argument& argument : arguments_) argument.buffer.check_guards(op_);
  check_inputs();
  const std::string name = to_text(machine().schedule) + ", copies at " + to_text(machine().timing);
  if (index == 0) {
    first_run_ = name;
    first_outputs_ = outputs();
  } else {
    compare(name, outputs());
  }
}

void CallScope::check_inputs() const {
  for (const Argument& argument : arguments_) {
    const GuardedBuffer& buffer = argument.buffer;
    if (buffer.written() || buffer.bytes() == 0) continue;
    if (std::memcmp(buffer.data(), argument.original, buffer.bytes()) == 0) continue;
    throw std::runtime_error("simt: " + op_ + ": a kernel wrote to input '" + buffer.name() + "'");
  }
}

std::vector<std::vector<unsigned char>> CallScope::outputs() const {
  std::vector<std::vector<unsigned char>> all;
  for (const Argument& argument : arguments_) {
    const GuardedBuffer& buffer = argument.buffer;
    if (argument.original && buffer.written()) all.emplace_back(buffer.data(), buffer.data() + buffer.bytes());
  }
  return all;
}

void CallScope::compare(const std::string& run, const std::vector<std::vector<unsigned char>>& outputs) {
  size_t i = 0;
  for (const Argument& argument : arguments_) {
    if (!argument.original || !argument.buffer.written()) continue;
    const std::vector<unsigned char>& first = first_outputs_[i];
    const std::vector<unsigned char>& second = outputs[i++];
    if (first == second) continue;
    size_t at = 0;
    size_t different = 0;
    for (size_t k = first.size(); k-- > 0;) {
      if (first[k] == second[k]) continue;
      at = k;
      ++different;
    }
    throw std::runtime_error("simt: " + op_ + ": output '" + argument.buffer.name() +
                             "' depends on the schedule: " + std::to_string(different) + " of " +
                             std::to_string(first.size()) + " bytes differ between (" + first_run_ + ") and (" + run +
                             "), first at byte " + std::to_string(at));
  }
}

void CallScope::finish() {
  for (const Argument& argument : arguments_) {
    const GuardedBuffer& buffer = argument.buffer;
    if (argument.original && buffer.written() && buffer.bytes()) {
      std::memcpy(argument.original, buffer.data(), buffer.bytes());
    }
  }
}

}  // namespace tk::simt
