# SPDX-License-Identifier: Apache-2.0
# The extension _C: core, scalar references, per-ISA kernels and the binding room.

function(tk_glob out)
  set(sources)
  foreach(pattern IN LISTS ARGN)
    file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/${pattern})
    list(APPEND sources ${found})
  endforeach()
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

# Sources of the binding room that every extension shares; module_<name>.cpp is the only difference.
tk_glob(TOKERNEL_BIND_SOURCES bind/*.cpp)
list(FILTER TOKERNEL_BIND_SOURCES EXCLUDE REGEX "/module_[a-z]+\\.cpp$")
tk_glob(TOKERNEL_CORE_SOURCES core/*.cpp)

# Compiles the binding room in two pieces: nearly all of the time of each file goes into pybind11's headers.
function(tk_join_binding target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
endfunction()

# Development builds land next to the package, wheels in it.
function(tk_place_extension target)
  if(TOKERNEL_INPLACE)
    set_target_properties(${target} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_SOURCE_DIR}/python/tokernel)
  endif()
  install(TARGETS ${target} LIBRARY DESTINATION tokernel)
endfunction()

# References, and host code that is no kernel (tables, trainers).
set(host_sources ${TOKERNEL_CORE_SOURCES})
foreach(family IN LISTS TOKERNEL_FAMILIES)
  tk_glob(found ${family}/*.cpp)
  list(APPEND host_sources ${found})
endforeach()
list(REMOVE_DUPLICATES host_sources) # core is a family too

set(objects)
foreach(isa IN LISTS TOKERNEL_ISAS)
  list(APPEND objects $<TARGET_OBJECTS:tk_${isa}>)
endforeach()

# Apart from the binding room: only that depends on where pybind11 lies, which differs in every isolated build.
add_library(tk_ref OBJECT ${host_sources})
target_compile_options(tk_ref PRIVATE ${TOKERNEL_BASELINE} -Wall -Wextra -Wno-psabi)
target_include_directories(tk_ref PRIVATE ${PROJECT_SOURCE_DIR}/csrc)

pybind11_add_module(_C MODULE bind/module_cpu.cpp ${TOKERNEL_BIND_SOURCES} $<TARGET_OBJECTS:tk_ref> ${objects})
tk_join_binding(_C)
target_compile_definitions(_C PRIVATE TK_MODULE_CPU)
target_compile_options(_C PRIVATE ${TOKERNEL_BASELINE} -Wall -Wextra -Wno-psabi)
target_include_directories(_C PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
target_link_libraries(_C PRIVATE Threads::Threads)
tk_place_extension(_C)
