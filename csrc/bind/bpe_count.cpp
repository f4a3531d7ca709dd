// SPDX-License-Identifier: Apache-2.0
// Family bpe: pair counts and merges of id sequences: checked arguments -> launcher.
#include <pybind11/pybind11.h>

#include "bind/call.h"
#include "bind/families.h"
#include "bpe/apply_merges.h"
#include "bpe/count_pairs.h"

namespace tk::bind {
namespace {

constexpr int64_t kIdLimit = int64_t{1} << 31;  // a pair of ids is one number of 64 bits

// Ids of either width are read as they are.
void check_ids(const Call& call, const char* name, const Tensor& ids) {
  if (!Call::on_host()) return;
  const auto check = [&](const auto* values) {
    int64_t i = 0;
    while (i < ids.size(0) && values[i] >= 0 && values[i] < kIdLimit) ++i;
    if (i == ids.size(0)) return;
    call.fail_value(name, "in [0, 2**31)", std::to_string(values[i]) + " at flat position " + std::to_string(i));
  };
  ids.dtype == DType::i32 ? check(ids.as<int32_t>()) : check(ids.as<int64_t>());
}

struct IdSequences {
  Tensor ids, offsets;
  int64_t batch;
};

IdSequences take_sequences(Call& call, py::handle ids_, py::handle offsets_) {
  const Tensor ids = call.table("ids", ids_, kIndex, "N");
  const Tensor offsets = call.in("offsets", offsets_, kIndex, "A");
  if (offsets.size(0) < 1) call.fail_value("offsets", "at least one offset long", "none");
  check_ids(call, "ids", ids);
  call.check_offsets("offsets", offsets, ids.size(0));
  call.set('B', offsets.size(0) - 1);
  return {ids, offsets, offsets.size(0) - 1};
}

py::object count_pairs(py::handle ids_, py::handle offsets_, py::handle weights_) {
  Call call("count_pairs");
  const IdSequences given = take_sequences(call, ids_, offsets_);
#if !defined(TK_MODULE_CPU)
  if (given.ids.size(0) >= kIdLimit) call.fail_value("ids", "fewer than 2**31 on a device", "more");
#endif
  const Tensor weights = call.optional("weights", weights_, kIndex, "B");
  call.set('P', 2);
  call.set('T', 1);
  const Tensor pairs = call.out("pairs", py::none(), DType::i64, "N P");
  const Tensor counts = call.out("counts", py::none(), DType::i64, "N");
  const Tensor total = call.out("total", py::none(), DType::i64, "T");
  TK_RUN(
      call, bpe, count_pairs,
      bpe::CountPairsArgs{given.ids.data, given.offsets.as<int64_t>(), weights.as<int64_t>(), pairs.as<int64_t>(),
                          counts.as<int64_t>(), total.as<int64_t>(), given.ids.dtype, given.ids.size(0), given.batch});
  return call.results();
}

#if defined(TK_MODULE_CPU)
py::object apply_merges(py::handle ids_, py::handle offsets_, py::handle merges_) {
  Call call("apply_merges");
  const IdSequences given = take_sequences(call, ids_, offsets_);
  const Tensor merges = call.in("merges", merges_, kIndex, "M 3");
  if (merges.size(0) >= kIdLimit) call.fail_value("merges", "fewer than 2**31", std::to_string(merges.size(0)));
  call.check_index("merges", merges, kIdLimit);
  const Tensor out = call.out("out", py::none(), given.ids.dtype, "N");
  const Tensor starts = call.out("starts", py::none(), DType::i64, "A");
  TK_RUN(call, bpe, apply_merges,
         bpe::ApplyMergesArgs{given.ids.data, given.offsets.as<int64_t>(), merges.as<int64_t>(), out.data,
                              starts.as<int64_t>(), given.ids.dtype, given.ids.size(0), given.batch, merges.size(0)});
  return call.results();
}
#endif

}  // namespace

void bind_bpe_count(py::module_& m) {
  m.def("count_pairs", &count_pairs);
#if defined(TK_MODULE_CPU)
  m.def("apply_merges", &apply_merges);
#endif
}

}  // namespace tk::bind
