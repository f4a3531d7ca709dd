// SPDX-License-Identifier: Apache-2.0
// Logarithms, an entropy and an exponential whose bits are the same in every backend: every sum here adds products of
// two numbers that floats can hold, so that it makes no difference whether a compiler contracts it.
//
// N says what is computed on: N::F a double or a vector of them, N::I integers of that size, and N::to_single, which
// rounds to what a float can hold.
#pragma once
#include "tree/inverse_cdf.h"

namespace tk::tree {

struct ScalarNumbers {
  using F = double;
  using I = int64_t;
  TK_HOST_DEVICE __attribute__((always_inline)) static F to_single(F x) {
    return static_cast<double>(static_cast<float>(x));
  }
};

constexpr int64_t kMantissa = (int64_t{1} << 52) - 1;
constexpr int64_t kBitsOfOne = int64_t{1023} << 52;
constexpr double kWholeBase = 0x1.8p52;  // its last bit is 1: whole numbers added to its bits are added to it
constexpr int64_t kWholeBaseBits = 0x4338000000000000;
constexpr float kLogTwo = 0x1.62e400p-1f;  // with kLogTwoRest, log 2 to 46 bits
constexpr float kLogTwoRest = 0x1.7f7d1cp-20f;
constexpr float kLogBaseTwo = 1.442695041f;  // log2 e
constexpr float kEntropyFloor = 1e-5f;       // added to a probability before its logarithm is taken

// log x, rounded to a float; x positive and what a float can hold. With x = 2^e m and s = (m - 1) / (m + 1) the
// series log m = 2 s + 2/3 s^3 + 2/5 s^5 + ... has lost 5e-9 after five terms.
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
  const F s = N::to_single((m - 1.0) / (m + 1.0));
  const F z = N::to_single(s * s);
  F series = N::to_single(z * static_cast<double>(2.0f / 9) + static_cast<double>(2.0f / 7));
  series = N::to_single(z * series + static_cast<double>(2.0f / 5));
  series = N::to_single(z * series + static_cast<double>(2.0f / 3));
  series = N::to_single(z * series + 2.0);
  return N::to_single(e * static_cast<double>(kLogTwo) + (e * static_cast<double>(kLogTwoRest) + s * series));
}

// p log(p + 1e-5), with p = item * scale; what it adds to an entropy is its negative.
template <class N>
TK_INLINE typename N::F entropy_item(typename N::F item, float scale) {
  const typename N::F p = N::to_single(item * static_cast<double>(scale));
  return p * log_of<N>(N::to_single(p + static_cast<double>(kEntropyFloor)));
}

// log p of a kept token.
TK_INLINE double log_share(double p) { return log_of<ScalarNumbers>(ScalarNumbers::to_single(p)); }

// exp(-entropy), the entropy given as the units of all its items.
TK_INLINE double spread_of(int64_t items) {
  const double entropy = -static_cast<double>(items) / kMassUnit;
  const double x = ScalarNumbers::to_single(entropy * static_cast<double>(kLogBaseTwo));
  const int64_t whole = static_cast<int64_t>(x + 0.5);
  const double t = ScalarNumbers::to_single((static_cast<double>(whole) - x) * 0.6931471805599453);
  double power = 1.0 / 5040;
  const double factorials[] = {720, 120, 24, 6, 2, 1, 1};
  for (const double factorial : factorials) {
    power = ScalarNumbers::to_single(ScalarNumbers::to_single(power) * t + ScalarNumbers::to_single(1.0 / factorial));
  }
  return power * detail::bit_cast<double>(kBitsOfOne - (whole << 52));
}

}  // namespace tk::tree
