// SPDX-License-Identifier: Apache-2.0
// How far apart rows are: by Euclidean distance, by their angle, or by their plain product.
#pragma once
#include <cstdint>

namespace tk {

enum class Metric : int32_t { l2, cosine, dot };

}  // namespace tk
