// SPDX-License-Identifier: Apache-2.0
// The life of an op in C++: one name declared once, implemented once per backend.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace tk {

// What a CUDA launcher needs beyond its arguments. Launchers never synchronise and never allocate.
struct GpuContext {
  void* stream = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

}  // namespace tk

// Used inside `namespace tk::<family>`. The binding picks one function of the table; see core/dispatch.h.
#define TK_DECLARE_OP(name, Args)                  \
  namespace ref {                                  \
  void name(const Args&);                          \
  }                                                \
  namespace v2 {                                   \
  void name(const Args&);                          \
  }                                                \
  namespace v3 {                                   \
  void name(const Args&);                          \
  }                                                \
  namespace v4 {                                   \
  void name(const Args&);                          \
  }                                                \
  namespace neon {                                 \
  void name(const Args&);                          \
  }                                                \
  namespace gpu {                                  \
  void name(const Args&, const ::tk::GpuContext&); \
  size_t name##_workspace(const Args&);            \
  }
