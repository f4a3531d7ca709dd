// SPDX-License-Identifier: Apache-2.0
// Where the kept items of a row end that are kept, largest share first, until their mass reaches a limit. Mass is
// counted in integers, whose sum has no order.
#pragma once
#include "core/dtype.h"

namespace tk {

// Shares are not negative: their bits are ordered as they are.
TK_INLINE uint32_t share_key(float share) { return detail::bit_cast<uint32_t>(share); }
TK_INLINE float key_share(uint32_t key) { return detail::bit_cast<float>(key); }

// Where the kept items of a row end: keys above `key`, and the first `ties` of those equal to it.
struct MapCut {
  uint32_t key;
  int64_t ties;
};

// How many of `count` items of one share are kept, given the mass and the number of those before them.
TK_INLINE int64_t kept_ties(int64_t count, int64_t unit, int64_t mass, int64_t position, int64_t limit,
                            int64_t forced) {
  int64_t kept = mass > limit ? 0 : unit == 0 ? count : (limit - mass) / unit + 1;
  if (kept < forced - position) kept = forced - position;
  return kept < count ? kept : count;
}

// ---- for the SIMD kernels: no sort. The shares are counted in bins by the highest bits of their keys, and only the
// bin where the mass runs out is looked at again, by the next bits.
namespace {

constexpr int kMassDigitBits = 10;
constexpr int kMassBins = 1 << kMassDigitBits;
constexpr int kMassTopShift = 20;  // a share is at most 1, whose key is below 2^30: three digits

struct MassBins {
  int64_t mass[kMassBins];
  int32_t count[kMassBins];
};

// `keys` (count of them, in the order of the items) is overwritten.
template <int64_t (*mass_units)(float)>
inline MapCut find_cut(uint32_t* keys, int64_t count, int64_t limit, int64_t forced, MassBins& bins) {
  MapCut cut{0, count};
  int64_t mass = 0;  // of the items certainly kept, and their number
  int64_t position = 0;
  for (int shift = kMassTopShift; shift >= 0; shift -= kMassDigitBits) {
    __builtin_memset(&bins, 0, sizeof bins);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t digit = keys[i] >> shift & (kMassBins - 1);
      bins.mass[digit] += mass_units(key_share(keys[i]));
      ++bins.count[digit];
    }
    int digit = kMassBins - 1;
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
      left += (key >> shift & (kMassBins - 1)) == static_cast<uint32_t>(digit);
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
}  // namespace tk
