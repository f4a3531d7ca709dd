// SPDX-License-Identifier: Apache-2.0
#include "select/accumulate_importance.h"

namespace tk::selection::ref {
namespace {

template <class T>
void accumulate(const AccumulateImportanceArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t j = 0; j < a.keys; ++j) {
      double sum = a.score ? a.score[b * a.keys + j] : 0.0;
      for (int64_t h = 0; h < a.heads; ++h) {
        for (int64_t i = 0; i < a.queries; ++i) {
          if (!a.live || a.live[b * a.queries + i]) sum += to_float(head_row<T>(a.prob, b, h, i)[j]);
        }
      }
      a.out[b * a.keys + j] = static_cast<float>(sum);
    }
  }
}

}  // namespace

void accumulate_importance(const AccumulateImportanceArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, accumulate<T>(a)) }

}  // namespace tk::selection::ref
