// SPDX-License-Identifier: Apache-2.0
#include "core/probe.h"

#include <cstring>

namespace tk::core::ref {

void fma_probe(const FmaProbeArgs& a) {
  constexpr int kChains = 8;
  float sum[kChains] = {};
  for (int64_t i = 0; i < a.chunks * a.iterations; ++i) {
    for (float& s : sum) s = s * 0.5f + 1.0f;
  }
  *a.sink = 0.0f;
  for (const float s : sum) *a.sink += s;
  *a.flops = 2.0 * kChains * static_cast<double>(a.chunks * a.iterations);
}

void copy_probe(const CopyProbeArgs& a) { std::memcpy(a.to, a.from, static_cast<size_t>(a.bytes)); }

}  // namespace tk::core::ref
