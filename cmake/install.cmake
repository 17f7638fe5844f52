# Install rules: headers, a relocatable CMake package (rrs::rrs) and a relocatable rrs.pc. The library
# has no architecture of its own, so both packages go to share/.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/include/rrs DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        PATTERN "*.md" EXCLUDE)
install(TARGETS rrs EXPORT rrs-targets)
set(rrs_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/rrs)
if(RRS_BUILD_KERNELS)
  install(TARGETS rrs_kernels EXPORT rrs-targets)
endif()
if(TARGET rrs_c)
  install(TARGETS rrs_c EXPORT rrs-targets)
endif()
install(EXPORT rrs-targets NAMESPACE rrs:: DESTINATION ${rrs_package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/rrs-config.cmake.in
                              ${CMAKE_CURRENT_BINARY_DIR}/rrs-config.cmake
                              INSTALL_DESTINATION ${rrs_package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/rrs-config-version.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/rrs-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/rrs-config-version.cmake
        DESTINATION ${rrs_package_dir})

configure_file(${CMAKE_CURRENT_LIST_DIR}/rrs.pc.in ${CMAKE_CURRENT_BINARY_DIR}/rrs.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/rrs.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
