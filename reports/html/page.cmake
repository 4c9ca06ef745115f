# html_page(source why_not) sets `source` to a .cc that is generated: the page of HTML reports. esbuild bundles the scripts of
# this folder with ECharts, embed.mjs puts them and the styles into template.html. npm fetches both packages, of exactly the
# versions of package-lock.json, while CMake configures; where it cannot, or where there is no node, `why_not` says so in one
# line, and a build goes on without the page.
include(${CMAKE_CURRENT_LIST_DIR}/npm_packages.cmake)

option(SHARDWRIGHT_HTML "Build the HTML reports (needs node 18, npm and its registry)" ON)

function(html_page source why_not)
  set(folder ${CMAKE_CURRENT_FUNCTION_LIST_DIR})
  set(packages ${CMAKE_CURRENT_BINARY_DIR}/html/npm)
  set(bundle ${CMAKE_CURRENT_BINARY_DIR}/html/bundle)
  find_program(NODE NAMES node nodejs)
  find_program(NPM npm)
  set(failure "")
  if(NOT SHARDWRIGHT_HTML)
    set(failure "SHARDWRIGHT_HTML is OFF")
  elseif(NOT NODE OR NOT NPM)
    set(failure "there is no node and npm (Debian packages nodejs and npm)")
  else()
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${folder}/package-lock.json)
    npm_packages(${folder} ${packages} failure)
  endif()
  set(${why_not} "${failure}" PARENT_SCOPE)
  if(failure)
    return()
  endif()

  file(GLOB scripts CONFIGURE_DEPENDS ${folder}/*.js ${folder}/*/*.js)
  add_custom_command(OUTPUT ${bundle}/page.cc
    COMMAND ${CMAKE_COMMAND} -E env NODE_PATH=${packages}/node_modules
      ${NODE} ${packages}/node_modules/esbuild/bin/esbuild ${folder}/main.js ${folder}/page.css
      --bundle --minify --format=iife --target=es2022 --charset=utf8 --legal-comments=inline
      --outdir=${bundle} --log-level=warning
    COMMAND ${NODE} ${folder}/embed.mjs ${folder}/template.html ${bundle}/main.js ${bundle}/page.css ${bundle}/page.cc
    DEPENDS ${scripts} ${folder}/page.css ${folder}/template.html ${folder}/embed.mjs ${packages}/packages.stamp
    COMMENT "Bundling the page of HTML reports"
    VERBATIM)
  set(${source} ${bundle}/page.cc PARENT_SCOPE)
endfunction()
