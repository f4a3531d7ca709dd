// SPDX-License-Identifier: Apache-2.0
// Bounds, uninitialised memory, limits of shared memory, and neighbours that share a word.
#include "simt/selftest/selftest.h"

namespace tk::simt::selftest {
namespace {

constexpr int kCount = 100;

// Runs kernel(x, out, n) on one block of 128 threads over kCount elements.
template <class T, void (*kKernel)(const T*, T*, int)>
std::vector<T> over_elements() {
  std::vector<T> x(kCount), out(kCount);
  for (int i = 0; i < kCount; ++i) x[i] = static_cast<T>(i);
  Arguments arguments;
  const T* x_ = arguments.in("x", x);
  T* out_ = arguments.out("out", out);
  arguments.run([&] { launch(kKernel, dim3(1), dim3(128), 0, nullptr, x_, out_, kCount); });
  return out;
}

template <class T, void (*kKernel)(const T*, T*, int)>
void fails() {
  over_elements<T, kKernel>();
}

// ---- bounds -------------------------------------------------------------------------------------------------------
__global__ void read_past_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  if (i < n) out[i] = x[i + 1];
}

__global__ void read_before_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  if (i < n) out[i] = x[i - 1];
}

__global__ void write_past_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  if (i <= n) out[i] = i < n ? x[i] : 0.0f;
}

__global__ void write_input_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  if (i >= n) return;
  const_cast<float*>(x)[i] = 0.0f;
  out[i] = 0.0f;
}

__global__ void shared_overrun_kernel(const float* x, float* out, int n) {
  TK_SHARED(row, float[kCount]);
  TK_SHARED(other, float[128]);
  const int i = threadIdx.x;
  float* mine = row;
  mine += i;  // 128 threads, 100 elements
  other[i] = 0.0f;
  *mine = i < n ? x[i] : 0.0f;
  __syncthreads();
  if (i < n) out[i] = row[i] + other[i];
}

__global__ void stray_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  const float* far = x + (int64_t{1} << 40);
  if (i < n) out[i] = far[i];
}

__global__ void local_memory_kernel(const float* x, float* out, int n) {
  TK_SHARED(pointers, const float* [128]);
  const int i = threadIdx.x;
  float mine[2] = {i < n ? x[i] : 0.0f, 0.0f};
  pointers[i] = mine;
  __syncthreads();
  if (i < n) out[i] = *pointers[i ^ 1];
  __syncthreads();
}

// ---- memory that nobody wrote
// ----------------------------------------------------------------------------------------
__global__ void unwritten_shared_kernel(const float* x, float* out, int n) {
  TK_SHARED(row, float[128]);
  const int i = threadIdx.x;
  if (i < n / 2) row[i] = x[i];
  __syncthreads();
  if (i < n) out[i] = fmaxf(row[i], 0.0f);  // fmaxf hides a NaN
}

__global__ void unwritten_out_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  if (i < n / 2) out[i] = x[i];
}

void unwritten_output_shows() {
  const std::vector<float> out = over_elements<float, unwritten_out_kernel>();
  for (int i = 0; i < kCount; ++i) {
    expect(i < kCount / 2 ? out[i] == static_cast<float>(i) : out[i] != out[i], "an unwritten element is NaN");
  }
}

__global__ void workspace_kernel(const int* workspace, int* out) { out[threadIdx.x] = workspace[threadIdx.x] > 0; }

void unwritten_workspace() {
  std::vector<int> out(32);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  int* workspace = arguments.workspace<int>(32);
  arguments.run([&] { launch(workspace_kernel, dim3(1), dim3(32), 0, nullptr, workspace, out_); });
}

// ---- the limits of shared memory
// ---------------------------------------------------------------------------------------
__global__ void dynamic_kernel(int* out, int last) {
  TK_DYNAMIC_SHARED(int, values);
  if (threadIdx.x == 0) values[last] = 7;
  __syncthreads();
  out[threadIdx.x] = values[last];
}

template <size_t kBytes, int kBeyond>
void dynamic_shared_bytes() {
  std::vector<int> out(32);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  const int last = static_cast<int>(kBytes / 4) - 1 + kBeyond;
  arguments.run([&] { launch(dynamic_kernel, dim3(2), dim3(32), kBytes, nullptr, out_, last); });
}

// One block: two would write the same output.
void largest_shared() {
  std::vector<int> out(32);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  const int last = static_cast<int>(kMaxSharedBytes / 4) - 1;
  arguments.run([&] { launch(dynamic_kernel, dim3(1), dim3(32), kMaxSharedBytes, nullptr, out_, last); });
  for (const int v : out) expect(v == 7, "227 KB of shared memory");
}

