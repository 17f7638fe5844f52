# rrs::kernels: all kernels compiled once, for programs of many files. What links it includes rrs with
# RRS_EXTERNAL_KERNELS=1 and does not compile kernels of its own. Not for programs whose files differ
# in -m or math flags: the names encode those, so such a mixture does not link.
add_library(rrs_kernels STATIC ${PROJECT_SOURCE_DIR}/include/rrs/kernels.cpp)
add_library(rrs::kernels ALIAS rrs_kernels)
target_link_libraries(rrs_kernels PUBLIC rrs)
target_compile_definitions(rrs_kernels PUBLIC RRS_EXTERNAL_KERNELS=1)
set_target_properties(rrs_kernels PROPERTIES EXPORT_NAME kernels POSITION_INDEPENDENT_CODE ON)
