// SPDX-License-Identifier: Apache-2.0
#include "select/threshold_gate.h"

namespace tk::selection::ref {
namespace {

template <class T>
void gate_items(const ThresholdGateArgs& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    const float x = to_float(static_cast<const T*>(a.logits)[i]) + (a.noise ? a.noise[i] : 0.0f);
    static_cast<T*>(a.gate)[i] = from_float<T>(x > 0.0f ? 1.0f : 0.0f);
  }
}

}  // namespace

void threshold_gate(const ThresholdGateArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, gate_items<T>(a)) }

}  // namespace tk::selection::ref
