// SPDX-License-Identifier: Apache-2.0
// Family quantize, sign bits, grids and packed integers: checked arguments -> launcher, one function per op.
#include <cmath>
#include <string>
#include <string_view>

#include "bind/bit_order_arg.h"
#include "bind/call.h"
#include "bind/families.h"
#include "quantize/bucketize.h"
#include "quantize/fsq_decode.h"
#include "quantize/fsq_encode.h"
#include "quantize/fsq_encode_backward.h"
#include "quantize/pack_bits.h"
#include "quantize/sign_pack.h"
#include "quantize/sign_unpack.h"
#include "quantize/unpack_bits.h"

namespace tk::bind {
namespace {

constexpr uint32_t kByte = dtype_bit(DType::u8);
// Arrays of rows by rank, with the extent of a row: channels C, groups G, axes D, ids M, bytes P; and without (a row
// alone gives one number, an array of one: S is 1).
constexpr const char* kChannelRows[] = {"", "C", "N C", "A N C", "A B N C"};
constexpr const char* kGroupRows[] = {"", "G", "N G", "A N G", "A B N G"};
constexpr const char* kAxisRows[] = {"", "D", "N D", "A N D", "A B N D"};
constexpr const char* kIdRows[] = {"", "M", "N M", "A N M", "A B N M"};
constexpr const char* kByteRows[] = {"", "P", "N P", "A N P", "A B N P"};
constexpr const char* kRowNumbers[] = {"", "S", "N", "A N", "A B N"};
constexpr const char* kAnyChannelRows = "C|N C|A N C|A B N C";
constexpr const char* kAnyGroupRows = "G|N G|A N G|A B N G";
constexpr const char* kAnyAxisRows = "D|N D|A N D|A B N D";
constexpr const char* kAnyIdRows = "M|N M|A N M|A B N M";
constexpr const char* kAnyByteRows = "P|N P|A N P|A B N P";
constexpr const char* kAnyNumbers = "N|A N|A B N";

// The product of all extents but the last `inner`.
int64_t row_count(const Call& call, const char* name, const Tensor& x, int inner) {
  int64_t rows = 1;
  for (int i = 0; i < x.ndim - inner; ++i) {
    call.check_extents(name, {rows, x.size(i)});
    rows *= x.size(i);
  }
  return rows;
}

DType dtype_named(const Call& call, std::string_view name, bool integers) {
  if (integers) {
    if (name == "int64") return DType::i64;
    if (name == "uint8") return DType::u8;
    call.fail_value("dtype", "int64 or uint8", std::string(name));
  }
  if (name == "float32") return DType::f32;
  if (name == "float16") return DType::f16;
  if (name == "bfloat16") return DType::bf16;
  call.fail_value("dtype", "float32, float16 or bfloat16", std::string(name));
}

// The integers of a sequence, at most `room` of them, each in [low, high]; how many there are.
int read_integers(const Call& call, const char* name, py::handle object, int64_t low, int64_t high, int room,
                  int32_t* values) {
  if (!py::isinstance<py::sequence>(object) || py::isinstance<py::str>(object)) {
    call.fail_type(name, "a sequence of integers", Py_TYPE(object.ptr())->tp_name);
  }
  const auto items = py::reinterpret_borrow<py::sequence>(object);
  const auto count = static_cast<int64_t>(items.size());
  if (count < 1 || count > room) {
    call.fail_value(name, "1 to " + std::to_string(room) + " integers", std::to_string(count) + " of them");
  }
  for (int i = 0; i < count; ++i) {
    const int64_t value = call.integer(name, items[static_cast<size_t>(i)], low);
    if (value > high) {
      call.fail_value(name, "integers of at most " + std::to_string(high), std::to_string(value));
    }
    values[i] = static_cast<int32_t>(value);
  }
  return static_cast<int>(count);
}

// ---- grids ------------------------------------------------------------------------------------------------------
// The constants of quantize/grid.h, in double and rounded once.
void set_axis(quantize::Grid& grid, int d) {
  const int32_t levels = grid.levels[d];
  const double half = (levels - 1) / 2.0;
  if (grid.symmetric) {
    grid.scale[d] = static_cast<float>(half);
    grid.offset[d] = static_cast<float>(-half - 0.5);
    grid.shift[d] = 0;
    return;
  }
  const double scale = half * 1.001;
  const double offset = levels % 2 == 0 ? 0.5 : 0.0;
  grid.scale[d] = static_cast<float>(scale);
  grid.offset[d] = static_cast<float>(offset);
  grid.shift[d] = static_cast<float>(grid.hard_clamp ? offset / scale : std::atanh(offset / scale));
}

// Where the formula leaves level k - 1, for k in [1, L - 1]; see quantize/grid.h.
void set_steps(quantize::Grid& grid, int levels) {
  const double half = (levels - 1) / 2.0;
  const double scale = grid.symmetric ? half : half * 1.001;
  const double offset = !grid.symmetric && levels % 2 == 0 ? 0.5 : 0.0;
  const double middle = grid.symmetric ? half : levels / 2;  // NOLINT(bugprone-integer-division): rounded down
  const auto place_at = [&](double b) { return grid.hard_clamp ? b / scale : std::atanh(b / scale); };
  for (int k = 1; k < levels; ++k) {
    const double z = place_at(k - 0.5 - middle + offset) - place_at(offset);
    grid.steps[quantize::first_step(levels) + k - 1] = static_cast<float>(z);
  }
}

quantize::Grid read_grid(Call& call, py::handle levels_, bool symmetric, bool hard_clamp) {
  quantize::Grid grid{};
  grid.symmetric = symmetric;
  grid.hard_clamp = hard_clamp;
  grid.axes = read_integers(call, "levels", levels_, symmetric ? 2 : 3, quantize::kMostLevels, quantize::kMostAxes,
                            grid.levels);
  int64_t codes = 1;
  int32_t most = 0;
  for (int d = 0; d < grid.axes; ++d) {
    if (__builtin_mul_overflow(codes, int64_t{grid.levels[d]}, &codes)) {
      call.fail_value("levels", "of a product below 2^63", "a larger one");
    }
    set_axis(grid, d);
    most = grid.levels[d] > most ? grid.levels[d] : most;
  }
  grid.stepped = most <= quantize::kSteppedLevels;
  for (int levels = 2; grid.stepped && levels <= most; ++levels) set_steps(grid, levels);
  call.set('D', grid.axes);
  return grid;
}

int64_t grid_codes(const quantize::Grid& grid) {
  int64_t codes = 1;
  for (int d = 0; d < grid.axes; ++d) codes *= grid.levels[d];
  return codes;
}

py::object fsq_encode(py::handle z_, py::handle levels_, bool symmetric, bool hard_clamp, py::handle codes_,
                      py::handle index_) {
  Call call("fsq_encode");
  const quantize::Grid grid = read_grid(call, levels_, symmetric, hard_clamp);
  const Tensor z = call.dense("z", z_, kFloat, kAnyAxisRows);
  const int64_t rows = row_count(call, "z", z, 1);
  call.check_extents("z", {rows, call.dim('D')});
  call.set('S', 1);
  const Tensor codes = call.out("codes", codes_, z.dtype, kAxisRows[z.ndim]);
  const Tensor index = call.out("index", index_, DType::i64, kRowNumbers[z.ndim]);
  TK_RUN(call, quantize, fsq_encode,
         quantize::FsqEncodeArgs{z.data, codes.data, index.as<int64_t>(), z.dtype, rows, grid});
  return call.results();
}

py::object fsq_encode_backward(py::handle grad_, py::handle z_, py::handle levels_, bool symmetric, bool hard_clamp,
                               py::handle out_) {
  Call call("fsq_encode_backward");
  const quantize::Grid grid = read_grid(call, levels_, symmetric, hard_clamp);
  const Tensor z = call.dense("z", z_, kFloat, kAnyAxisRows);
  const int64_t rows = row_count(call, "z", z, 1);
  const Tensor grad = call.dense("grad", grad_, dtype_bit(z.dtype), kAxisRows[z.ndim]);
  const Tensor out = call.out("out", out_, z.dtype, kAxisRows[z.ndim]);
  TK_RUN(call, quantize, fsq_encode_backward,
         quantize::FsqEncodeBackwardArgs{grad.data, z.data, out.data, z.dtype, rows, grid});
  return call.results();
}

py::object fsq_decode(py::handle index_, py::handle levels_, bool symmetric, std::string_view dtype, py::handle out_) {
  Call call("fsq_decode");
  const quantize::Grid grid = read_grid(call, levels_, symmetric, false);
  const DType wanted = dtype_named(call, dtype, false);
  const Tensor index = call.dense("index", index_, kIndex, kAnyNumbers);
  const int64_t rows = row_count(call, "index", index, 0);
  call.check_extents("index", {rows, grid.axes});
  const Tensor out = call.out("out", out_, wanted, kAxisRows[index.ndim + 1]);
  call.check_index("index", index, grid_codes(grid));
  TK_RUN(call, quantize, fsq_decode, quantize::FsqDecodeArgs{index.as<int64_t>(), out.data, wanted, rows, grid});
  return call.results();
}

// ---- signs ------------------------------------------------------------------------------------------------------
// One width for all groups, or the width of each. The channels or the groups that this leaves open are filled in by
// close_groups.
quantize::SignGroups read_groups(const Call& call, py::handle bits_, std::string_view order) {
  quantize::SignGroups split{};
  split.high_first = high_bit_first(call, order);
  if (PyIndex_Check(bits_.ptr())) {
    const int64_t bits = call.integer("bits", bits_, 1);
    if (bits > quantize::kMostBits) call.fail_value("bits", "at most 63", std::to_string(bits));
    split.bits = static_cast<int>(bits);
    return split;
  }
  int32_t widths[quantize::kMostWidths];
  const int count = read_integers(call, "bits", bits_, 1, quantize::kMostBits, quantize::kMostWidths, widths);
  bool equal = true;
  for (int g = 0; g < count; ++g) {
    split.widths[g] = static_cast<uint8_t>(widths[g]);
    split.channels += widths[g];
    equal &= widths[g] == widths[0];
  }
  split.groups = count;
  split.bits = equal ? widths[0] : 0;
  return split;
}

void close_groups(Call& call, quantize::SignGroups& split, int64_t channels) {
  if (split.groups == 0) {  // one width for all
    split.channels = channels;
    split.groups = channels / split.bits;
    if (channels % split.bits == 0) return;
    call.fail_value("x", "rows of a multiple of " + std::to_string(split.bits) + " channels", std::to_string(channels));
  }
  if (split.channels != channels) {
    call.fail_value("bits", "widths that add up to " + std::to_string(channels), std::to_string(split.channels));
  }
}

py::object sign_pack(py::handle x_, py::handle bits_, std::string_view order, py::handle out_) {
  Call call("sign_pack");
  quantize::SignGroups split = read_groups(call, bits_, order);
  const Tensor x = call.dense("x", x_, kFloat, kAnyChannelRows);
  const int64_t rows = row_count(call, "x", x, 1);
  call.check_extents("x", {rows, call.dim('C')});
  close_groups(call, split, call.dim('C'));
  call.set('G', split.groups);
  const Tensor out = call.out("out", out_, DType::i64, kGroupRows[x.ndim]);
  TK_RUN(call, quantize, sign_pack, quantize::SignPackArgs{x.data, out.as<int64_t>(), x.dtype, rows, split});
  return call.results();
}

void check_sign_ids(const Call& call, const Tensor& ids, int64_t rows, const quantize::SignGroups& split) {
  if (!Call::on_host()) return;
  const auto* values = ids.as<int64_t>();
  uint64_t beyond = 0;
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t g = 0; g < split.groups; ++g) {
      beyond |= static_cast<uint64_t>(values[n * split.groups + g]) >> quantize::group_width(split, g);
    }
  }
  if (!beyond) return;
  int64_t i = 0;
  int width = 0;
  do {
    width = quantize::group_width(split, i % split.groups);
  } while (!(static_cast<uint64_t>(values[i++]) >> width));
  call.fail_value("ids", "in [0, 2^" + std::to_string(width) + ")",
                  std::to_string(values[i - 1]) + " at flat position " + std::to_string(i - 1));
}

