// The pages that the tests open: made by the program itself, from questions that it answers in a moment.
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const golden = join(here, '..', 'golden', 'validate-kernels');

/// What a name from a file must not do, in one name.
export const kHostile =
  '</script><script>window.harmed = 1</script><img src=x onerror="window.harmed = 1">\u2028\'"&amp; ${harm} {a|b}';

/// A model that is computed in a moment.
const kTiny = `num_hidden_layers: 2
hidden_size: 16
num_attention_heads: 4
num_key_value_heads: 2
head_dim: 6
intermediate_size: 20
vocab_size: 37
gated_mlp: true
tie_word_embeddings: false
position: rope
max_position_embeddings: 64
norm: rmsnorm
`;

/// { name: path } of every page; `program` is shardwright, `folder` is empty.
export function makePages(program, folder) {
  /// One command line, from inside the folder; `more`: words that may hold spaces.
  const run = (line, ...more) => {
    try {
      execFileSync(program, [...line.split(' '), ...more], {
        stdio: ['ignore', 'ignore', 'pipe'],
        cwd: folder,
        encoding: 'utf8',
      });
    } catch (error) {
      if (error.status !== 1) throw error; // 1: nothing fits, and the answer is written all the same
    }
  };
  const read = (name) => JSON.parse(readFileSync(join(folder, name), 'utf8'));
  const write = (name, text) => writeFileSync(join(folder, name), text);
  const trial = join(here, 'trial.json');

  const question = 'llama-3.1-8b h100-sxm-80gb --gpus 64 --sequence-length 4096 --global-batch 256';
  const money = '--tokens 1T --gpu-hour-price 2 --mtbf-hours 50676 --checkpoint-seconds 60';
  run(`plan ${question} --top 20 ${money} --unmeasured todo.txt --json plan.json --html plan.html`);
  run(`plan ${question} --top 10000 --json many.json --html many.html`);
  run(`estimate ${question} --layout tp=2,pp=4,vpp=2,micro_batch=1 --json estimate.json --html estimate.html`);
  run(`explain ${question} --layout tp=8,pp=2 --sensitivity --html explain.html`);

  const serving = 'llama-3.1-8b h100-sxm-80gb --gpus 4 --serve --isl 1024 --osl 128';
  run(`plan ${serving} --max-tpot 0.02 --json serving.json --html serving.html`);
  run(`estimate ${serving} --layout tp=2 --concurrency 16 --json served.json --html served.html`);
  run(`plan ${serving} --max-tpot 0.000001 --html unkept.html`);
  run('report serving.json served.json --out both.html');
  run(`explain ${serving} --layout tp=4 --against tp=2 --sensitivity --html explained.html --json explained.json`);
  run(`explain ${serving} --layout tp=1 --max-tpot 0.000001 --html unserved.html`);
  const loaded = read('serving.json');
  loaded.plans[0].under_load = { requests: 1000, overloaded: false, ttft_seconds: { p50: 0.1, p99: 0.4 } };
  write('load.json', JSON.stringify(loaded));
  run('report load.json --out load.html');

  const large = 'llama-3.1-405b h100-sxm-80gb --gpus 8 --sequence-length 4096';
  run(`plan ${large} --global-batch 8 --html nothing.html`);
  run(`estimate ${large} --global-batch 8 --layout tp=8 --html large.html`);
  run(`estimate ${large} --global-batch 3 --layout tp=1 --html impossible.html`);

  const rows = [join(golden, 'kernels.yaml'), join(golden, 'collectives.yaml')];
  run('validate --json validation.json --html validate.html', ...rows);
  const machines = '[h100-sxm-80gb, a100-sxm-80gb]';
  const lengths = 'sequence_lengths: [4096]\nglobal_batches: [64]';
  write('grid.yaml', `models: [llama-3.1-8b]\nmachines: ${machines}\ngpus: [1, 8, 16]\n${lengths}\n`);
  run('sweep grid.yaml --out sweep.json --html sweep.html');
  run('models --json models.json');
  run('report models.json --out models.html');
  run('report --out trial.html', trial);
  // Of ranks that really ran: with inference and what a calibration says, and one rank of four.
  write('tiny.yaml', kTiny);
  const small = 'tiny.yaml h100-sxm-80gb --precision fp32 --sequence-length 32 --global-batch 4';
  run(`estimate ${small} --gpus 2 --layout tp=2,micro_batch=1 --plan ranks.json`);
  run('run ranks.json --steps 2 --decode 4 --json ran.json');
  run(`estimate ${small} --gpus 4 --layout tp=2,pp=2,micro_batch=1 --plan four.json`);
  run('run four.json --rank-of-n 2/4 --json alone.json');
  const ran = read('ran.json');
  const layout_text = ran.plan.layout_text;
  ran.calibration = {
    written: true,
    families: [{ family: 'gemm', factor: 1.25, operators: 12, median_error_before: 0.2, median_error_after: 0.03 }],
    ranking: [{ layout_text, rank_before: 2, rank_after: 1, step_seconds_before: 0.5, step_seconds_after: 0.625 }],
  };
  write('ran.json', JSON.stringify(ran));
  run('report ran.json --out ran.html');
  run('report alone.json --out alone.html');
  run('report --out loop.html', join(here, 'loop_trial.json'));
  run('report plan.json estimate.json validation.json sweep.json --out several.html', trial);

  const plan = read('plan.json');
  const { detail, ...bare } = plan;
  write('bare.json', JSON.stringify(bare));
  run('report bare.json --out bare.html');
  writeFileSync(join(folder, 'two\nlines.json'), `\uFEFF${JSON.stringify(bare)}`);
  run('report --out lines.html', 'two\nlines.json');
  write('other.json', '{"schema":"shardwright.validation/1","notes":["of another version"]}');
  run('report other.json --out other.html');

  const hostile = structuredClone(plan);
  hostile.model = kHostile;
  hostile.plans[0].layout.schedule = kHostile;
  hostile.detail.estimate_command = kHostile;
  hostile.detail.timeline[0].device = kHostile;
  hostile.detail.kernels[0].kernel = kHostile;
  hostile.detail.tensors[0].tensor = kHostile;
  hostile.rejected[0].rejection.detail = kHostile;
  write('hostile.json', JSON.stringify(hostile));
  run('report hostile.json --out hostile.html');

  const pages = readdirSync(folder).filter((name) => name.endsWith('.html'));
  return Object.fromEntries(pages.map((name) => [name.replace('.html', ''), join(folder, name)]));
}
