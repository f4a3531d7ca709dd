// SPDX-License-Identifier: Apache-2.0
#include "select/topk_gate_backward.h"

#include <cmath>
#include <vector>

namespace tk::selection::ref {
namespace {

template <class T>
void backward_row(const TopkGateBackwardArgs& a, int64_t row) {
  const auto width = static_cast<size_t>(a.logits.width);
  const T* logits = score_row<T>(a.logits, row);
  const int64_t* index = a.index + row * a.k;
  std::vector<double> g(width, 0.0);
  std::vector<bool> chosen(width, !a.normalize);
  for (int64_t i = 0; i < a.k; ++i) {
    g[static_cast<size_t>(index[i])] = a.grad[row * a.k + i];
    chosen[static_cast<size_t>(index[i])] = true;
  }
  double largest = -INFINITY;
  for (size_t e = 0; e < width; ++e) largest = std::fmax(largest, to_float(logits[e]));
  std::vector<double> p(width);
  double all = 0;  // a softmax that is none stays none where only some are chosen
  double sum = 0;
  for (size_t e = 0; e < width; ++e) {
    p[e] = std::exp(to_float(logits[e]) - largest);
    all += p[e];
    sum += chosen[e] ? p[e] : 0;
  }
  double dot = 0;
  for (size_t e = 0; e < width; ++e) {
    p[e] = chosen[e] ? p[e] / all * (all / sum) : 0;
    dot += g[e] * p[e];
  }
  for (size_t e = 0; e < width; ++e) {
    const double gradient = chosen[e] ? p[e] * (g[e] - dot) : 0;
    static_cast<T*>(a.grad_logits)[row * a.logits.width + static_cast<int64_t>(e)] =
        from_float<T>(static_cast<float>(gradient));
  }
}

}  // namespace

void topk_gate_backward(const TopkGateBackwardArgs& a) {
  for (int64_t row = 0; row < a.logits.rows; ++row) {
    TK_FLOAT_SWITCH(a.logits.dtype, T, backward_row<T>(a, row))
  }
}

}  // namespace tk::selection::ref
