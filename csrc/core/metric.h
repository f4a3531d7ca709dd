// SPDX-License-Identifier: Apache-2.0
// How far apart rows are: by Euclidean distance, or by their angle.
#pragma once
#include <cstdint>

namespace tk {

enum class Metric : int32_t { l2, cosine };

}  // namespace tk
