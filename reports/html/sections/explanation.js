// Why a layout is what it is, beside another; what would turn it; what a better machine would do.
import { axis, chart } from '../chart.js';
import { definitions, el } from '../dom.js';
import { degreesText, layoutColumns, resultColumns } from '../layout.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour } from '../theme.js';
import * as units from '../units.js';
import { tensorTable } from './plan_memory.js';

const kStandings = {
  best: 'is the best of the question',
  tied: 'ties with the best: the error leaves the order open',
  slower: 'is slower than the best',
  too_large: 'does not fit',
  impossible: 'cannot be run',
};

/// The layout itself, the best unless it is that, and the one it was to be compared with.
export function compared(data) {
  const best = data.best?.layout_text === data.layout.layout_text ? undefined : data.best;
  return [
    ['this layout', data.layout],
    ['the best', best],
    ['against', data.against],
  ].filter(([, plan]) => plan);
}

function changeRows(list) {
  return list.map((change) => ({
    ...change,
    what: Object.entries(change.changed)
      .map(([key, { from, to }]) => `${key} ${from} → ${to}`)
      .join(', '),
  }));
}

function changesTable(title, list) {
  if (!list?.length) return null;
  return [
    el('h4', {}, title),
    table({
      name: title.toLowerCase(),
      filter: false,
      rows: changeRows(list),
      columns: [
        { title: 'change', value: (row) => row.what, wide: true },
        {
          title: 'turns it',
          value: (row) => (row.turns ? 'yes' : 'no'),
          help: 'it fits, or is as good as the best within errors',
        },
        { title: 'time', value: (row) => row.relative_cost, text: (row) => units.signedPercent(row.relative_cost) },
        {
          title: 'frees GiB',
          value: (row) => (row.freed_bytes === undefined ? undefined : row.freed_bytes / 2 ** 30),
          text: (row) => units.number(row.freed_bytes / 2 ** 30),
        },
        {
          title: 'step s',
          value: (row) => row.plan.predicted?.step_seconds,
          text: (row) => units.number(row.plan.predicted?.step_seconds, 4),
        },
        {
          title: 'memory GiB',
          value: (row) => row.plan.predicted?.memory_reserved_bytes / 2 ** 30,
          text: (row) => units.number(row.plan.predicted?.memory_reserved_bytes / 2 ** 30),
        },
      ],
    }),
  ];
}

/// Bars of parts of several layouts side by side. `shown`: [name, { part: seconds }, their sum]; `name`: the axis;
/// `words`: of a part.
export function partsBeside(title, shown, { name, words = (part) => part }) {
  if (shown.length === 0) return null;
  const parts = [...new Set(shown.flatMap(([, of]) => Object.keys(of)))];
  return chart({
    title,
    height: 100 + 24 * parts.length * Math.max(1, shown.length * 0.7),
    summary: shown.map(([layout, , sum]) => `${layout}: ${units.seconds(sum)}`).join('; '),
    option: () => ({
      grid: { left: 150, right: 24, top: 34, bottom: 44 },
      tooltip: { trigger: 'axis', axisPointer: { type: 'shadow' }, valueFormatter: (value) => units.seconds(value) },
      xAxis: axis({ type: 'value', name }),
      yAxis: axis({
        type: 'category',
        inverse: true,
        data: parts.map(words),
        axisLabel: { color: colour('ink'), interval: 0 },
      }),
      series: shown.map(([layout, of], i) => ({
        name: layout,
        type: 'bar',
        color: colour(['blue', 'teal', 'orange'][i]),
        data: parts.map((part) => of[part] ?? 0),
      })),
    }),
    data: {
      name: 'parts',
      filter: false,
      rows: parts,
      columns: [
        { title: 'part', value: words, left: true },
        ...shown.map(([layout, of]) => ({
          title: `${layout}, s`,
          value: (part) => of[part],
          text: (part) => units.seconds(of[part]),
        })),
      ],
    },
  }).element;
}

function beside(data) {
  const shown = compared(data).filter(([, e]) => e.step_seconds_by_part);
  return partsBeside(
    'Where the step goes',
    shown.map(([name, e]) => [name, e.step_seconds_by_part, e.predicted.step_seconds]),
    { name: 'seconds of a step' },
  );
}

