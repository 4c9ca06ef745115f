# shardwright_embed(target symbol folder) builds every *.yaml of `folder` into `target`, so that the program needs no files
# beside it. It defines, in namespace shardwright,
#   const std::vector<CatalogFile>& symbol();
# (hardware/catalog.h), which the room that asks for it declares in its own .cc. A changed, new or removed file reruns CMake.
function(shardwright_embed target symbol folder)
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.yaml)
  list(SORT files)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${files})
  set(entries "")
  foreach(file IN LISTS files)
    get_filename_component(name ${file} NAME)  # not NAME_WE, which stops at the first dot: llama-3.1-8b.yaml
    string(REGEX REPLACE "[.]yaml$" "" name "${name}")
    file(RELATIVE_PATH path ${PROJECT_SOURCE_DIR} ${file})
    file(READ ${file} text)
    string(APPEND entries "      {\"${name}\", \"${path}\", R\"yaml(${text})yaml\"},\n")
  endforeach()
  string(CONCAT code
    "#include \"hardware/catalog.h\"\n\nnamespace shardwright {\n\n"
    "const std::vector<CatalogFile>& ${symbol}() {\n  static const std::vector<CatalogFile> files = {\n"
    "${entries}  };\n  return files;\n}\n\n}  // namespace shardwright\n")
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.cc)
  set(before "")
  if(EXISTS ${generated})
    file(READ ${generated} before)
  endif()
  if(NOT before STREQUAL code)
    file(WRITE ${generated} "${code}")
  endif()
  target_sources(${target} PRIVATE ${generated})
endfunction()
