// SPDX-License-Identifier: Apache-2.0
// What clusters are compact in: squared Euclidean distance, or the angle between rows.
#pragma once
#include <cstdint>

namespace tk::cluster {

enum class Metric : int32_t { l2, cosine };

}  // namespace tk::cluster
