// SPDX-License-Identifier: Apache-2.0
#include "cluster/map_density.h"

namespace tk::cluster::ref {

void map_density(const MapDensityArgs& a) {
  for (int64_t g = 0; g < a.groups; ++g) {
    const uint8_t* map = a.map + g / a.heads * a.batch_stride + g % a.heads * a.head_stride;
    int64_t kept = 0;
    int64_t all = 0;
    for (int64_t i = 0; i < a.queries; ++i) {
      for (int64_t j = 0; j < a.keys; ++j) {
        const int64_t pairs = a.size_q[g * a.queries + i] * a.size_k[g * a.keys + j];
        all += pairs;
        if (map[i * a.row_stride + j]) kept += pairs;
      }
    }
    a.out[g] = density_of(kept, all);
  }
}

}  // namespace tk::cluster::ref
