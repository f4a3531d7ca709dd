// SPDX-License-Identifier: Apache-2.0
// decode_batch: the bytes of ids that lie on a device. In two ops, because the caller allocates the bytes once it knows
// how many there are. Device only: on the host decode is the op.
//
//   decode_places:  where the bytes of each id begin, and those of each sequence
//   decode_batch:   the bytes
//
//   ids      (T)      int32 or int64, ids of tokens; checked by the caller where the memory is on the host
//   offsets  (B + 1)  int64, from 0 to T, never decreasing: sequence b is ids[offsets[b] .. offsets[b + 1])
//   places   (T)      int64
//   starts   (B + 1)  int64, the last one the number of all bytes
//   bytes    (N)      uint8, N = starts[B]
//
// On a device an id that no token has stands for no bytes: raising there would need a synchronisation.
#pragma once
#include "bpe/device_vocab.h"
#include "core/op.h"

namespace tk::bpe {

// Of the vocabulary only bytes, offsets, ids and size are used.
struct DecodePlacesArgs {
  const void* ids;
  const int64_t* offsets;
  int64_t* places;
  int64_t* starts;
  DeviceVocab vocab;
  DType dtype;            // of ids
  int64_t tokens, batch;  // T, B
};

struct DecodeBatchArgs {
  const void* ids;
  const int64_t* places;
  uint8_t* bytes;
  DeviceVocab vocab;
  DType dtype;
  int64_t tokens, size;  // T, N
};

namespace gpu {
void decode_places(const DecodePlacesArgs&, const GpuContext&);
size_t decode_places_workspace(const DecodePlacesArgs&);
void decode_batch(const DecodeBatchArgs&, const GpuContext&);
size_t decode_batch_workspace(const DecodeBatchArgs&);
}  // namespace gpu

}  // namespace tk::bpe
