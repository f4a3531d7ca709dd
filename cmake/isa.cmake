# SPDX-License-Identifier: Apache-2.0
# Every <family>/<op>.simd.inc is compiled once per instruction set, into one object library each.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(TOKERNEL_ISAS v2 v3 v4)
  set(TOKERNEL_BASELINE -march=x86-64-v2)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(TOKERNEL_ISAS neon)
  set(TOKERNEL_BASELINE -march=armv8-a)
else()
  set(TOKERNEL_ISAS)
  set(TOKERNEL_BASELINE)
endif()

function(tk_isa_flags isa out)
  if(isa STREQUAL neon)
    set(${out} -march=armv8-a PARENT_SCOPE)
  else()
    # GCC 12 picks 256-bit registers by default even where 512-bit ones exist.
    set(${out} -march=x86-64-${isa} -mprefer-vector-width=512 PARENT_SCOPE)
  endif()
endfunction()

# Contraction to FMA and ignoring errno change no documented result; nothing else of -ffast-math is allowed, because
# NaN, infinity and the order of additions have a stated meaning.
set(TOKERNEL_KERNEL_FLAGS -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi)

function(tk_add_isa_objects isa)
  set(sources)
  foreach(family IN LISTS TOKERNEL_FAMILIES)
    file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/${family}/*.simd.inc)
    list(APPEND sources ${found})
  endforeach()
  set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  tk_isa_flags(${isa} flags)
  add_library(tk_${isa} OBJECT ${sources})
  target_compile_options(tk_${isa} PRIVATE -O3 ${flags} ${TOKERNEL_KERNEL_FLAGS})
  target_compile_definitions(tk_${isa} PRIVATE TK_ISA=${isa})
  target_include_directories(tk_${isa} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
endfunction()

foreach(isa IN LISTS TOKERNEL_ISAS)
  tk_add_isa_objects(${isa})
endforeach()
