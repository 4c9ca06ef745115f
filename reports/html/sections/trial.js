// A run of a plan: what was predicted beside what was measured.
import { axis, chart } from '../chart.js';
import { definitions, el } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour, seriesColour } from '../theme.js';
import * as units from '../units.js';

/// A value by the unit in its key's name.
export function byUnit(key, value) {
  if (typeof value !== 'number') return value === undefined ? units.unknown : String(value);
  if (/_seconds(_|$)/.test(key)) return units.seconds(value);
  if (/_bytes(_|$)/.test(key)) return units.bytes(value);
  if (/flops_per_second/.test(key)) return units.rate(value, 'FLOP/s');
  if (/(^|_)(mfu|share|error)$/.test(key)) return units.percent(value);
  return Number.isInteger(value) ? units.count(value) : units.number(value, 4);
}

const scalars = (object) => Object.entries(object ?? {}).filter(([, value]) => typeof value === 'number');

function pairs(predicted, measured) {
  const keys = [...new Set([...scalars(predicted), ...scalars(measured)].map(([key]) => key))];
  return keys.map((key) => ({ key, predicted: predicted?.[key], measured: measured?.[key] }));
}

export const relative = (row) =>
  row.measured > 0 && row.predicted !== undefined ? row.predicted / row.measured - 1 : undefined;
export const pairColumns = [
  { title: 'predicted', value: (row) => row.predicted, text: (row) => byUnit(row.key, row.predicted) },
  { title: 'measured', value: (row) => row.measured, text: (row) => byUnit(row.key, row.measured) },
  {
    title: 'error',
    value: relative,
    text: (row) => units.signedPercent(relative(row)),
    help: 'predicted / measured - 1',
  },
];

/// Bars of what was predicted beside what was measured; `rows`: { name, predicted, measured }.
export function besideChart(title, rows, axisName, text) {
  const known = rows.filter((row) => row.predicted !== undefined || row.measured !== undefined);
  if (known.length === 0) return null;
  const bar = (key) => ({
    name: key,
    type: 'bar',
    color: seriesColour(key),
    data: known.map((row) => row[key] ?? null),
  });
  return chart({
    title,
    height: 96 + 40 * known.length,
    summary: known
      .map((row) => `${row.name}: predicted ${text(row.predicted)}, measured ${text(row.measured)}`)
      .join('; '),
    option: (width) => ({
      grid: { left: width < 560 ? 110 : 170, right: 24, top: 34, bottom: 44 },
      tooltip: { trigger: 'axis', axisPointer: { type: 'shadow' }, valueFormatter: text },
      xAxis: axis({
        type: 'value',
        name: axisName,
        axisLabel: { color: colour('ink'), hideOverlap: true, formatter: text },
      }),
      yAxis: axis({
        type: 'category',
        inverse: true,
        data: known.map((row) => row.name),
        axisLabel: { color: colour('ink'), interval: 0, width: width < 560 ? 100 : 160, overflow: 'truncate' },
      }),
      series: [bar('predicted'), bar('measured')],
    }),
    data: {
      name: title.toLowerCase(),
      filter: false,
      rows: known.map((row) => ({ ...row, key: row.key ?? 'x_seconds' })),
      columns: [{ title: 'what', value: (row) => row.name, left: true }, ...pairColumns],
    },
  }).element;
}

const kStepParts = [
  ['step_seconds', 'step'],
  ['compute_seconds', 'compute'],
  ['exposed_communication_seconds', 'exposed communication'],
  ['bubble_seconds', 'bubble'],
  ['optimizer_seconds', 'optimizer'],
  ['host_seconds', 'between operators'],
];

function partsSection(data) {
  const rows = kStepParts.map(([key, name]) => ({
    name,
    predicted: data.predicted?.[key],
    measured: data.measured?.[key],
  }));
  return section(
    'parts',
    'Where a step goes',
    'The parts of a step of the watched stage, predicted and measured.',
    besideChart('A step and its parts', rows, 'seconds', units.seconds),
  );
}