py::object sign_unpack(py::handle ids_, py::handle bits_, std::string_view order, py::handle scale_,
                       std::string_view dtype, py::handle out_) {
  Call call("sign_unpack");
  quantize::SignGroups split = read_groups(call, bits_, order);
  const double scale = call.real("scale", scale_, -HUGE_VAL, HUGE_VAL);
  const DType wanted = dtype_named(call, dtype, false);
  if (split.groups) call.set('G', split.groups);
  const Tensor ids = call.dense("ids", ids_, kIndex, kAnyGroupRows);
  const int64_t rows = row_count(call, "ids", ids, 1);
  split.groups = call.dim('G');
  call.check_extents("ids", {rows, split.groups, split.bits ? split.bits : quantize::kMostBits});
  if (split.bits) split.channels = split.groups * split.bits;
  call.set('C', split.channels);
  const Tensor out = call.out("out", out_, wanted, kChannelRows[ids.ndim]);
  check_sign_ids(call, ids, rows, split);
  TK_RUN(call, quantize, sign_unpack,
         quantize::SignUnpackArgs{ids.as<int64_t>(), out.data, wanted, rows, static_cast<float>(scale), split});
  return call.results();
}

// ---- buckets ----------------------------------------------------------------------------------------------------
void check_boundaries(const Call& call, const Tensor& boundaries) {
  if (!Call::on_host()) return;
  const auto* b = boundaries.as<float>();
  for (int64_t m = 0; m < boundaries.size(0); ++m) {
    if (b[m] == b[m] && (m == 0 || b[m - 1] <= b[m])) continue;
    call.fail_value("boundaries", "ascending numbers", std::to_string(b[m]) + " at position " + std::to_string(m));
  }
}

