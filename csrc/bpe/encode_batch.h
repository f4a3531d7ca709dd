// SPDX-License-Identifier: Apache-2.0
// encode_batch: the ids of texts that lie on a device, the same as those of encode (encode.h). Device only: on the host
// encode is that op.
//
//   text      (N)      uint8, all texts one behind the other, N < 2^31
//   offsets   (B + 1)  int64, from 0 to N, never decreasing: text b is text[offsets[b] .. offsets[b + 1])
//   ids       (N)      int32, the ids of all texts, one behind the other; unspecified behind the last one
//   starts    (B + 1)  int64, where the ids of each text begin
//   status    (2)      int64: how many ids there are; the position of the first byte that is no token where a piece is
//                      merged, or -1 (always -1 where such bytes are left out)
//
// Every number comes from prefix sums; atomics only set bits, reserve places of a list whose order does not matter, and
// take a minimum. The workspace is about 12.5 bytes for a byte of text.
#pragma once
#include "bpe/device_vocab.h"
#include "bpe/pattern.h"
#include "core/op.h"

namespace tk::bpe {

struct EncodeBatchArgs {
  const uint8_t* text;
  const int64_t* offsets;
  int32_t* ids;
  int64_t* starts;
  int64_t* status;
  DeviceVocab vocab;
  int64_t bytes, batch;  // N, B
  Pattern pattern;
};

namespace gpu {
void encode_batch(const EncodeBatchArgs&, const GpuContext&);
size_t encode_batch_workspace(const EncodeBatchArgs&);
}  // namespace gpu

}  // namespace tk::bpe
