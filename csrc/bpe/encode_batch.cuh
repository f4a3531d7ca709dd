// SPDX-License-Identifier: Apache-2.0
// Texts to ids in five steps: threads mark where pieces begin, each from the first certain boundary of its part of the
// text to the first of a later part; prefix sums make a list of the marks; warps take 32 pieces, look each up as a
// whole and merge what is left one by one, passing pieces of more than 32 bytes on to blocks; every token is put into
// the slots of its piece, a slot a byte of text; prefix sums close the gaps.
#pragma once
#include "bpe/encode_batch.h"
#include "bpe/merge_piece.cuh"
#include "bpe/safe_cut.h"
#include "bpe/scan.h"
#include "core/prefix_sum.cuh"
#include "core/segment_at.h"

namespace tk::bpe::gpu {

constexpr int kEncodeThreads = 256;
constexpr int kScanThreads = 128;
constexpr int64_t kScanPart = 128;  // bytes of text a thread
constexpr int kMediumThreads = 128;
constexpr int kMediumPiece = 1024;  // bytes whose tokens and ranks fit shared memory
constexpr int kLongThreads = 512;
constexpr int64_t kMostBlocks = 2048;

struct EncodeCounters {
  unsigned long long pieces, tokens;
  unsigned medium, longer;
};

// What the op needs in the workspace; see encode_batch_workspace.
struct EncodeSpace {
  EncodeCounters* counters;
  unsigned* marks;           // (N / 32 + 1) a bit for every byte: a piece begins here
  int32_t* piece_starts;     // (N)
  int32_t* slots;            // (N) tokens at the start of the bytes of their piece; -1: none
  int32_t* ranks;            // (N) of pieces of more than kMediumPiece bytes
  int32_t* medium;           // (N / 33 + 1) pieces that blocks merge
  int32_t* longer;           // (N / 1025 + 1)
  unsigned long long* sums;  // of tiles
};

template <int kThreads>
__global__ void __launch_bounds__(kThreads) clear_encoding_kernel(EncodeBatchArgs a, EncodeSpace space) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < a.bytes) space.slots[i] = -1;
  if (i < a.bytes / 32 + 1) space.marks[i] = 0;
  if (i == 0) {
    *space.counters = EncodeCounters{0, 0, 0, 0};
    a.status[1] = -1;
  }
}

// Sets the bits of ascending places, a word at a time; other threads may set bits of the same word.
class MarkWriter {
 public:
  __device__ explicit MarkWriter(unsigned* marks) : marks_(marks) {}
  __device__ void set(int64_t place) {
    if (place / 32 != word_) {
      flush();
      word_ = place / 32;
    }
    bits_ |= 1u << (place % 32);
  }
  __device__ void flush() {
    if (bits_) atomicOr(&marks_[word_], bits_);
    bits_ = 0;
  }

 private:
  unsigned* marks_;
  int64_t word_ = 0;
  unsigned bits_ = 0;
};

// The first certain boundary in [from, high), or `high`: where a text begins, or inside text t, which holds `from`.
__device__ __forceinline__ int64_t first_boundary(const EncodeBatchArgs& a, int64_t t, int64_t from, int64_t high) {
  const int64_t begin = a.offsets[t];
  const int64_t end = a.offsets[t + 1];
  const uint8_t* limit = a.text + (high < end ? high : end);
  return safe_cut(a.pattern, a.text + from, limit, a.text + begin, a.text + end) - a.text;
}

template <Pattern pattern>
__global__ void __launch_bounds__(kScanThreads, 4) mark_starts_kernel(EncodeBatchArgs a, EncodeSpace space) {
  const int64_t from = (int64_t{blockIdx.x} * kScanThreads + threadIdx.x) * kScanPart;
  if (from >= a.bytes) return;
  const int64_t high = a.bytes - from > kScanPart ? from + kScanPart : a.bytes;
  int64_t t = segment_at(a.offsets, a.batch, from);
  if (t == a.batch) return;  // no offsets at all
  int64_t p = first_boundary(a, t, from, high);
  if (p == high) return;
  int64_t stop = a.bytes;
  if (high < a.bytes) {
    const int64_t last = segment_at(a.offsets, a.batch, high);
    if (last < a.batch) stop = first_boundary(a, last, high, a.bytes);
  }
  MarkWriter writer(space.marks);
  while (p < stop) {
    while (a.offsets[t + 1] <= p) ++t;
    writer.set(p);
    p = Scanner<pattern>::next(a.text + p, a.text + a.offsets[t + 1]) - a.text;
  }
  writer.flush();
}

struct PieceStartSource {
  EncodeSpace space;
  __device__ unsigned long long operator()(int64_t word) const { return __popc(space.marks[word]); }
};
struct PieceStartSink {
  EncodeSpace space;
  __device__ void operator()(int64_t word, unsigned long long before) const {
    for (unsigned bits = space.marks[word]; bits; bits &= bits - 1) {
      space.piece_starts[before++] = static_cast<int32_t>(word * 32 + __ffs(static_cast<int>(bits)) - 1);
    }
  }
};

struct Piece {
  int64_t begin, size;
};

__device__ __forceinline__ Piece piece_at(const EncodeBatchArgs& a, const EncodeSpace& space, int64_t i) {
  const int64_t begin = space.piece_starts[i];
  const bool last = i + 1 == static_cast<int64_t>(space.counters->pieces);
  return {begin, (last ? a.bytes : space.piece_starts[i + 1]) - begin};
}