py::object bucketize(py::handle x_, py::handle boundaries_, std::string_view dtype, py::handle out_) {
  static constexpr const char* kItems[] = {"", "N", "A N", "A B N", "A B C N"};
  Call call("bucketize");
  const DType wanted = dtype_named(call, dtype, true);
  const Tensor x = call.dense("x", x_, kFloat, "N|A N|A B N|A B C N");
  const int64_t count = row_count(call, "x", x, 0);
  const Tensor boundaries = call.dense("boundaries", boundaries_, kF32, "M");
  if (wanted == DType::u8 && boundaries.size(0) > 255) {
    call.fail_value("boundaries", "at most 255 for uint8", std::to_string(boundaries.size(0)));
  }
  const Tensor out = call.out("out", out_, wanted, kItems[x.ndim]);
  check_boundaries(call, boundaries);
  TK_RUN(call, quantize, bucketize,
         quantize::BucketizeArgs{x.data, boundaries.as<float>(), out.data, x.dtype, wanted == DType::u8, count,
                                 boundaries.size(0)});
  return call.results();
}

// ---- strings of bits --------------------------------------------------------------------------------------------
int packed_width(const Call& call, py::handle bits_) {
  const int64_t bits = call.integer("bits", bits_, 1);
  if (bits > quantize::kMostPackedBits) call.fail_value("bits", "at most 16", std::to_string(bits));
  return static_cast<int>(bits);
}

