// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_map_ce.h"

#include "attention/map_side.ref.h"

namespace tk::attention::ref {
namespace {

template <class T>
void map_ce(const AttentionMapCeArgs& a) {
  for (int64_t row = 0; row < a.batch * a.heads * a.queries; ++row) {
    const int64_t i = row % a.queries;
    const int64_t h = row / a.queries % a.heads;
    const int64_t b = row / a.queries / a.heads;
    const std::vector<double> student = map_scores<T>(a.student, b, h, i, a.keys);
    const std::vector<double> teacher = map_scores<T>(a.teacher, b, h, i, a.keys);
    const double lse_student = plain_lse(student);
    const double lse_teacher = plain_lse(teacher);
    double loss = 0;
    for (int64_t j = 0; j < a.keys; ++j) loss += std::exp(teacher[j] - lse_teacher) * (lse_student - student[j]);
    a.loss[row] = static_cast<float>(loss);
    if (a.lse_student) a.lse_student[row] = static_cast<float>(lse_student);
    if (a.lse_teacher) a.lse_teacher[row] = static_cast<float>(lse_teacher);
  }
}

}  // namespace

void attention_map_ce(const AttentionMapCeArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, map_ce<T>(a)) }

}  // namespace tk::attention::ref
