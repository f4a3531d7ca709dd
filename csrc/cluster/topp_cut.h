// SPDX-License-Identifier: Apache-2.0
// Finds where the kept clusters of a row end without sorting it: the shares are counted in bins by the highest bits of
// their keys, and only the bin where the mass runs out is looked at again, by the next bits. For the SIMD kernels.
#pragma once
#include "cluster/centroid_topp_map.h"

namespace tk::cluster {
namespace {

constexpr int kDigitBits = 10;
constexpr int kBins = 1 << kDigitBits;
constexpr int kTopShift = 20;  // a share is at most 1, whose key is below 2^30: three digits

struct ToppBins {
  int64_t mass[kBins];
  int32_t count[kBins];
};

// `keys` (count of them, in the order of the clusters) is overwritten.
inline MapCut find_cut(uint32_t* keys, int64_t count, int64_t limit, int64_t forced, ToppBins& bins) {
  MapCut cut{0, count};
  int64_t mass = 0;  // of the clusters certainly kept, and their number
  int64_t position = 0;
  for (int shift = kTopShift; shift >= 0; shift -= kDigitBits) {
    __builtin_memset(&bins, 0, sizeof bins);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t digit = keys[i] >> shift & (kBins - 1);
      bins.mass[digit] += mass_units(key_share(keys[i]));
      ++bins.count[digit];
    }
    int digit = kBins - 1;
    while (digit >= 0 && (mass + bins.mass[digit] <= limit || position + bins.count[digit] < forced)) {
      mass += bins.mass[digit];
      position += bins.count[digit--];
    }
    if (digit < 0) return cut;  // nothing is dropped; only the first digit can end so
    cut.key |= static_cast<uint32_t>(digit) << shift;
    int64_t left = 0;
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t key = keys[i];
      keys[left] = key;
      left += (key >> shift & (kBins - 1)) == static_cast<uint32_t>(digit);
    }
    count = left;
  }
  cut.ties = kept_ties(count, mass_units(key_share(cut.key)), mass, position, limit, forced);
  return cut;
}

inline void write_map(const float* prob, int64_t count, MapCut cut, uint8_t* map) {
  for (int64_t j = 0; j < count; ++j) {
    const uint32_t key = share_key(prob[j]);
    const bool tie = key == cut.key;
    map[j] = key > cut.key || (tie && cut.ties > 0);
    cut.ties -= tie;
  }
}

}  // namespace
}  // namespace tk::cluster
