// SPDX-License-Identifier: Apache-2.0
// Family bpe, encoding and decoding on a device: checked arguments -> launcher. The host has ops of its own.
#include <pybind11/pybind11.h>

#include "bind/families.h"

#if defined(TK_MODULE_CPU)
namespace tk::bind {
void bind_bpe_device(py::module_&) {}
}  // namespace tk::bind
#else
#include <string>

#include "bind/call.h"
#include "bind/pattern_arg.h"
#include "bpe/decode_batch.h"
#include "bpe/encode_batch.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostDeviceText = (int64_t{1} << 31) - 1;  // positions are 32 bits wide
constexpr int64_t kMostRanks = (int64_t{1} << 27) - 1;       // a rank and a lane share a word

int64_t one_less_than_power(const Call& call, const char* name, int64_t slots) {
  if (slots < 1 || (slots & (slots - 1)) != 0)
    call.fail_value(name, "of a power of two of slots", std::to_string(slots));
  return slots - 1;
}

// The arrays of Vocab.tables(), unsigned ones as signed; `hashed` with those that only encoding needs.
bpe::DeviceVocab take_vocab(Call& call, const py::tuple& tables, bool hashed) {
  const auto arg = [&](size_t i) { return py::handle(tables[i]); };
  bpe::DeviceVocab v{};
  v.bytes = call.in("token_bytes", arg(0), DType::u8, "X").as<uint8_t>();
  v.ids = call.in("token_ids", arg(2), DType::i32, "V").as<int32_t>();
  call.set('Y', call.dim('V') + 1);
  v.offsets = call.in("token_offsets", arg(1), DType::i32, "Y").as<int32_t>();
  if (call.dim('V') > kMostRanks) call.fail_value("vocab", "of fewer than 2**27 tokens", std::to_string(call.dim('V')));
  v.size = static_cast<int32_t>(call.dim('V'));
  if (!hashed) return v;
  v.byte_tokens = call.in("byte_tokens", arg(3), DType::i32, "256").as<int32_t>();
  const Tensor pieces = call.in("pieces", arg(4), DType::i64, "P");
  v.pieces = pieces.as<uint64_t>();
  v.piece_mask = static_cast<uint64_t>(one_less_than_power(call, "pieces", pieces.size(0)));
  v.pair_keys = call.in("pair_keys", arg(5), DType::i64, "S").as<uint64_t>();
  v.pair_ranks = call.in("pair_ranks", arg(6), DType::i32, "S").as<int32_t>();
  v.pair_results = call.in("pair_results", arg(7), DType::i32, "S").as<int32_t>();
  v.pair_bits = __builtin_popcountll(static_cast<uint64_t>(one_less_than_power(call, "pair_keys", call.dim('S'))));
  return v;
}

// `rules`: the longest token, whole_piece, drop_missing, ascending.
py::object encode_batch(py::handle text_, py::handle offsets_, const py::tuple& tables, const py::tuple& rules,
                        std::string_view pattern_) {
  Call call("encode_batch");
  const bpe::Pattern pattern = pattern_of(call, pattern_);
  const Tensor text = call.in("texts", text_, DType::u8, "N");
  if (text.size(0) > kMostDeviceText) call.fail_value("texts", "of fewer than 2**31 bytes on a device", "more");
  const Tensor offsets = call.in("offsets", offsets_, kIndex, "A");
  if (offsets.size(0) < 1) call.fail_value("offsets", "at least one offset long", "none");
  call.check_offsets("offsets", offsets, text.size(0));
  bpe::DeviceVocab vocab = take_vocab(call, tables, true);
  vocab.longest = rules[0].cast<int32_t>();
  vocab.whole_piece = rules[1].cast<bool>();
  vocab.drop_missing = rules[2].cast<bool>();
  vocab.ascending = rules[3].cast<bool>();
  call.set('S', 2);
  const Tensor ids = call.out("ids", py::none(), DType::i32, "N");
  const Tensor starts = call.out("starts", py::none(), DType::i64, "A");
  const Tensor status = call.out("status", py::none(), DType::i64, "S");
  TK_RUN(call, bpe, encode_batch,
         bpe::EncodeBatchArgs{text.as<uint8_t>(), offsets.as<int64_t>(), ids.as<int32_t>(), starts.as<int64_t>(),
                              status.as<int64_t>(), vocab, text.size(0), offsets.size(0) - 1, pattern});
  return call.results();
}

void check_token_ids(const Call& call, const bpe::DeviceVocab& vocab, const Tensor& ids) {
  if (!Call::on_host()) return;
  for (int64_t i = 0; i < ids.size(0); ++i) {
    const int64_t id = ids.dtype == DType::i32 ? ids.as<int32_t>()[i] : ids.as<int64_t>()[i];
    if (bpe::look_up_id(vocab, id) >= 0) continue;
    call.fail_value("ids", "ids of tokens", std::to_string(id) + " at position " + std::to_string(i));
  }
}

py::object decode_places(py::handle ids_, py::handle offsets_, const py::tuple& tables) {
  Call call("decode_batch");
  const Tensor ids = call.table("ids", ids_, kIndex, "N");
  const Tensor offsets = call.in("offsets", offsets_, kIndex, "A");
  if (offsets.size(0) < 1) call.fail_value("offsets", "at least one offset long", "none");
  call.check_offsets("offsets", offsets, ids.size(0));
  const bpe::DeviceVocab vocab = take_vocab(call, tables, false);
  check_token_ids(call, vocab, ids);
  const Tensor places = call.out("places", py::none(), DType::i64, "N");
  const Tensor starts = call.out("starts", py::none(), DType::i64, "A");
  TK_RUN(call, bpe, decode_places,
         bpe::DecodePlacesArgs{ids.data, offsets.as<int64_t>(), places.as<int64_t>(), starts.as<int64_t>(), vocab,
                               ids.dtype, ids.size(0), offsets.size(0) - 1});
  return call.results();
}

py::object decode_batch(py::handle ids_, py::handle places_, py::handle size_, const py::tuple& tables) {
  Call call("decode_batch");
  const Tensor ids = call.table("ids", ids_, kIndex, "N");
  const Tensor places = call.in("places", places_, DType::i64, "N");
  const int64_t size = call.set_count("size", 'Z', size_);
  const bpe::DeviceVocab vocab = take_vocab(call, tables, false);
  const Tensor bytes = call.out("bytes", py::none(), DType::u8, "Z");
  TK_RUN(
      call, bpe, decode_batch,
      bpe::DecodeBatchArgs{ids.data, places.as<int64_t>(), bytes.as<uint8_t>(), vocab, ids.dtype, ids.size(0), size});
  return call.results();
}

}  // namespace

void bind_bpe_device(py::module_& m) {
  m.def("encode_batch", &encode_batch);
  m.def("decode_places", &decode_places);
  m.def("decode_batch", &decode_batch);
}

}  // namespace tk::bind
#endif
