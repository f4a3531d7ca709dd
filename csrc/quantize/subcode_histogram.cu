// SPDX-License-Identifier: Apache-2.0
#include "quantize/fold_parts.cuh"
#include "quantize/subcode_histogram.cuh"

namespace tk::quantize::gpu {
namespace {

constexpr int64_t kItemsOfPart = 512;
constexpr int64_t kMostParts = 264;                // two waves of 132 multiprocessors
constexpr int64_t kPartFloats = int64_t{4} << 20;  // of all parts
constexpr int64_t kMostHistograms = 65535;         // blocks along z

int64_t histograms_of(const SubcodeHistogramArgs& a) { return a.pool ? 1 : a.groups; }
int64_t items_of(const SubcodeHistogramArgs& a) { return a.pool ? a.rows * a.groups : a.rows; }

int64_t parts_of(const SubcodeHistogramArgs& a) {
  const int64_t histograms = histograms_of(a) > 0 ? histograms_of(a) : 1;
  const int64_t room = kPartFloats / (histograms << a.bits);
  int64_t parts = (items_of(a) + kItemsOfPart - 1) / kItemsOfPart;
  parts = parts > kMostParts ? kMostParts : parts;
  parts = parts > room ? room : parts;
  return parts < 1 ? 1 : parts;
}

template <class T>
void launch_histogram(const SubcodeHistogramArgs& a, const GpuContext& context) {
  const int64_t own = int64_t{kHistogramThreads} * kOwnCodes;
  const int64_t codes = int64_t{1} << a.bits;
  const int64_t parts = parts_of(a);
  auto* sums = static_cast<float*>(context.workspace);
  for (int64_t first = 0; first < histograms_of(a); first += kMostHistograms) {
    const int64_t count = histograms_of(a) - first < kMostHistograms ? histograms_of(a) - first : kMostHistograms;
    SubcodeHistogramArgs some = a;
    some.x = static_cast<const T*>(a.x) + first * a.x_group_stride;
    some.groups = a.pool ? a.groups : count;
    launch(subcode_histogram_kernel<T>,
           dim3(static_cast<unsigned>(parts), static_cast<unsigned>((codes + own - 1) / own),
                static_cast<unsigned>(count)),
           dim3(kHistogramThreads), 0, context.stream, some, sums + first * parts * codes);
  }
  const int64_t items = items_of(a);
  launch_fold<double>(sums, a.histogram, histograms_of(a) * codes, parts, codes,
                      items == 0 ? 0.0 : 1.0 / static_cast<double>(items), context.stream);
}

}  // namespace

size_t subcode_histogram_workspace(const SubcodeHistogramArgs& a) {
  return static_cast<size_t>((histograms_of(a) << a.bits) * parts_of(a)) * sizeof(float);
}

void subcode_histogram(const SubcodeHistogramArgs& a, const GpuContext& context) {
  if (histograms_of(a) == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_histogram<T>(a, context))
}

}  // namespace tk::quantize::gpu