function memorySection(data) {
  const predicted = data.predicted?.memory_per_stage ?? [];
  const measured = data.measured?.memory_per_stage ?? [];
  const rows = Array.from({ length: Math.max(predicted.length, measured.length) }, (_, i) => ({
    name: `stage ${i}`,
    key: 'x_bytes',
    predicted: predicted[i]?.allocated_bytes,
    measured: measured[i]?.allocated_bytes,
  }));
  return section(
    'memory',
    'Memory',
    'The most that tensors took of the fullest rank of each stage.',
    measured.length > 0 && besideChart('Allocated memory by stage', rows, 'bytes', units.bytes),
  );
}

/// Operators of one kind together: what is off by most.
function kindsSection(rows) {
  const kinds = new Map();
  for (const row of rows) {
    if (row.predicted === undefined || row.measured === undefined) continue;
    const name = `${row.kind ?? 'operators'}${row.pass ? `, ${row.pass}` : ''}`;
    const sum = kinds.get(name) ?? { name, predicted: 0, measured: 0 };
    sum.predicted += row.predicted;
    sum.measured += row.measured;
    kinds.set(name, sum);
  }
  return besideChart('Operators by kind and pass', [...kinds.values()], 'seconds of a step', units.seconds);
}

function operatorRows(data) {
  const list = data.operators ?? data.measured?.operators ?? [];
  return list.map((row) => ({
    ...row,
    key: 'x_seconds',
    predicted: row.predicted_seconds ?? row.predicted?.seconds,
    measured: row.measured_seconds ?? row.measured?.seconds,
    name: row.operator ?? row.name,
  }));
}

/// Points of what was predicted over what was measured; `what` names them: "operators".
export function againstChart(title, what, rows) {
  const known = rows.filter((row) => row.predicted > 0 && row.measured > 0);
  if (known.length < 2) return null;
  const all = known.flatMap((row) => [row.predicted, row.measured]);
  const [from, to] = [Math.min(...all) / 1.3, Math.max(...all) * 1.3];
  const log = (name, more) =>
    axis({
      type: 'log',
      name,
      min: from,
      max: to,
      axisLabel: { color: colour('ink'), hideOverlap: true, formatter: (value) => units.seconds(value) },
      ...more,
    });
  return chart({
    title,
    height: 400,
    summary: `${known.length} ${what}, predicted against measured.`,
    option: () => ({
      legend: false,
      grid: { left: 84, right: 24, top: 16, bottom: 52 },
      tooltip: {
        formatter: ({ data: { row } }) =>
          row ? `${row.name}\nmeasured ${units.seconds(row.measured)}, predicted ${units.seconds(row.predicted)}` : '',
      },
      xAxis: log('measured'),
      yAxis: log('predicted', { nameGap: 64 }),
      series: [
        {
          type: 'line',
          silent: true,
          symbol: 'none',
          color: colour('quiet'),
          data: [
            [from, from],
            [to, to],
          ],
        },
        {
          type: 'scatter',
          symbolSize: 8,
          color: colour('blue'),
          data: known.map((row) => ({ value: [row.measured, row.predicted], row })),
        },
      ],
    }),
  }).element;
}

