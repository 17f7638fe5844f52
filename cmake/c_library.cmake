# rrs::c: include/rrs/c/rrs.h with its one source file, compiled. `rrs_c_library(name type)` makes one.
function(rrs_c_library name type)
  add_library(${name} ${type} ${PROJECT_SOURCE_DIR}/include/rrs/c/rrs.cpp)
  target_link_libraries(${name} PUBLIC $<BUILD_INTERFACE:rrs>)
  target_include_directories(${name} INTERFACE $<INSTALL_INTERFACE:include>)
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
