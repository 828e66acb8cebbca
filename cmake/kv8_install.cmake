# `cmake --install` gives programs, libraries, headers and a package that find_package(kv8) finds.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
