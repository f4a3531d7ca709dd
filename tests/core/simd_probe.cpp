// SPDX-License-Identifier: Apache-2.0
// The vocabulary of core/simd.h and the conversions of core/dtype.h as plain C functions, for test_simd.py.
// Arrays hold a whole number of vectors.
#include "core/simd.h"

using namespace tk;

namespace {

template <class T>
void load_all(const T* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += W) store(out + i, load(in + i));
}

template <class T>
void store_all(const float* in, T* out, int64_t n) {
  for (int64_t i = 0; i < n; i += W) store(out + i, load(in + i));
}

template <class T>
void convert_all(const float* in, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = from_float<T>(in[i]);
}

template <class T>
void widen_all(const T* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(in[i]);
}

template <class Apply>
void map(const float* a, const float* b, const float* c, float* out, int64_t n, Apply apply) {
  for (int64_t i = 0; i < n; i += W) store(out + i, apply(load(a + i), load(b + i), load(c + i)));
}

}  // namespace

extern "C" {

int width() { return W; }

void load_f16(const f16_t* in, float* out, int64_t n) { load_all(in, out, n); }
void load_bf16(const bf16_t* in, float* out, int64_t n) { load_all(in, out, n); }
void store_f16(const float* in, f16_t* out, int64_t n) { store_all(in, out, n); }
void store_bf16(const float* in, bf16_t* out, int64_t n) { store_all(in, out, n); }

void scalar_load_f16(const f16_t* in, float* out, int64_t n) { widen_all(in, out, n); }
void scalar_load_bf16(const bf16_t* in, float* out, int64_t n) { widen_all(in, out, n); }
void scalar_store_f16(const float* in, f16_t* out, int64_t n) { convert_all(in, out, n); }
void scalar_store_bf16(const float* in, bf16_t* out, int64_t n) { convert_all(in, out, n); }

void load_n_f32(const float* p, int n, float fill, float* out) { store(out, load_n(p, n, fill)); }
void load_n_f16(const f16_t* p, int n, float fill, float* out) { store(out, load_n(p, n, fill)); }
void load_n_bf16(const bf16_t* p, int n, float fill, float* out) { store(out, load_n(p, n, fill)); }
void store_n_f32(float* p, const float* in, int n) { store_n(p, load(in), n); }
void store_n_f16(f16_t* p, const float* in, int n) { store_n(p, load(in), n); }
void store_n_bf16(bf16_t* p, const float* in, int n) { store_n(p, load(in), n); }

void map_exp(const float* a, const float*, const float*, float* out, int64_t n) {
  map(a, a, a, out, n, [](vf x, vf, vf) { return tk::exp(x); });
}
void map_abs(const float* a, const float*, const float*, float* out, int64_t n) {
  map(a, a, a, out, n, [](vf x, vf, vf) { return tk::abs(x); });
}
void map_max(const float* a, const float* b, const float*, float* out, int64_t n) {
  map(a, b, b, out, n, [](vf x, vf y, vf) { return tk::max(x, y); });
}
void map_min(const float* a, const float* b, const float*, float* out, int64_t n) {
  map(a, b, b, out, n, [](vf x, vf y, vf) { return tk::min(x, y); });
}
void map_fma(const float* a, const float* b, const float* c, float* out, int64_t n) {
  map(a, b, c, out, n, [](vf x, vf y, vf z) { return tk::fma(x, y, z); });
}
void map_select(const float* a, const float* b, const float* c, float* out, int64_t n) {
  map(a, b, c, out, n, [](vf x, vf y, vf z) { return tk::select(x < y, y, z); });
}

void select_ints(const int32_t* a, const int32_t* b, int32_t* out) {
  const vi x = load_int(a);
  const vi y = load_int(b);
  store_int(out, select(x < y, x, y));
}
void count_from(int32_t start, int32_t* out) { store_int(out, iota(start)); }
void fill(float x, float* out) { store(out, set(x)); }
void fill_zero(float* out) { store(out, zero()); }
void fill_int(int32_t x, int32_t* out) { store_int(out, set_int(x)); }

float sum(const float* in) { return reduce_add(load(in)); }
float largest(const float* in) { return reduce_max(load(in)); }

}  // extern "C"
