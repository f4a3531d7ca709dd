# SPDX-License-Identifier: Apache-2.0
# The extension _simt, for tests and bench: the CUDA kernels and launchers compiled as C++ for the host executor.

# A .cu file has one language per directory, and may be CUDA's already: each gets a one-line C++ file instead.
set(launchers)
foreach(family IN LISTS TOKERNEL_FAMILIES ITEMS simt/selftest)
  file(GLOB found CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR}/csrc/${family}/*.cu)
  foreach(source IN LISTS found)
    set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/simt/${source}.cpp)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n")
    list(APPEND launchers ${wrapper})
  endforeach()
endforeach()

# The compiler reports every load and store of a kernel, misaligned accesses and indices out of bounds through hooks
# that csrc/simt defines; the sanitizers' own runtimes are not linked. Line tables let a report name the line.
add_library(tk_simt_kernels OBJECT ${launchers})
target_compile_options(tk_simt_kernels PRIVATE -O2 -g1 -ffile-prefix-map=${PROJECT_SOURCE_DIR}/=
                       -fsanitize=thread,alignment,bounds,integer-divide-by-zero -ffp-contract=off -Wall -Wextra -Wno-psabi -Wno-unknown-pragmas ${TOKERNEL_BASELINE})
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  target_compile_options(tk_simt_kernels PRIVATE --param=tsan-instrument-func-entry-exit=0)
else()
  target_compile_options(tk_simt_kernels PRIVATE "SHELL:-mllvm -tsan-instrument-func-entry-exit=0")
endif()
target_include_directories(tk_simt_kernels PRIVATE ${PROJECT_SOURCE_DIR}/csrc)

tk_glob(executor simt/*.cpp)
list(FILTER executor EXCLUDE REGEX "/bind_simt\\.cpp$")
add_library(tk_simt_executor OBJECT ${executor})
# GCC 12 warns of overlaps inside its own std::string, here and in the binding below.
target_compile_options(tk_simt_executor PRIVATE -O2 -Wall -Wextra -Wno-psabi -Wno-restrict ${TOKERNEL_BASELINE})
target_include_directories(tk_simt_executor PRIVATE ${PROJECT_SOURCE_DIR}/csrc)

# NO_EXTRAS and FILES: neither the build nor the installation may strip the line tables.
pybind11_add_module(_simt MODULE NO_EXTRAS bind/module_simt.cpp simt/bind_simt.cpp ${TOKERNEL_BIND_SOURCES}
                    $<TARGET_OBJECTS:tk_simt_executor> $<TARGET_OBJECTS:tk_simt_kernels>)
tk_join_binding(_simt)
target_compile_definitions(_simt PRIVATE TK_MODULE_SIMT)
target_compile_options(_simt PRIVATE ${TOKERNEL_BASELINE} -Wall -Wextra -Wno-psabi -Wno-restrict)
target_include_directories(_simt PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
target_link_libraries(_simt PRIVATE Threads::Threads)
if(TOKERNEL_INPLACE)
  set_target_properties(_simt PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_SOURCE_DIR}/python/tokernel)
endif()
install(FILES $<TARGET_FILE:_simt> DESTINATION tokernel)
