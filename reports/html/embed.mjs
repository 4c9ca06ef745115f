// embed.mjs TEMPLATE SCRIPT STYLES OUT.cc: the page as a C++ source, cut where its data goes. The policy of the page names
// script and styles by their hashes: nothing else may run in it.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';

const [template, script, styles, out] = process.argv.slice(2);
const texts = { SCRIPT: readFileSync(script, 'utf8').trim(), STYLES: readFileSync(styles, 'utf8').trim() };
for (const [name, text] of Object.entries(texts)) {
  if (/<\/(script|style)|<!--/i.test(text)) throw new Error(`${name} would end its own element`);
}
const hash = (text) => `'sha256-${createHash('sha256').update(text, 'utf8').digest('base64')}'`;
const slots = { ...texts, SCRIPT_HASH: hash(texts.SCRIPT), STYLES_HASH: hash(texts.STYLES) };
const page = readFileSync(template, 'utf8').replace(
  /@(SCRIPT|STYLES|SCRIPT_HASH|STYLES_HASH)@/g,
  (_, name) => slots[name],
);
const parts = page.split('@DATA@');
if (parts.length !== 2) throw new Error(`${template} has ${parts.length - 1} places for the data, not one`);

// In pieces, and by code units: compilers limit the length of one literal, and a cut must not fall into a character.
const pieces = (text) => (text.match(/[\s\S]{1,16000}/gu) ?? ['']).map((piece) => `R"page~(${piece})page~"`).join('\n');
const functionOf = (name, text) =>
  `std::string_view ${name}() {\n  static constexpr char text[] =\n${pieces(text)};\n  return {text, sizeof text - 1};\n}\n`;
writeFileSync(
  out,
  `#include "reports/html/page.h"

namespace shardwright {

${functionOf('page_before_data', parts[0])}
${functionOf('page_after_data', parts[1])}
}  // namespace shardwright
`,
);
