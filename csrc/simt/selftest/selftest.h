// SPDX-License-Identifier: Apache-2.0
// The executor's own test kernels: correct ones, which must run without a complaint and give the right numbers, and
// seeded bugs, every one of which must be reported. tests/simt runs them through `_simt.selftest(name)`.
#pragma once
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/gpu.cuh"
#include "simt/call_scope.h"

namespace tk::simt::selftest {

struct Case {
  const char* name;
  void (*run)();
};

std::span<const Case> barrier_cases();
std::span<const Case> warp_cases();
std::span<const Case> memory_cases();
std::span<const Case> block_cases();
std::span<const Case> copy_cases();
std::span<const Case> tensor_cases();
std::span<const Case> bank_cases();
std::span<const Case> speed_cases();

// The arguments of one call, as the binding would stage them.
class Arguments {
 public:
  Arguments() : scope_("selftest") {}
  template <class T>
  const T* in(const char* name, const std::vector<T>& values) {
    return static_cast<const T*>(
        scope_.stage(name, const_cast<T*>(values.data()), values.size() * sizeof(T), Use::read));
  }
  template <class T>
  T* out(const char* name, std::vector<T>& values) {
    return static_cast<T*>(scope_.stage(name, values.data(), values.size() * sizeof(T), Use::written));
  }
  template <class T>
  T* workspace(size_t count) {
    return static_cast<T*>(scope_.workspace(count * sizeof(T)));
  }
  template <class Launcher>
  void run(Launcher launcher) {
    scope_.run(launcher);
    scope_.finish();
  }

 private:
  CallScope scope_;
};

inline void expect(bool right, const char* what) {
  if (!right) throw std::logic_error(std::string("wrong result: ") + what);
}

// Small numbers with a short mantissa, so that sums of products are exact in float.
inline float sample(int i) { return static_cast<float>((i * 7 + i / 5) % 17 - 8) / 4.0f; }

}  // namespace tk::simt::selftest
