# cuDNN's fused attention beside ours in `kv8 bench fmha`: only where its header-only C++ frontend
# (Python package nvidia-cudnn-frontend) and cudnn.h (nvidia-cudnn-cu13, or the distribution's) are found.
# The library is loaded when the benchmark runs.
set(KV8_CUDNN_FRONTEND_DIR "" CACHE PATH
    "Folder of cudnn_frontend.h; where empty it is looked for in the Python environment")
find_program(KV8_PYTHON NAMES python python3 HINTS "${CMAKE_SOURCE_DIR}/.venv/bin"
             DOC "Python with the packages of tools/requirements.txt")
if(KV8_PYTHON)
  execute_process(COMMAND "${KV8_PYTHON}" -c "import sys; print(';'.join(p for p in sys.path if p))"
                  OUTPUT_VARIABLE kv8_python_path OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
foreach(folder IN LISTS kv8_python_path)
  list(APPEND kv8_frontend_hints "${folder}/include")
  list(APPEND kv8_cudnn_hints "${folder}/nvidia/cudnn/include")
endforeach()
find_path(KV8_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h
          HINTS "${KV8_CUDNN_FRONTEND_DIR}" "${KV8_CUDNN_FRONTEND_DIR}/include" ${kv8_frontend_hints})
find_path(KV8_CUDNN_INCLUDE cudnn.h
          HINTS "${KV8_CUDNN_FRONTEND_DIR}" "${KV8_CUDNN_FRONTEND_DIR}/../nvidia/cudnn/include" ${kv8_cudnn_hints}
                ${CUDAToolkit_INCLUDE_DIRS})
if(KV8_CUDNN_FRONTEND_INCLUDE AND KV8_CUDNN_INCLUDE)
  message(STATUS "kv8: bench fmha times cuDNN too (${KV8_CUDNN_FRONTEND_INCLUDE})")
  target_compile_definitions(kv8_cuda PUBLIC KV8_HAS_CUDNN=1
                             PRIVATE NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING CUDNN_FRONTEND_SKIP_JSON_LIB)
  set_source_files_properties(testing/cudnn_attention.cpp PROPERTIES INCLUDE_DIRECTORIES
    "${KV8_CUDNN_FRONTEND_INCLUDE};${KV8_CUDNN_INCLUDE}" COMPILE_OPTIONS "-w")
else()
  message(STATUS "kv8: cudnn_frontend.h and cudnn.h were not found, bench fmha has no cuDNN columns"
                 " (pip install nvidia-cudnn-frontend nvidia-cudnn-cu13, or set KV8_CUDNN_FRONTEND_DIR)")
  set_source_files_properties(testing/cudnn_attention.cpp PROPERTIES HEADER_FILE_ONLY ON)
endif()
