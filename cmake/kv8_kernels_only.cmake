# KV8_KERNELS_ONLY: the CUDA kernels with cuda_tests and kv8_bench, for GPU machines that have the CUDA
# toolkit, fmt, nlohmann-json, CLI11 and GoogleTest but not what the rest of kv8 needs. Files of the
# lower rooms that need more are left out: the kernels do not use them.
if(NOT KV8_CUDA STREQUAL "ON")
  message(FATAL_ERROR "KV8_KERNELS_ONLY needs CUDA: configure with KV8_CUDA=ON.")
endif()
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.10 REQUIRED)
find_package(CLI11 REQUIRED)
find_package(GTest REQUIRED)

kv8_room(base     LIBS fmt::fmt Threads::Threads nlohmann_json::nlohmann_json EXCLUDE "hash\\.cpp$")
kv8_room(formats  ROOMS base EXCLUDE "simd_codec\\.cpp$")
kv8_room(tensor   ROOMS base formats)
kv8_room(ops      ROOMS base formats tensor)
add_subdirectory(src/cuda)
kv8_room(bench    ROOMS base tensor EXCLUDE "/(model_[a-z]+|cpu_ceilings|geometry|read_words|workload)\\.cpp$")
target_link_libraries(kv8_bench PRIVATE kv8_cuda)
add_subdirectory(lab)
add_subdirectory(src/apps)
enable_testing()
add_subdirectory(tests)