__global__ void static_kernel(int* out) {
  TK_SHARED(large, int[48 * 256 + 1]);
  large[threadIdx.x] = 1;
  out[threadIdx.x] = large[threadIdx.x];
}

void static_over_limit() {
  std::vector<int> out(32);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  arguments.run([&] { launch(static_kernel, dim3(1), dim3(32), 0, nullptr, out_); });
}

// ---- neighbours -----------------------------------------------------------------------------------------------------
template <class T>
__global__ void bytes_kernel(const T* x, T* out, int n) {
  TK_SHARED(row, T[kCount]);
  const int i = threadIdx.x;
  if (i < n) row[i] = x[n - 1 - i];
  __syncthreads();
  if (i < n) out[i] = row[n - 1 - i];
}

template <class T>
void neighbours() {
  const std::vector<T> out = over_elements<T, bytes_kernel<T>>();
  for (int i = 0; i < kCount; ++i) expect(out[i] == static_cast<T>(i), "neighbours in one word");
}

__global__ void overlap_kernel(const uint8_t* x, uint8_t* out, int n) {
  const int i = threadIdx.x;
  if (i + 1 < n) out[i] = x[i];
  if (i + 1 < n && i % 2 == 0) out[i + 1] = x[i];  // the byte of the next thread
}

// 16-byte vectors, as wide paths use them.
template <int kExtra>
__global__ void vector_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  if (i >= n / 4 + kExtra) return;
  const float4 v = reinterpret_cast<const float4*>(x)[i];
  reinterpret_cast<float4*>(out)[i] = make_float4(v.w, v.z, v.y, v.x);
}

__global__ void misaligned_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  if (i >= n / 4 - 1) return;
  const float4 v = *reinterpret_cast<const float4*>(x + i + 1);
  out[i] = v.x + v.y + v.z + v.w;
}

// Inside shared memory, but beyond its row.
__global__ void index_kernel(const float* x, float* out, int n) {
  TK_SHARED(tile, float[8][16]);
  const int i = threadIdx.x;
  tile[i / 16][i % 16] = i < n ? x[i] : 0.0f;
  __syncthreads();
  if (i < n) out[i] = i < 17 ? tile[0][i] : 0.0f;
}

__global__ void division_kernel(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  if (i < n) out[i] = x[100 / i];
}

void vectors() {
  const std::vector<float> out = over_elements<float, vector_kernel<0>>();
  for (int i = 0; i < kCount; ++i) expect(out[i] == static_cast<float>(i / 4 * 4 + 3 - i % 4), "float4");
}

constexpr Case kCases[] = {
    {"bug_read_past_end", &fails<float, read_past_kernel>},
    {"bug_read_before_start", &fails<float, read_before_kernel>},
    {"bug_write_past_end", &fails<float, write_past_kernel>},
    {"bug_write_to_input", &fails<float, write_input_kernel>},
    {"bug_shared_overrun", &fails<float, shared_overrun_kernel>},
    {"bug_stray_pointer", &fails<float, stray_kernel>},
    {"bug_other_threads_local", &fails<float, local_memory_kernel>},
    {"bug_unwritten_shared", &fails<float, unwritten_shared_kernel>},
    {"bug_unwritten_workspace", &unwritten_workspace},
    {"ok_unwritten_output_shows", &unwritten_output_shows},
    {"ok_largest_shared", &largest_shared},
    {"bug_dynamic_shared_over_limit", &dynamic_shared_bytes<kMaxSharedBytes + 16, 0>},
    {"bug_dynamic_shared_overrun", &dynamic_shared_bytes<1024, 1>},
    {"bug_static_shared_over_limit", &static_over_limit},
    {"ok_neighbouring_bytes", &neighbours<uint8_t>},
    {"ok_neighbouring_halves", &neighbours<uint16_t>},
    {"ok_neighbouring_doubles", &neighbours<double>},
    {"bug_byte_of_next_thread", &fails<uint8_t, overlap_kernel>},
    {"ok_vectors", &vectors},
    {"bug_misaligned_vector", &fails<float, misaligned_kernel>},
    {"bug_index_beyond_row", &fails<float, index_kernel>},
    {"bug_division_by_zero", &fails<float, division_kernel>},
    {"bug_vector_past_end", &fails<float, vector_kernel<1>>},
};

}  // namespace

std::span<const Case> memory_cases() { return kCases; }

}  // namespace tk::simt::selftest
