// What profiler/trial found: rounds on models that were never measured, and layouts of one model in their order.
import { definitions, el } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import * as units from '../units.js';
import { againstChart, besideChart, byUnit, pairColumns } from './trial.js';

const rowsOf = (list) =>
  list.map((round) => ({
    ...round,
    key: 'step_seconds',
    predicted: round.predicted_seconds ?? undefined,
    measured: round.measured_seconds ?? undefined, // null where every step was void
  }));

const roundColumns = [
  { title: 'round', value: (row) => row.name, left: true },
  { title: 'layout', value: (row) => row.layout, wide: true },
  { title: 'tokens', value: (row) => row.sequence_length, help: 'of a sequence' },
  { title: 'sequences', value: (row) => row.global_batch, help: 'of a step' },
  ...pairColumns,
  { title: 'from', value: (row) => row.low_seconds, text: (row) => units.seconds(row.low_seconds) },
  { title: 'to', value: (row) => row.high_seconds, text: (row) => units.seconds(row.high_seconds) },
  { title: 'void', value: (row) => row.void_steps, text: (row) => `${row.void_steps} of ${row.steps}` },
  { title: 'load', value: (row) => row.load, help: "the machine's load average after it" },
];

const tauText = (tau) => (typeof tau === 'number' ? tau.toFixed(2) : 'unknown');

function verdictSection({ summary, conditions }) {
  const good = 2 * summary.within_10_percent > summary.not_void;
  return section(
    'verdict',
    'Is it true?',
    "Steps were predicted before they were run, from kernels measured on sizes of their own: no model below was ever profiled. Kendall's tau of a ranking is 1 where every two layouts are in the right order, 0 where it is no better than chance.",
    el(
      'p',
      { class: `verdict ${good ? 'good' : 'bad'}` },
      `${summary.within_10_percent} of ${summary.not_void} rounds are within 10 %; ${summary.ranked_layouts} layouts of one model are ranked with a Kendall tau of ${tauText(summary.kendall_tau)}.`,
    ),
    definitions([
      ['Rounds', units.count(summary.rounds)],
      ['Measured', units.count(summary.not_void)],
      ['Within 10 %', units.count(summary.within_10_percent)],
      ['Median error', units.percent(summary.median_error)],
      ['Layouts ranked', units.count(summary.ranked_layouts)],
      ["Kendall's tau", tauText(summary.kendall_tau)],
      ...Object.entries(conditions)
        .filter(([key, value]) => typeof value !== 'object' && key !== 'machine_yaml')
        .map(([key, value]) => [key.replaceAll('_', ' '), byUnit(key, value)]),
    ]),
  );
}

/// Pairs of layouts, and how many of them are predicted the wrong way round.
function pairsOf(rows) {
  let pairs = 0;
  let wrong = 0;
  for (let a = 0; a < rows.length; ++a)
    for (let b = 0; b < a; ++b) {
      pairs += 1;
      if ((rows[a].predicted - rows[b].predicted) * (rows[a].measured - rows[b].measured) < 0) wrong += 1;
    }
  return { pairs, wrong };
}

function rankingSection(data) {
  const all = rowsOf(data.ranked);
  const measured = all.filter((row) => row.measured !== undefined).sort((a, b) => a.measured - b.measured);
  const byPrediction = measured.slice().sort((a, b) => a.predicted - b.predicted);
  const rows = measured.map((row, i) => ({ ...row, place: i + 1, foretold: byPrediction.indexOf(row) + 1 }));
  const { pairs, wrong } = pairsOf(measured);
  return section(
    'ranking',
    'Layouts of one model',
    'Fastest first, as measured. A good ranking grows from top to bottom in both colours.',
    besideChart(
      'Steps of each layout',
      rows.map((row) => ({ ...row, name: row.name.replace('ranked-', 'layout ') })),
      'seconds of a step',
      units.seconds,
    ),
    definitions([
      ['Pairs of layouts', units.count(pairs)],
      ['In the wrong order', units.count(wrong)],
      ['Of them void', all.length > rows.length && units.count(all.length - rows.length)],
    ]),
    table({
      name: 'ranked layouts',
      filter: false,
      rows,
      columns: [
        { title: 'measured place', value: (row) => row.place },
        { title: 'predicted place', value: (row) => row.foretold },
        ...roundColumns,
      ],
    }),
  );
}

export function loopTrialSections(data) {
  const rows = rowsOf(data.rounds);
  return [
    verdictSection(data),
    section(
      'rounds',
      'Rounds',
      'Each is another model and layout, drawn by the seed. On the line a prediction is right; the error is predicted / measured - 1; a round of which every step was disturbed is void.',
      againstChart('Steps', 'rounds', rows),
      besideChart('Steps of each round', rows, 'seconds of a step', units.seconds),
      table({ name: 'rounds', rows, columns: roundColumns }),
    ),
    rankingSection(data),
    section(
      'machine',
      'The machine',
      'As it was described to the planner; its tables were measured by the general grid.',
      data.conditions.machine_yaml && el('pre', { tabindex: 0 }, data.conditions.machine_yaml),
    ),
  ];
}
