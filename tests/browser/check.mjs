// Checks that say what they checked, and go on after one has failed.
import { AsyncLocalStorage } from 'node:async_hooks';
import { availableParallelism } from 'node:os';
import { isDeepStrictEqual } from 'node:util';

let checks = 0;
const failures = [];
const running = new AsyncLocalStorage(); // { sentence, failed }, since tests run beside each other

export function check(what, condition, detail = '') {
  checks += 1;
  if (condition) return;
  const test = running.getStore();
  test.failed += 1;
  failures.push(`${test.sentence}: ${what}${detail === '' ? '' : `: ${detail}`}`);
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
  const state = { sentence, failed: 0 };
  const start = performance.now();
  await running.run(state, async () => {
    try {
      await body();
    } catch (error) {
      check('ran to its end', false, error.stack);
    }
  });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`${state.failed === 0 ? 'ok' : 'FAILED'}: ${sentence} (${seconds} s)`);
}

/// Tests that do not measure time, some at once; `list`: what `run` makes a test of.
export async function sideBySide(list, run) {
  const rest = list.slice();
  const worker = async () => {
    while (rest.length > 0) await run(rest.shift());
  };
  await Promise.all(Array.from({ length: Math.min(4, Math.max(1, availableParallelism())) }, worker));
}

/// The exit code.
export function summary() {
  console.log(`${checks} checks, ${failures.length} failed`);
  return failures.length === 0 ? 0 : 1;
}
