# Dependencies: packages of the distribution, and onnx.proto from the Python package onnx.
include(kv8_libraries)
find_package(CLI11 REQUIRED)

# sgemm for prefill.
add_library(kv8_blas INTERFACE)
target_link_libraries(kv8_blas INTERFACE PkgConfig::OPENBLAS)

# onnx.proto: taken from the pinned Python package once, checked by its hash, then compiled here.
set(KV8_ONNX_VERSION 1.23.2)
set(KV8_ONNX_PROTO_SHA256 547214dd049486a4d5ecbae593e9c72d90b5e8d603944b722eff469e0b5a9cc9)
set(kv8_onnx_proto_file "${CMAKE_SOURCE_DIR}/.cache/onnx-${KV8_ONNX_VERSION}/onnx.proto")
if(NOT EXISTS "${kv8_onnx_proto_file}")
  execute_process(
    COMMAND "${CMAKE_SOURCE_DIR}/tools/fetch_onnx_proto.sh" "${KV8_ONNX_VERSION}" "${KV8_ONNX_PROTO_SHA256}"
            "${kv8_onnx_proto_file}"
    RESULT_VARIABLE kv8_fetch_result)
  if(NOT kv8_fetch_result EQUAL 0)
    message(FATAL_ERROR "onnx.proto could not be fetched; see the lines above. It may be put at ${kv8_onnx_proto_file} by hand.")
  endif()
endif()
set(kv8_proto_out "${CMAKE_BINARY_DIR}/onnx_proto")
file(MAKE_DIRECTORY "${kv8_proto_out}")
get_filename_component(kv8_onnx_proto_dir "${kv8_onnx_proto_file}" DIRECTORY)
add_custom_command(
  OUTPUT "${kv8_proto_out}/onnx.pb.cc" "${kv8_proto_out}/onnx.pb.h"
  COMMAND protobuf::protoc --cpp_out "${kv8_proto_out}" -I "${kv8_onnx_proto_dir}" "${kv8_onnx_proto_file}"
  DEPENDS "${kv8_onnx_proto_file}")
add_library(kv8_onnx_proto STATIC "${kv8_proto_out}/onnx.pb.cc" "${kv8_proto_out}/onnx.pb.h")
target_include_directories(kv8_onnx_proto SYSTEM PUBLIC "$<BUILD_INTERFACE:${kv8_proto_out}>")
target_link_libraries(kv8_onnx_proto PUBLIC protobuf::libprotobuf)
if(KV8_SANITIZE)
  target_compile_options(kv8_onnx_proto PRIVATE -fsanitize=address,undefined)
endif()

if(KV8_TESTS)
  find_package(GTest REQUIRED)
endif()
