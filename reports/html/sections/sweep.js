// The best plan of every point of a grid.
import { axis, chart } from '../chart.js';
import { definitions, el, replaceChildren, select } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { seriesColour } from '../theme.js';
import * as units from '../units.js';

const kPointKeys = ['model', 'machine', 'gpus', 'sequence_length', 'global_batch', 'precision', 'engine'];
const kMeasures = {
  tokens_per_second_per_gpu: 'tokens/s of a GPU',
  tokens_per_second: 'tokens/s',
  step_seconds: 'step, s',
  mfu: 'MFU',
  memory_reserved_bytes: 'reserved memory, bytes',
  gpu_hours_per_trillion_tokens: 'GPU-hours per trillion tokens',
  cost_per_trillion_tokens: 'price per trillion tokens',
  exposed_communication_seconds: 'exposed communication, s',
  bubble_seconds: 'bubble, s',
};

const columns = [
  ...kPointKeys.map((key) => ({
    title: key,
    value: (row) => row[key],
    left: typeof key === 'string' && !['gpus', 'sequence_length', 'global_batch'].includes(key),
  })),
  { title: 'fits', value: (row) => (row.fits ? 'yes' : 'no') },
  { title: 'step s', value: (row) => row.step_seconds, text: (row) => units.number(row.step_seconds, 4) },
  {
    title: 'from s',
    value: (row) => row.step_seconds_low,
    text: (row) => units.number(row.step_seconds_low),
    help: 'of the 80 % interval',
  },
  { title: 'to s', value: (row) => row.step_seconds_high, text: (row) => units.number(row.step_seconds_high) },
  { title: 'tokens/s', value: (row) => row.tokens_per_second, text: (row) => units.short(row.tokens_per_second) },
  {
    title: 'tokens/s/GPU',
    value: (row) => row.tokens_per_second_per_gpu,
    text: (row) => units.count(row.tokens_per_second_per_gpu),
  },
  { title: 'MFU', value: (row) => row.mfu, text: (row) => units.percent(row.mfu) },
  {
    title: 'memory GiB',
    value: (row) => (row.memory_reserved_bytes === undefined ? undefined : row.memory_reserved_bytes / 2 ** 30),
    text: (row) => units.number(row.memory_reserved_bytes / 2 ** 30),
  },
  {
    title: 'GPU-hours/T tokens',
    value: (row) => row.gpu_hours_per_trillion_tokens,
    text: (row) => units.count(row.gpu_hours_per_trillion_tokens),
  },
  {
    title: 'price/T tokens',
    value: (row) => row.cost_per_trillion_tokens,
    text: (row) => units.count(row.cost_per_trillion_tokens),
  },
  { title: 'layout', value: (row) => row.layout_text, wide: true },
  { title: 'why not', value: (row) => row.why_not, wide: true },
];

const distinct = (rows, key) => [...new Set(rows.map((row) => row[key]))];

/// A line for everything of a point but the axis.
function lines(rows, x) {
  const others = kPointKeys.filter((key) => key !== x && distinct(rows, key).length > 1);
  const groups = new Map();
  for (const row of rows) {
    const name =
      others
        .map((key) => (['model', 'machine', 'precision', 'engine'].includes(key) ? row[key] : `${key} ${row[key]}`))
        .join(', ') || 'all';
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  return [...groups];
}

function sweepChart(rows, x, y) {
  const groups = lines(
    rows.filter((row) => row[y] !== undefined),
    x,
  ).slice(0, 24);
  const values = distinct(rows, x);
  if (typeof values[0] === 'number') values.sort((a, b) => a - b);
  return chart({
    title: `${kMeasures[y]} by ${x}`,
    height: 400 + 16 * groups.length,
    summary: groups
      .map(([name, list]) => `${name}: ${list.map((row) => `${row[x]} ${units.number(row[y])}`).join(', ')}`)
      .join('; '),
    option: () => ({
      legend: { type: 'scroll', bottom: 0, top: 'auto', orient: 'vertical', height: 16 * groups.length + 8, left: 8 },
      grid: { left: 84, right: 28, top: 16, bottom: 60 + 16 * groups.length },
      tooltip: { formatter: ({ seriesName, name, value }) => `${seriesName}\n${x} ${name}: ${units.number(value, 4)}` },
      xAxis: axis({ type: 'category', name: x, data: values.map(String) }),
      yAxis: axis({
        type: 'value',
        name: kMeasures[y],
        nameGap: 62,
        axisLabel: { formatter: (value) => units.short(value) },
      }),
      series: groups.map(([name, list], i) => ({
        name,
        type: 'line',
        symbolSize: 8,
        color: seriesColour('', i),
        lineStyle: { type: i >= 8 ? 'dashed' : 'solid' },
        data: values.map((value) => list.find((row) => row[x] === value)?.[y] ?? null),
      })),
    }),
  }).element;
}

export function sweepSections(data) {
  const { rows } = data;
  const fitting = rows.filter((row) => row.fits);
  const varied = kPointKeys.filter((key) => distinct(rows, key).length > 1);
  let x = varied.includes('gpus') ? 'gpus' : (varied[0] ?? 'gpus');
  let y = 'tokens_per_second_per_gpu';
  const place = el('div');
  const show = () => replaceChildren(place, sweepChart(fitting, x, y));
  const known = Object.keys(kMeasures).filter((key) => fitting.some((row) => row[key] !== undefined));
  const xPicker = select(
    'Across',
    (varied.length > 0 ? varied : [x]).map((key) => [key, key]),
    (value) => {
      x = value;
      show();
    },
  );
  const yPicker = select(
    'Show',
    known.map((key) => [key, kMeasures[key]]),
    (value) => {
      y = value;
      show();
    },
  );
  xPicker.control.value = x;
  if (fitting.length > 0) {
    yPicker.control.value = y;
    show();
  }
  return [
    section(
      'points',
      'Sweep',
      'Each point has its own search; a line joins the points that differ in nothing but the axis below.',
      definitions([
        ['Points', units.count(rows.length)],
        ['With a plan', units.count(fitting.length)],
        ...varied.map((key) => [key, `${distinct(rows, key).length} values`]),
      ]),
      fitting.length > 0 && el('p', {}, xPicker.element, ' ', yPicker.element),
      fitting.length > 0 && place,
    ),
    section(
      'table',
      'Every point',
      'Columns that say the same in every row are left out until asked for.',
      table({ name: 'points', rows, columns, same: false }),
    ),
  ];
}
