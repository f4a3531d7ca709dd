// SPDX-License-Identifier: Apache-2.0
// Family bpe: pre-tokenizers.
#include "bind/call.h"
#include "bind/families.h"
#include "bind/pattern_arg.h"
#include "bpe/split.h"

namespace tk::bind {
namespace {

// The ends with room for a piece a byte, and how many there are. `part` lets a test cut wherever a cut is safe.
py::object split(py::handle text_, std::string_view pattern_, py::handle part_) {
  Call call("split");
  const bpe::Pattern pattern = pattern_of(call, pattern_);
  const int64_t part = call.integer("part", part_, 0);
  const Tensor text = call.in("text", text_, dtype_bit(DType::u8), "N");
  call.check_extents("text", {text.size(0)});
  call.set('C', 1);
  const Tensor ends = call.out("ends", py::none(), DType::i64, "N");
  const Tensor count = call.out("count", py::none(), DType::i64, "C");
  TK_RUN(call, bpe, split,
         bpe::SplitArgs{text.as<uint8_t>(), ends.as<int64_t>(), count.as<int64_t>(), text.size(0), part, pattern});
  return call.results();
}

}  // namespace

void bind_bpe_split(py::module_& m) {
  m.def("split", &split, py::arg("text"), py::arg("pattern"), py::arg("part") = 0);
}

}  // namespace tk::bind
