# kv8_room(name [ROOMS room…] [LIBS lib…] [EXCLUDE regex…]): the static library kv8_<name> of
# src/<name>/**.cpp, less the files that match.
# A room sees the headers of the rooms it names and of no other, since each room exports an include
# folder that holds itself alone: an upward include does not compile.
function(kv8_room name)
  cmake_parse_arguments(ARG "" "" "ROOMS;LIBS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/src/${name}/*.cpp")
  foreach(pattern IN LISTS ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${pattern}")
  endforeach()
  set(include "${CMAKE_BINARY_DIR}/rooms/${name}")
  file(MAKE_DIRECTORY "${include}")
  file(CREATE_LINK "${CMAKE_SOURCE_DIR}/src/${name}" "${include}/${name}" SYMBOLIC)
  if(sources)
    add_library(kv8_${name} STATIC ${sources})
    set(scope PUBLIC)
  else()
    add_library(kv8_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(kv8::${name} ALIAS kv8_${name})
  target_include_directories(kv8_${name} ${scope}
    "$<BUILD_INTERFACE:${include}>" "$<INSTALL_INTERFACE:include/kv8>")
  list(TRANSFORM ARG_ROOMS PREPEND kv8_)
  target_link_libraries(kv8_${name} ${scope} ${ARG_ROOMS} ${ARG_LIBS})
  if(sources)
    target_link_libraries(kv8_${name} PRIVATE $<BUILD_INTERFACE:kv8_flags>)
  endif()
  if(KV8_SANITIZE)
    target_link_options(kv8_${name} INTERFACE -fsanitize=address,undefined)
  endif()
  set_property(GLOBAL APPEND PROPERTY KV8_ROOMS ${name})
endfunction()

# kv8_embed(room symbol file): makes the file's bytes part of the room's library, reachable as
# `extern "C" const char <symbol>[]` and `extern "C" const char <symbol>End[]`.
function(kv8_embed room symbol file)
  set(source "${CMAKE_BINARY_DIR}/embedded/${symbol}.S")
  file(CONFIGURE OUTPUT "${source}" @ONLY CONTENT
"    .section .rodata
    .global @symbol@
    .global @symbol@End
@symbol@:
    .incbin \"@file@\"
@symbol@End:
    .byte 0
    .section .note.GNU-stack,\"\",%progbits
")
  get_target_property(type kv8_${room} TYPE)
  if(NOT type STREQUAL "INTERFACE_LIBRARY")
    target_sources(kv8_${room} PRIVATE "${source}")
    set_source_files_properties("${source}" PROPERTIES OBJECT_DEPENDS "${file}")
  endif()
endfunction()
