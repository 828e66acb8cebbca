# `cmake --install` gives the programs, the libraries with their headers, and a package that
# find_package(kv8) finds: link kv8::runtime (or any other room).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS kv8 llm_build llm_inference RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")

get_property(rooms GLOBAL PROPERTY KV8_ROOMS)
set(exported kv8_onnx_proto kv8_blas)
foreach(room ${rooms})
  list(APPEND exported kv8_${room})
  set_target_properties(kv8_${room} PROPERTIES EXPORT_NAME ${room})
  install(DIRECTORY "${CMAKE_SOURCE_DIR}/src/${room}" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/kv8"
          FILES_MATCHING PATTERN "*.h")
endforeach()
set_target_properties(kv8_onnx_proto PROPERTIES EXPORT_NAME onnx_proto)
set_target_properties(kv8_blas PROPERTIES EXPORT_NAME blas)
install(TARGETS ${exported} EXPORT kv8Targets
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/kv8")
install(EXPORT kv8Targets NAMESPACE kv8:: DESTINATION "${package_dir}")
configure_package_config_file("${CMAKE_SOURCE_DIR}/cmake/kv8Config.cmake.in"
  "${CMAKE_BINARY_DIR}/kv8Config.cmake" INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${CMAKE_BINARY_DIR}/kv8ConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/kv8Config.cmake" "${CMAKE_BINARY_DIR}/kv8ConfigVersion.cmake"
        "${CMAKE_SOURCE_DIR}/cmake/kv8_libraries.cmake" DESTINATION "${package_dir}")