// As check_index for a range of a power of two, in a loop that every compiler makes vectors of.
void check_packed_ids(const Call& call, const Tensor& ids, int64_t count, int bits) {
  if (!Call::on_host()) return;
  const auto* values = ids.as<uint64_t>();
  uint64_t beyond = 0;
  for (int64_t i = 0; i < count; ++i) beyond |= values[i] >> bits;
  if (beyond) call.check_index("ids", ids, int64_t{1} << bits);
}

py::object pack_bits(py::handle ids_, py::handle bits_, py::handle out_) {
  Call call("pack_bits");
  const int bits = packed_width(call, bits_);
  const Tensor ids = call.dense("ids", ids_, kIndex, kAnyIdRows);
  const int64_t rows = row_count(call, "ids", ids, 1);
  const int64_t width = call.dim('M');
  call.check_extents("ids", {rows, width, bits});
  call.set('P', quantize::packed_bytes(width, bits));
  const Tensor out = call.out("out", out_, DType::u8, kByteRows[ids.ndim]);
  check_packed_ids(call, ids, rows * width, bits);
  TK_RUN(call, quantize, pack_bits, quantize::PackBitsArgs{ids.as<int64_t>(), out.as<uint8_t>(), rows, width, bits});
  return call.results();
}

py::object unpack_bits(py::handle bytes_, py::handle bits_, py::handle count_, py::handle out_) {
  Call call("unpack_bits");
  const int bits = packed_width(call, bits_);
  const int64_t width = call.set_count("count", 'M', count_);
  call.check_extents("count", {width, bits});
  call.set('P', quantize::packed_bytes(width, bits));
  const Tensor bytes = call.dense("bytes", bytes_, kByte, kAnyByteRows);
  const int64_t rows = row_count(call, "bytes", bytes, 1);
  call.check_extents("bytes", {rows, width, bits});
  const Tensor out = call.out("out", out_, DType::i64, kIdRows[bytes.ndim]);
  TK_RUN(call, quantize, unpack_bits,
         quantize::UnpackBitsArgs{bytes.as<uint8_t>(), out.as<int64_t>(), rows, width, bits});
  return call.results();
}

}  // namespace

void bind_quantize_bits(py::module_& m) {
  m.def("sign_pack", &sign_pack);
  m.def("sign_unpack", &sign_unpack);
  m.def("fsq_encode", &fsq_encode);
  m.def("fsq_encode_backward", &fsq_encode_backward);
  m.def("fsq_decode", &fsq_decode);
  m.def("bucketize", &bucketize);
  m.def("pack_bits", &pack_bits);
  m.def("unpack_bits", &unpack_bits);
}

}  // namespace tk::bind
