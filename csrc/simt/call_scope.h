// SPDX-License-Identifier: Apache-2.0
// One call of an op on the host executor: guarded copies of its arguments, the launcher run under every schedule, and
// the outputs copied back only when all runs agree.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace tk::simt {

// What kernels do with an argument. One that is updated holds the caller's values before every run.
enum class Use { read, written, updated };

// Memory of exactly the size asked for, between guard bytes, as an op's argument.
class GuardedBuffer {
 public:
  // The address keeps the low bits of `like`, so that launchers choose the path they would choose for the original.
  GuardedBuffer(std::string name, size_t bytes, const void* like, Use use);

  unsigned char* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  const std::string& name() const { return name_; }
  Use use() const { return use_; }
  bool written() const { return use_ != Use::read; }
  void fill(unsigned char value) const;
  // Throws when a guard byte has changed.
  void check_guards(const std::string& op) const;

 private:
  std::string name_;
  size_t bytes_;
  Use use_;
  std::unique_ptr<unsigned char[]> memory_;
  unsigned char* data_;
};

class CallScope {
 public:
  explicit CallScope(std::string op);

  // A copy of `bytes` bytes at `data` for the kernels; `finish` copies it back unless it is only read.
  void* stage(const char* name, void* data, size_t bytes, Use use);
  void* workspace(size_t bytes);
  // Calls `launcher` once per schedule and copy timing. Throws std::runtime_error when a kernel misbehaves or two runs
  // differ. Needs no GIL; one call at a time runs, others wait.
  void run(const std::function<void()>& launcher);
  void finish();

 private:
  struct Argument {
    GuardedBuffer buffer;
    void* original;
  };
  void run_once(const std::function<void()>& launcher, size_t index);
  void check_inputs() const;
  void compare(const std::string& run, const std::vector<std::vector<unsigned char>>& outputs);
  std::vector<std::vector<unsigned char>> outputs() const;

  std::string op_;
  std::vector<Argument> arguments_;
  std::string first_run_;
  std::vector<std::vector<unsigned char>> first_outputs_;
};

}  // namespace tk::simt
