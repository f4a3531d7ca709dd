// SPDX-License-Identifier: Apache-2.0
// A row of probabilities as the references hold it.
#pragma once
#include <vector>

#include "tree/inverse_cdf.h"

namespace tk::tree::ref {

struct MassRow {
  std::vector<float> items;
  int64_t mass = 0;
  float scale = 0.0f;  // makes the items sum to 1
  bool valid = true;

  double share(int64_t j) const { return scaled(items[static_cast<size_t>(j)], scale); }
  size_t width() const { return items.size(); }
};

inline MassRow weigh_row(std::vector<float> items) {
  MassRow row{std::move(items)};
  for (const float item : row.items) row.mass += mass_units(item);
  if (row.mass > 0) row.scale = scale_of(row.mass);
  return row;
}

template <class T>
MassRow read_mass_row(const T* from, int64_t width, int64_t slack) {
  std::vector<float> items;
  bool valid = true;
  for (int64_t j = 0; j < width; ++j) {
    items.push_back(to_float(from[j]));
    valid &= is_probability(items.back());
  }
  if (!valid) return {{}, 0, 0.0f, false};
  MassRow row = weigh_row(std::move(items));
  row.valid = is_whole(row.mass, slack);
  return row;
}

// p itself where nothing is left of it.
inline MassRow residual_row(const MassRow& p, const MassRow& q) {
  std::vector<float> left;
  for (size_t j = 0; j < p.width(); ++j) left.push_back(residual_item(p.items[j], p.scale, q.items[j], q.scale));
  MassRow row = weigh_row(std::move(left));
  return row.mass > 0 ? row : p;
}

// Without the item; itself where nothing else has mass.
inline MassRow without_item(const MassRow& p, int64_t item) {
  std::vector<float> left = p.items;
  left[static_cast<size_t>(item)] = 0.0f;
  MassRow row = weigh_row(std::move(left));
  return row.mass > 0 ? row : p;
}

inline int64_t draw_item(const MassRow& p, float u) {
  int64_t mass = 0;
  for (size_t j = 0; j < p.width(); ++j) mass += mass_units(p.share(static_cast<int64_t>(j)));
  const int64_t drawn = drawn_mass(u, mass);
  int64_t running = 0;
  for (size_t j = 0; j < p.width(); ++j) {
    running += mass_units(p.share(static_cast<int64_t>(j)));
    if (running > drawn) return static_cast<int64_t>(j);
  }
  return -1;
}

}  // namespace tk::tree::ref