function sensitivity(data) {
  if (!data.what_if?.length) return null;
  const now = data.layout.predicted?.step_seconds;
  const best = data.best?.predicted?.step_seconds;
  const rows = data.what_if.map((w) => ({
    ...w,
    same: w.same_layout?.fits ? w.same_layout.predicted?.step_seconds : undefined,
    optimum: w.best?.predicted?.step_seconds,
  }));
  const perToken = (row, seconds, of) =>
    seconds === undefined || of === undefined
      ? undefined
      : (row.name === 'batch_twice' ? seconds / 2 : seconds) / of - 1;
  return section(
    'sensitivity',
    'Sensitivity',
    'The question with one thing changed: what this layout gains, and what the best layout then is. Times are those of a token, so that another batch compares.',
    table({
      name: 'changes of the question',
      filter: false,
      rows,
      columns: [
        { title: 'with', value: (row) => row.meaning, wide: true },
        {
          title: 'this layout',
          value: (row) => perToken(row, row.same, now),
          text: (row) => units.signedPercent(perToken(row, row.same, now)),
          help: 'change of its time a token',
        },
        {
          title: 'the best',
          value: (row) => perToken(row, row.optimum, best),
          text: (row) => units.signedPercent(perToken(row, row.optimum, best)),
          help: 'change of the best time a token',
        },
        {
          title: 'best layout then',
          value: (row) => (row.best ? degreesText(row.best.layout) : 'nothing fits'),
          wide: true,
        },
        { title: 'step s', value: (row) => row.optimum, text: (row) => units.seconds(row.optimum) },
      ],
    }),
  );
}

export function explanationSections(data) {
  const plans = compared(data);
  const p = data.layout.predicted;
  return [
    section(
      'standing',
      'Standing',
      'What was asked about, beside the best layout of the same question.',
      el(
        'p',
        { class: `verdict ${['best', 'tied'].includes(data.standing) ? 'good' : 'bad'}` },
        `${data.model} on ${units.count(data.gpus)} × ${data.machine}: ${degreesText(data.layout.layout)} ${kStandings[data.standing] ?? data.standing}${p ? `; ${units.seconds(p.step_seconds)} a step` : ''}${data.layout.rejection ? ` (${data.layout.rejection.reason}: ${data.layout.rejection.detail})` : ''}.`,
      ),
      definitions([
        ['Engine', data.engine],
        ['Sequence', `${units.count(data.workload.sequence_length)} tokens`],
        ['Global batch', units.count(data.workload.global_batch)],
        ['Precision', data.layout.precision],
      ]),
      table({
        name: 'layouts compared',
        rows: plans.map(([name, plan]) => ({ name, plan })),
        columns: [{ title: 'which', value: (row) => row.name, left: true }, ...resultColumns, ...layoutColumns],
      }),
      el('p', { class: 'code' }, data.layout.layout_text),
    ),
    section('parts', 'Time, beside the best', 'The parts of the slowest stage add up to the step.', beside(data)),
    section(
      'changes',
      'What would turn it',
      'The smallest changes of keys that make it fit, or as fast as the best.',
      changesTable('One key', data.changes),
      changesTable('Two keys', data.pairs),
      changesTable('Nearest, none fits', data.nearest),
    ),
    sensitivity(data),
    data.operators?.length > 0 &&
      section(
        'operators',
        'Operators',
        'Of the slowest stage in one step, each call as if it had the GPU to itself.',
        table({
          name: 'operators',
          rows: data.operators,
          sort: ['seconds', true],
          page: 20,
          columns: [
            { title: 'operator', value: (row) => row.operator, left: true },
            { title: 'graph', value: (row) => row.graph, left: true },
            { title: 'pass', value: (row) => row.pass, left: true },
            { title: 'kind', value: (row) => row.family ?? `${row.traffic} communication`, left: true },
            { title: 'calls', value: (row) => row.calls, text: (row) => units.count(row.calls) },
            { title: 'seconds', value: (row) => row.seconds, text: (row) => units.seconds(row.seconds) },
          ],
        }),
      ),
    data.tensors?.length > 0 &&
      section('tensors', 'Tensors of the fullest stage', 'All copies on one GPU.', tensorTable(data.tensors)),
  ];
}
