# rrs::c: include/rrs/c/rrs.h with its one source file, compiled. `rrs_c_library(name type)` makes one.
function(rrs_c_library name type)
  add_library(${name} ${type} ${PROJECT_SOURCE_DIR}/include/rrs/c/rrs.cpp)
  # Not linked to rrs, which asks its users for C++17: those of this one may be projects in C.
  target_compile_features(${name} PRIVATE cxx_std_17)
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
  set_target_properties(${name} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
                                           POSITION_INDEPENDENT_CODE ON VERSION ${PROJECT_VERSION}
                                           SOVERSION 1)  # RRS_C_ABI_VERSION
  get_target_property(kind ${name} TYPE)
  if(kind STREQUAL "SHARED_LIBRARY")
    target_compile_definitions(${name} PRIVATE RRS_C_SHARED)
  endif()
endfunction()

rrs_c_library(rrs_c "")
set_target_properties(rrs_c PROPERTIES EXPORT_NAME c)
add_library(rrs::c ALIAS rrs_c)
