// Checks that say what they checked, and go on after one has failed.
import { isDeepStrictEqual } from 'node:util';

let checks = 0;
const failures = [];
let current = '';

export function check(what, condition, detail = '') {
  checks += 1;
  if (condition) return;
  failures.push(`${current}: ${what}${detail === '' ? '' : `: ${detail}`}`);
  console.log(`FAILED: ${failures.at(-1)}`);
}

export function same(what, got, wanted) {
  check(
    what,
    isDeepStrictEqual(got, wanted),
    `${JSON.stringify(got)?.slice(0, 600)}, not ${JSON.stringify(wanted)?.slice(0, 600)}`,
  );
}

/// One test: a sentence and what it does. ONLY=words leaves out those whose sentence has them not.
export async function test(sentence, body) {
  if (!sentence.includes(process.env.ONLY ?? '')) return;
  current = sentence;
  const before = failures.length;
  const start = performance.now();
  try {
    await body();
  } catch (error) {
    check('ran to its end', false, error.stack);
  }
  console.log(
    `${failures.length === before ? 'ok' : 'FAILED'}: ${sentence} (${((performance.now() - start) / 1000).toFixed(1)} s)`,
  );
}

/// The exit code.
export function summary() {
  console.log(`${checks} checks, ${failures.length} failed`);
  return failures.length === 0 ? 0 : 1;
}