function roundsPart(rounds, predicted) {
  if (!rounds?.length) return null;
  return [
    chart({
      title: 'Steps of each round',
      height: 260,
      summary: rounds
        .map((r, i) => `round ${i + 1}: ${r.void ? `void, ${r.reason}` : units.seconds(r.step_seconds)}`)
        .join('; '),
      option: () => ({
        legend: false,
        grid: { left: 76, right: 24, top: 16, bottom: 48 },
        tooltip: { trigger: 'axis', valueFormatter: (value) => units.seconds(value) },
        xAxis: axis({ type: 'category', name: 'round', data: rounds.map((_, i) => String(i + 1)) }),
        yAxis: axis({
          type: 'value',
          name: 'step',
          nameGap: 58,
          axisLabel: { color: colour('ink'), formatter: (value) => units.seconds(value) },
        }),
        series: [
          {
            type: 'bar',
            barMaxWidth: 48,
            data: rounds.map((r) => ({
              value: r.step_seconds,
              itemStyle: { color: colour(r.void ? 'grey' : 'blue') },
            })),
            markLine:
              predicted === undefined
                ? undefined
                : {
                    silent: true,
                    symbol: 'none',
                    label: { formatter: 'predicted', position: 'insideEndTop', color: colour('ink') },
                    lineStyle: { color: colour('red') },
                    data: [{ yAxis: predicted }],
                  },
          },
        ],
      }),
    }).element,
    table({
      name: 'rounds',
      filter: false,
      rows: rounds.map((r, i) => ({ ...r, i })),
      columns: [
        { title: 'round', value: (r) => r.i + 1 },
        { title: 'counts', value: (r) => (r.void ? 'no' : 'yes') },
        { title: 'why not', value: (r) => r.reason, left: true },
        { title: 'step', value: (r) => r.step_seconds, text: (r) => units.seconds(r.step_seconds) },
      ],
    }),
  ];
}

export function trialSections(data) {
  const rows = pairs(data.predicted, data.measured);
  const step = rows.find((row) => row.key === 'step_seconds');
  const operators = operatorRows(data);
  const verdict =
    step?.measured > 0 && step.predicted > 0
      ? `Measured ${units.seconds(step.measured)} a step, predicted ${units.seconds(step.predicted)}: ${units.signedPercent(relative(step))}.`
      : data.rounds?.length > 0 && data.rounds.every((round) => round.void)
        ? `No step counts: all ${data.rounds.length} rounds are void, the first because ${data.rounds[0].reason}.`
        : 'No step was measured.';
  const plain = (object) =>
    Object.entries(object ?? {})
      .filter(([, value]) => typeof value !== 'object')
      .map(([key, value]) => [key.replaceAll('_', ' '), byUnit(key, value)]);
  return [
    section(
      'verdict',
      'Is it true?',
      'The same quantities, predicted before the run and measured in it.',
      el('p', { class: `verdict ${step?.measured > 0 && data.equality?.equal !== false ? 'good' : 'bad'}` }, verdict),
      data.plan?.layout_text && el('p', { class: 'code' }, data.plan.layout_text),
      definitions([
        ['Model', data.plan?.model ?? data.model],
        ['Machine', data.plan?.machine ?? data.machine],
        ['Ranks', data.plan?.gpus],
        ...plain(data.conditions),
        ...plain(data.equality).map(([key, value]) => [`equality, ${key}`, value]),
      ]),
    ),
    partsSection(data),
    memorySection(data),
    section(
      'measured',
      'Predicted and measured',
      'The error is predicted / measured - 1.',
      rows.length > 0 &&
        table({
          name: 'quantities',
          filter: false,
          rows,
          columns: [{ title: 'quantity', value: (row) => row.key, left: true }, ...pairColumns],
        }),
    ),
    section(
      'rounds',
      'Rounds',
      'A round is void where the machine was disturbed; it does not count.',
      roundsPart(data.rounds, step?.predicted),
    ),
    section(
      'operators',
      'Operators',
      'On the line a prediction is right.',
      operators.length > 0 && [
        kindsSection(operators),
        againstChart('Operators', 'operators', operators),
        table({
          name: 'operators',
          rows: operators,
          page: 20,
          sort: ['measured', true],
          columns: [
            { title: 'operator', value: (row) => row.name, left: true },
            { title: 'graph', value: (row) => row.graph, left: true },
            { title: 'pass', value: (row) => row.pass, left: true },
            ...pairColumns,
          ],
        }),
      ],
    ),
  ];
}
