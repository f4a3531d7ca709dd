// SPDX-License-Identifier: Apache-2.0
#include "quantize/adc_scan.cuh"

namespace tk::quantize::gpu {
namespace {

constexpr int64_t kSharedKeys = 4096;        // 32 KB
constexpr int64_t kSharedTables = 64 << 10;  // bytes; with the keys what every architecture since sm_80 grants
constexpr int64_t kFewestRows = 1 << 13;     // of a chunk
constexpr int64_t kBlocks = 1024;            // wanted, for all queries

// Cut by shape alone.
ScanShape shape_of(const AdcScanArgs& a) {
  const int64_t wanted = a.queries < kBlocks ? kBlocks / a.queries : 1;
  int64_t rows = (a.codes.rows + wanted - 1) / wanted;
  if (rows < kFewestRows) rows = kFewestRows;
  if (rows < 8 * a.k) rows = 8 * a.k;
  int64_t keys = 1024;
  while (keys < a.k + 2 * kScanThreads) keys *= 2;
  const int64_t bytes = a.codes.parts * a.codes_count * static_cast<int64_t>(sizeof(float));
  return {(a.codes.rows + rows - 1) / rows, rows, keys, keys > kSharedKeys, bytes <= kSharedTables};
}

size_t spilled_keys(const AdcScanArgs& a, const ScanShape& s) {
  return s.spills ? static_cast<size_t>(a.queries * s.chunks * s.keys) : 0;
}

size_t shared_bytes(const AdcScanArgs& a, const ScanShape& s, bool tables) {
  const int64_t keys = s.spills ? 0 : s.keys * static_cast<int64_t>(sizeof(uint64_t));
  const int64_t cells = tables && s.cached ? a.codes.parts * a.codes_count : 0;
  return static_cast<size_t>(keys + cells * static_cast<int64_t>(sizeof(float)));
}

template <class C>
void launch_adc_scan(const AdcScanArgs& a, const GpuContext& context) {
  const ScanShape s = shape_of(a);
  auto* lists = static_cast<uint64_t*>(context.workspace);
  uint64_t* spill = lists + a.queries * s.chunks * a.k;
  launch(adc_scan_kernel<C>, dim3(static_cast<unsigned>(a.queries * s.chunks)), dim3(kScanThreads),
         shared_bytes(a, s, true), context.stream, a, s, lists, spill);
  launch(adc_merge_kernel<C>, dim3(static_cast<unsigned>(a.queries)), dim3(kScanThreads), shared_bytes(a, s, false),
         context.stream, a, s, lists, spill);
}

bool is_empty(const AdcScanArgs& a) { return a.k == 0 || a.queries == 0; }

}  // namespace

size_t adc_scan_workspace(const AdcScanArgs& a) {
  if (is_empty(a)) return 0;
  const ScanShape s = shape_of(a);
  return (static_cast<size_t>(a.queries * s.chunks * a.k) + spilled_keys(a, s)) * sizeof(uint64_t);
}

void adc_scan(const AdcScanArgs& a, const GpuContext& context) {
  if (is_empty(a)) return;
  TK_CODE_SWITCH(a.codes.dtype, C, launch_adc_scan<C>(a, context))
}

}  // namespace tk::quantize::gpu
