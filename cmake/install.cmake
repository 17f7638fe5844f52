# Install rules: headers, a relocatable CMake package (rrs::rrs, and the compiled libraries that were asked for)
# and a relocatable rrs.pc. Headers have no architecture, so both packages go to share/; a CMake package with
# compiled libraries has that of its machine and goes to lib/.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/include/rrs DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        PATTERN "*.md" EXCLUDE)
install(FILES ${CMAKE_CURRENT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/rrs)

set(rrs_compiled)
if(RRS_BUILD_KERNELS)
  list(APPEND rrs_compiled rrs_kernels)
endif()
if(RRS_BUILD_C)
  list(APPEND rrs_compiled rrs_c)
endif()
if(rrs_compiled)
  set(rrs_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/rrs)
  set(rrs_architecture)
else()
  set(rrs_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/rrs)
  set(rrs_architecture ARCH_INDEPENDENT)
endif()

install(TARGETS rrs ${rrs_compiled} EXPORT rrs-targets
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT rrs-targets NAMESPACE rrs:: DESTINATION ${rrs_package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/rrs-config.cmake.in
                              ${CMAKE_CURRENT_BINARY_DIR}/rrs-config.cmake
                              INSTALL_DESTINATION ${rrs_package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/rrs-config-version.cmake
                                 COMPATIBILITY SameMinorVersion ${rrs_architecture})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/rrs-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/rrs-config-version.cmake
        DESTINATION ${rrs_package_dir})

# The prefix is named from the folder of rrs.pc, however deep that lies, so that it may be moved; an absolute folder
# (GNUInstallDirs allows it for each) lies outside of it and is named as it is.
set(rrs_pc_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)
if(IS_ABSOLUTE ${rrs_pc_dir})
  set(rrs_pc_prefix ${CMAKE_INSTALL_PREFIX})
else()
  file(RELATIVE_PATH rrs_pc_prefix /prefix/${rrs_pc_dir} /prefix)
  string(REGEX REPLACE "/$" "" rrs_pc_prefix "\${pcfiledir}/${rrs_pc_prefix}")
endif()
set(rrs_pc_includedir ${CMAKE_INSTALL_INCLUDEDIR})
if(NOT IS_ABSOLUTE ${rrs_pc_includedir})
  string(PREPEND rrs_pc_includedir "\${prefix}/")
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/rrs.pc.in ${CMAKE_CURRENT_BINARY_DIR}/rrs.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/rrs.pc DESTINATION ${rrs_pc_dir})
