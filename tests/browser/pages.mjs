// The pages that the tests open: made by the program itself, from questions that it answers in a moment.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const golden = join(here, '..', 'golden', 'validate-kernels');

/// What a name from a file must not do, in one name.
export const kHostile = '</script><script>window.harmed = 1</script><img src=x onerror="window.harmed = 1">\u2028\'"&amp; ${harm} {a|b}';

/// { name: path } of every page; `program` is shardwright, `folder` is empty.
export function makePages(program, folder) {
  const at = (name) => join(folder, name);
  const run = (...words) => {
    try {
      execFileSync(program, words, { stdio: ['ignore', 'ignore', 'pipe'], cwd: folder });
    } catch (error) {
      if (error.status !== 1) throw error;  // 1: nothing fits, and the answer is written all the same
    }
  };
  const report = (name, ...files) => run('report', ...files, '--out', at(`${name}.html`));
  const question = ['llama-3.1-8b', 'h100-sxm-80gb', '--gpus', '64', '--sequence-length', '4096', '--global-batch', '256'];

  run('plan', ...question, '--top', '20', '--tokens', '1T', '--gpu-hour-price', '2', '--mtbf-hours', '50676', '--checkpoint-seconds', '60',
    '--unmeasured', at('todo.txt'), '--json', at('plan.json'), '--html', at('plan.html'));
  run('plan', 'llama-3.1-405b', 'h100-sxm-80gb', '--gpus', '8', '--sequence-length', '4096', '--global-batch', '8', '--html', at('nothing.html'));
  run('estimate', ...question, '--layout', 'tp=2,pp=4,vpp=2,micro_batch=1', '--json', at('estimate.json'), '--html', at('estimate.html'));
  run('explain', ...question, '--layout', 'tp=8,pp=2', '--sensitivity', '--html', at('explain.html'));
  run('validate', join(golden, 'kernels.yaml'), join(golden, 'collectives.yaml'), '--json', at('validation.json'), '--html', at('validate.html'));
  writeFileSync(at('grid.yaml'), 'models: [llama-3.1-8b]\nmachines: [h100-sxm-80gb, a100-sxm-80gb]\ngpus: [1, 8, 16]\nsequence_lengths: [4096]\nglobal_batches: [64]\n');
  run('sweep', at('grid.yaml'), '--out', at('sweep.json'), '--html', at('sweep.html'));
  report('trial', join(here, 'trial.json'));
  run('models', '--json', at('models.json'));
  report('models', at('models.json'));
  report('several', at('plan.json'), at('estimate.json'), at('validation.json'), at('sweep.json'), join(here, 'trial.json'));

  const plan = JSON.parse(readFileSync(at('plan.json'), 'utf8'));
  const hostile = structuredClone(plan);
  hostile.model = kHostile;
  hostile.plans[0].layout.schedule = kHostile;
  hostile.detail.estimate_command = kHostile;
  hostile.detail.timeline[0].device = kHostile;
  hostile.detail.kernels[0].kernel = kHostile;
  hostile.detail.tensors[0].tensor = kHostile;
  writeFileSync(at('hostile.json'), JSON.stringify(hostile));
  report('hostile', at('hostile.json'));
  const bare = { ...plan };
  delete bare.detail;
  writeFileSync(at('bare.json'), JSON.stringify(bare));
  report('bare', at('bare.json'));
  writeFileSync(at('other.json'), JSON.stringify({ schema: 'shardwright.validation/1', shardwright_version: '9', notes: ['of another version'] }));
  report('other', at('other.json'));
  run('plan', ...question, '--top', '10000', '--html', at('many.html'));

  const names = ['plan', 'nothing', 'estimate', 'explain', 'validate', 'sweep', 'trial', 'models', 'several', 'bare', 'other', 'hostile', 'many'];
  return Object.fromEntries(names.map((name) => [name, at(`${name}.html`)]));
}