// The token of a byte, or -1, which is noted where it is an error.
__device__ __forceinline__ int32_t token_of_byte(const EncodeBatchArgs& a, int64_t place) {
  const int32_t token = a.vocab.byte_tokens[a.text[place]];
  if (token < 0 && !a.vocab.drop_missing) {
    atomicMin(reinterpret_cast<unsigned long long*>(a.status + 1), static_cast<unsigned long long>(place));
  }
  return token;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads, 4) encode_pieces_kernel(EncodeBatchArgs a, EncodeSpace space) {
  const auto pieces = static_cast<int64_t>(space.counters->pieces);
  const int lane = threadIdx.x % 32;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x - lane; first < pieces; first += step) {
    const int64_t i = first + lane;
    const Piece piece = i < pieces ? piece_at(a, space, i) : Piece{0, 0};
    int32_t token = -1;
    if (piece.size == 1) {
      token = token_of_byte(a, piece.begin);
    } else if (piece.size > 1 && a.vocab.whole_piece) {
      token = look_up_piece(a.vocab, a.text + piece.begin, piece.size);
    }
    if (token >= 0) space.slots[piece.begin] = a.vocab.ids[token];
    const bool open = piece.size > 1 && token < 0;
    if (open && piece.size > kMediumPiece) {
      space.longer[atomicAdd(&space.counters->longer, 1u)] = static_cast<int32_t>(i);
    } else if (open && piece.size > kWarpPiece) {
      space.medium[atomicAdd(&space.counters->medium, 1u)] = static_cast<int32_t>(i);
    }
    unsigned todo = __ballot_sync(kAllLanes, open && piece.size <= kWarpPiece);
    for (; todo; todo &= todo - 1) {
      const int owner = __ffs(static_cast<int>(todo)) - 1;
      const auto begin = __shfl_sync(kAllLanes, static_cast<int>(piece.begin), owner);
      const auto size = __shfl_sync(kAllLanes, static_cast<int>(piece.size), owner);
      const int32_t merged = merge_in_warp(a.vocab, lane < size ? token_of_byte(a, begin + lane) : -1);
      if (merged >= 0) space.slots[begin + lane] = a.vocab.ids[merged];
    }
  }
}

// The bytes of a piece that are tokens, without gaps; how many they are.
template <int kThreads>
__device__ __forceinline__ int64_t spread_bytes(const EncodeBatchArgs& a, const Piece& piece, int32_t* token,
                                                int32_t* rank) {
  int64_t count = 0;
  for (int64_t start = 0; start < piece.size; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    const int32_t own = i < piece.size ? token_of_byte(a, piece.begin + i) : -1;
    unsigned long long all = 0;
    const unsigned long long before = block_prefix<kThreads>(own >= 0, &all);
    if (own >= 0) {
      token[count + static_cast<int64_t>(before)] = own;
      rank[count + static_cast<int64_t>(before)] = kUnknownRank;
    }
    count += static_cast<int64_t>(all);
  }
  __syncthreads();
  return count;
}

// Pieces of one of the two lists, a block each: in shared memory, or in the slots of the piece themselves.
template <int kThreads, bool kShared>
__global__ void __launch_bounds__(kThreads) merge_pieces_kernel(EncodeBatchArgs a, EncodeSpace space) {
  TK_SHARED(shared_tokens, int32_t[kShared ? kMediumPiece : 1]);
  TK_SHARED(shared_ranks, int32_t[kShared ? kMediumPiece : 1]);
  const unsigned count = kShared ? space.counters->medium : space.counters->longer;
  for (unsigned k = blockIdx.x; k < count; k += gridDim.x) {
    const Piece piece = piece_at(a, space, kShared ? space.medium[k] : space.longer[k]);
    int32_t* slots = space.slots + piece.begin;
    int32_t* token = kShared ? shared_tokens : slots;
    int32_t* rank = kShared ? shared_ranks : space.ranks + piece.begin;
    const int64_t n = merge_in_block<kThreads>(a.vocab, token, rank, spread_bytes<kThreads>(a, piece, token, rank));
    for (int64_t i = threadIdx.x; i < (kShared ? n : piece.size); i += kThreads) {
      slots[i] = i < n ? a.vocab.ids[token[i]] : -1;
    }
    __syncthreads();  // the arrays may be written again
  }
}

struct SlotSource {
  EncodeSpace space;
  __device__ unsigned long long operator()(int64_t i) const { return space.slots[i] >= 0; }
};
struct SlotSink {
  EncodeBatchArgs a;
  EncodeSpace space;
  __device__ void operator()(int64_t i, unsigned long long before) const {
    if (space.slots[i] >= 0) a.ids[before] = space.slots[i];
  }
};

// How many tokens lie before each text, by a warp each: those before its tile, and those of the tile before it.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) encoding_starts_kernel(EncodeBatchArgs a, EncodeSpace space) {
  const int lane = threadIdx.x % 32;
  const int64_t b = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (b > a.batch) return;
  const int64_t place = a.offsets[b];
  const int64_t tile = place / kPrefixTile;
  int count = 0;
  for (int64_t i = tile * kPrefixTile + lane; i < place; i += 32) count += space.slots[i] >= 0 ? 1 : 0;
  for (int step = 16; step > 0; step /= 2) count += __shfl_xor_sync(kAllLanes, count, step);
  const unsigned long long before = tile < prefix_tiles(a.bytes) ? space.sums[tile] : space.counters->tokens;
  if (lane == 0) a.starts[b] = static_cast<int64_t>(before) + count;
  if (lane == 0 && b == 0) a.status[0] = static_cast<int64_t>(space.counters->tokens);
}

}  // namespace tk::bpe::gpu
