// SPDX-License-Identifier: Apache-2.0
// The C structures of DLPack 1.x and of its C exchange API: a binary interface, written from its specification.
#pragma once
#include <cstdint>

namespace tk::dlpack {

enum DeviceType : int32_t { kCPU = 1, kCUDA = 2, kCUDAHost = 3, kCUDAManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };
enum Flags : uint64_t { kReadOnly = 1 };
constexpr uint32_t kMajor = 1;

struct Device {
  int32_t type;
  int32_t id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means row-major
  uint64_t byte_offset;
};

struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct ManagedVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};

struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;
};

using SetError = void (*)(void* context, const char* kind, const char* message);

struct ExchangeApi {
  ExchangeHeader header;
  int (*allocate)(Tensor* prototype, ManagedVersioned** out, void* error_context, SetError set_error);
  int (*import_owned)(void* object, ManagedVersioned** out);
  int (*export_object)(ManagedVersioned* tensor, void** out);
  int (*borrow)(void* object, Tensor* out);  // may be null; valid until control returns to Python
  int (*current_stream)(DeviceType type, int32_t id, void** out);
};

static_assert(sizeof(Tensor) == 48 && sizeof(Managed) == 64 && sizeof(ManagedVersioned) == 80);
static_assert(sizeof(ExchangeApi) == 56);

}  // namespace tk::dlpack
