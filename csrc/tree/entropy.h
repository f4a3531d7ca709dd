// SPDX-License-Identifier: Apache-2.0
// Logarithms, an entropy and an exponential whose bits are the same in every backend: every sum here adds products of
// numbers of 26 bits, which are exact, so that it makes no difference whether a compiler contracts it.
//
// N says what is computed on: N::F a double or a vector of them, N::I integers of that size.
#pragma once
#include "tree/inverse_cdf.h"

namespace tk::tree {

struct ScalarNumbers {
  using F = double;
  using I = int64_t;
};

constexpr int64_t kHeldBits = ~((int64_t{1} << 27) - 1);
constexpr int64_t kMantissa = (int64_t{1} << 52) - 1;
constexpr int64_t kBitsOfOne = int64_t{1023} << 52;
constexpr double kWholeBase = 0x1.8p52;  // its last bit is 1: whole numbers added to its bits are added to it
constexpr int64_t kWholeBaseBits = 0x4338000000000000;
constexpr double kLogTwo = 0x1.62e400p-1;  // with kLogTwoRest, log 2 to 37 bits, in two numbers of few
constexpr double kLogTwoRest = 0x1.7f7d1cp-20;
constexpr double kLogBaseTwo = 0x1.715476p0;  // log2 e
constexpr double kEntropyFloor = 1e-5;        // added to a probability before its logarithm is taken

// x cut to 26 bits.
template <class N>
TK_INLINE typename N::F held(typename N::F x) {
  return detail::bit_cast<typename N::F>(detail::bit_cast<typename N::I>(x) & kHeldBits);
}

// log x, held; x positive. With x = 2^e m and s = (m - 1) / (m + 1) the series log m = 2 s + 2/3 s^3 + 2/5 s^5 + ...
// has lost 5e-9 after five terms.
template <class N>
TK_INLINE typename N::F log_of(typename N::F x) {
  using F = typename N::F;
  using I = typename N::I;
  const I bits = detail::bit_cast<I>(x);
  const F from_one = detail::bit_cast<F>((bits & kMantissa) | kBitsOfOne);
  const F m = from_one > 1.5 ? from_one * 0.5 : from_one;
  const I exponent = (bits >> 52) - 1023;
  const I whole = from_one > 1.5 ? exponent + 1 : exponent;
  const F e = detail::bit_cast<F>(whole + kWholeBaseBits) - kWholeBase;
  const F s = held<N>((m - 1.0) / (m + 1.0));
  const F z = held<N>(s * s);
  F series = held<N>(z * static_cast<double>(2.0f / 9) + static_cast<double>(2.0f / 7));
  series = held<N>(z * series + static_cast<double>(2.0f / 5));
  series = held<N>(z * series + static_cast<double>(2.0f / 3));
  series = held<N>(z * series + 2.0);
  return held<N>(e * kLogTwo + (e * kLogTwoRest + s * series));
}

// p log(p + 1e-5), with p = item * scale; what it adds to an entropy is its negative.
template <class N>
TK_INLINE typename N::F entropy_item(typename N::F item, float scale) {
  const typename N::F p = held<N>(item * static_cast<double>(scale));
  return p * log_of<N>(p + kEntropyFloor);
}

// log p of a kept token.
TK_INLINE double log_share(double p) { return log_of<ScalarNumbers>(p); }

// exp(-entropy), the entropy given as the units of all its items: 2^-x as 2^-whole e^t, by the series of e^t.
TK_INLINE double spread_of(int64_t items) {
  using N = ScalarNumbers;
  const double entropy = -static_cast<double>(items) / kMassUnit;
  const double x = held<N>(entropy * kLogBaseTwo);
  const int64_t whole = static_cast<int64_t>(x + 0.5);
  const double t = held<N>((static_cast<double>(whole) - x) * kLogTwo);
  double power = 1.0 / 5040;
  const double factorials[] = {720, 120, 24, 6, 2, 1, 1};
  for (const double factorial : factorials) power = held<N>(power) * t + held<N>(1.0 / factorial);
  return power * detail::bit_cast<double>(kBitsOfOne - (whole << 52));
}

}  // namespace tk::tree
