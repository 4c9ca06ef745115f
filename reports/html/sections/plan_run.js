// What a whole run takes, and how to ask again.
import { axis, chart } from '../chart.js';
import { button, definitions, el } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour } from '../theme.js';
import * as units from '../units.js';

function triedTable(tried) {
  return table({
    name: 'numbers of GPUs',
    filter: false,
    rows: tried,
    columns: [
      { title: 'GPUs', value: (row) => row.gpus, text: (row) => units.count(row.gpus) },
      { title: 'fits', value: (row) => (row.fits ? 'yes' : 'no') },
      { title: 'reaches the goal', value: (row) => (row.reaches ? 'yes' : 'no') },
      { title: 'step s', value: (row) => row.step_seconds, text: (row) => units.seconds(row.step_seconds) },
      { title: 'run', value: (row) => row.seconds, text: (row) => units.duration(row.seconds) },
      { title: 'GPU-hours', value: (row) => row.gpu_hours, text: (row) => units.count(row.gpu_hours) },
      { title: 'price', value: (row) => row.price, text: (row) => units.count(row.price) },
    ],
  });
}

function triedChart(tried) {
  const rows = tried.filter((row) => row.seconds !== undefined);
  if (rows.length < 2) return null;
  return chart({
    title: 'Days of the run by number of GPUs',
    height: 260,
    summary: rows.map((row) => `${row.gpus} GPUs: ${units.duration(row.seconds)}`).join('; '),
    option: () => ({
      legend: false,
      grid: { left: 56, right: 24, top: 16, bottom: 48 },
      tooltip: { trigger: 'axis', valueFormatter: (value) => `${units.number(value)} days` },
      xAxis: axis({ type: 'category', name: 'GPUs', data: rows.map((row) => units.count(row.gpus)) }),
      yAxis: axis({ type: 'value', name: 'days', nameGap: 40 }),
      series: [{ type: 'bar', barMaxWidth: 60, color: colour('blue'), data: rows.map((row) => row.seconds / 86400) }],
    }),
  }).element;
}

export function runSection(data) {
  const run = data.run;
  if (!run && !data.gpus_tried) return null;
  const failures = run?.failures;
  return section(
    'run',
    'The whole run',
    'Steps of the first layout, one after the other, with failures and checkpoints where they were asked for.',
    run &&
      definitions([
        ['Tokens', units.short(run.tokens)],
        ['Steps', units.count(run.steps)],
        ['Takes', units.duration(run.seconds)],
        ['Without failures', failures && units.duration(run.undisturbed_seconds)],
        ['GPU-hours', units.count(run.gpu_hours)],
        ['Price', run.price && units.count(run.price)],
        ['Experiments', run.experiments],
        ['Price of all', run.all_price && units.count(run.all_price)],
        ['Failures expected', failures && units.number(failures.expected)],
        ['Between failures', failures && units.duration(failures.mtbf_seconds)],
        ['A checkpoint every', failures && units.duration(failures.checkpoint_interval_seconds)],
        ['Time that is progress', failures && units.percent(failures.share_of_progress)],
      ]),
    data.gpus_tried && triedChart(data.gpus_tried),
    data.gpus_tried && triedTable(data.gpus_tried),
  );
}

function command(text) {
  const said = el('span', { role: 'status', class: 'quiet' });
  const copy = button('Copy', () =>
    navigator.clipboard.writeText(text).then(
      () => {
        said.textContent = 'copied';
      },
      () => {
        said.textContent = 'select it and copy';
      },
    ),
  );
  return el('div', { class: 'command' }, el('pre', { tabindex: 0 }, text), copy, ' ', said);
}

export function servedCommandsSection(data) {
  const again = data.detail?.command;
  if (!again) return null;
  return section(
    'commands',
    'How to run it',
    data.plans[0].layout.serving === 'disaggregated'
      ? 'This asks the question again: an estimate has one layout, and pools have two.'
      : 'This prices exactly this layout again, with as many requests in flight.',
    command(again),
  );
}

export function commandsSection(data) {
  const estimate = data.detail?.estimate_command;
  if (!estimate) return null;
  return section(
    'commands',
    'How to run it',
    "The layout is written with the names of Megatron-Core's options; the first line prices exactly this layout again, the second says what would turn it, and what a faster network would do.",
    command(estimate),
    command(estimate.replace(/^shardwright estimate/, 'shardwright explain') + ' --sensitivity'),
  );
}
