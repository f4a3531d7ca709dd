# SPDX-License-Identifier: Apache-2.0
# The optional extension _cuda: the same binding room over the CUDA launchers, with the static CUDA runtime, so that
# it imports on a machine without driver or GPU.

if(TOKERNEL_CUDA STREQUAL OFF)
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(TOKERNEL_CUDA STREQUAL ON)
    message(FATAL_ERROR "TOKERNEL_CUDA=ON needs nvcc, and none was found: put nvcc on PATH, set CUDACXX to it, or "
                        "build without CUDA with TOKERNEL_CUDA=OFF.")
  endif()
  message(STATUS "tokernel: nvcc not found, building without CUDA")
  return()
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-virtual 90a-real)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

set(launchers)
foreach(family IN LISTS TOKERNEL_FAMILIES)
  tk_glob(found ${family}/*.cu)
  list(APPEND launchers ${found})
endforeach()

add_library(tk_cuda OBJECT ${launchers})
set_target_properties(tk_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden)
target_include_directories(tk_cuda PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
target_compile_options(tk_cuda PRIVATE -Xptxas=-v -Xfatbin=-compress-all)

pybind11_add_module(_cuda MODULE bind/module_cuda.cpp ${TOKERNEL_BIND_SOURCES} $<TARGET_OBJECTS:tk_cuda>)
set_target_properties(_cuda PROPERTIES LINKER_LANGUAGE CXX)
tk_join_binding(_cuda)
target_compile_definitions(_cuda PRIVATE TK_MODULE_CUDA)
target_compile_options(_cuda PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${TOKERNEL_BASELINE} -Wall -Wextra>)
target_include_directories(_cuda PRIVATE ${PROJECT_SOURCE_DIR}/csrc ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_link_libraries(_cuda PRIVATE Threads::Threads cudart_static rt dl)
target_link_directories(_cuda PRIVATE ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES})
tk_place_extension(_cuda)
