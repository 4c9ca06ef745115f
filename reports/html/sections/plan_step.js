// Where a step goes: what computes, what moves and is not hidden, what waits.
import { axis, chart } from '../chart.js';
import { degreesText } from '../layout.js';
import { section } from '../section.js';
import { colour, seriesColour } from '../theme.js';
import * as units from '../units.js';

const kMeanings = {
  gemm: 'matrix products',
  grouped_gemm: 'products of experts',
  attention: 'attention',
  memory: 'passes over memory: norms, activations, adds',
  overlap: 'what running beside communication adds',
  optimizer: 'the optimizer',
  host: 'waiting for the host',
  bubble: 'waiting for other stages',
};

/// As the text reports name parts.
const kNames = {
  gemm: 'matrix products',
  grouped_gemm: "experts' products",
  memory: 'memory passes',
  overlap: 'slower by overlap',
  'exposed tensor': 'exposed tp',
  'exposed context': 'exposed cp',
  'exposed expert': 'exposed ep',
  'exposed data': 'exposed dp',
  'exposed pipeline': 'exposed pp',
};
const nameOf = (part) => kNames[part] ?? part;

function meaning(part, meanings) {
  return (
    meanings[part] ??
    (part.startsWith('exposed ') ? `communication of ${part.slice(8)} parallelism that nothing hides` : '')
  );
}

/// Of files without `detail`.
function coarseParts(p) {
  return {
    compute: p.compute_seconds,
    communication: p.exposed_communication_seconds,
    optimizer: p.optimizer_seconds,
    host: p.host_seconds,
    bubble: p.bubble_seconds,
  };
}

/// Bars of parts ({ name: seconds }) that add up to `step`. `name`: of what they are parts; `meanings`: of each.
export function partsChart(title, parts, step, { name = 'seconds of a step', meanings = kMeanings } = {}) {
  const rows = Object.entries(parts)
    .filter(([, value]) => value !== undefined)
    .map(([part, value]) => ({ part, value }));
  const shown = rows.slice().reverse();
  return chart({
    title,
    height: 60 + 28 * rows.length,
    summary: rows.map((row) => `${nameOf(row.part)} ${units.seconds(row.value)}`).join(', '),
    option: (width) => ({
      legend: false,
      grid: { left: width < 500 ? 110 : 150, right: 64, top: 8, bottom: 44 },
      tooltip: {
        formatter: ({ dataIndex }) =>
          `${nameOf(shown[dataIndex].part)}: ${units.seconds(shown[dataIndex].value)}, ${units.percent(shown[dataIndex].value / step)}\n${meaning(shown[dataIndex].part, meanings)}`,
      },
      xAxis: axis({ type: 'value', name }),
      yAxis: axis({
        type: 'category',
        data: shown.map((row) => nameOf(row.part)),
        axisLabel: { color: colour('ink'), interval: 0 },
      }),
      series: [
        {
          type: 'bar',
          data: shown.map((row, i) => ({ value: row.value, itemStyle: { color: seriesColour(row.part, i) } })),
          label: {
            show: true,
            position: 'right',
            color: colour('ink'),
            formatter: ({ value }) => units.percent(value / step),
          },
        },
      ],
    }),
    data: {
      name: title,
      filter: false,
      rows,
      columns: [
        { title: 'part', value: (row) => nameOf(row.part), left: true },
        { title: 'seconds', value: (row) => row.value, text: (row) => units.seconds(row.value) },
        {
          title: 'share',
          value: (row) => row.value / step,
          text: (row) => units.percent(row.value / step),
        },
        { title: 'meaning', value: (row) => meaning(row.part, meanings), wide: true },
      ],
    },
  }).element;
}

function communicationChart(p) {
  const rows = Object.entries(p.communication ?? {}).map(([axisName, { seconds, exposed_seconds }]) => ({
    axis: axisName,
    seconds,
    exposed: exposed_seconds ?? 0,
    hidden: Math.max(0, seconds - (exposed_seconds ?? 0)),
  }));
  if (rows.length === 0) return null;
  const bar = (name, key, fill, pattern) => ({
    name,
    type: 'bar',
    stack: 'all',
    color: colour(fill),
    data: rows.map((row) => row[key]),
    itemStyle: pattern ? { opacity: 0.55 } : {},
  });
  return chart({
    title: 'Communication by parallelism',
    height: 100 + 36 * rows.length,
    summary: rows
      .map((row) => `${row.axis}: ${units.seconds(row.exposed)} exposed of ${units.seconds(row.seconds)}`)
      .join('; '),
    option: () => ({
      grid: { left: 84, right: 24, top: 34, bottom: 44 },
      tooltip: { trigger: 'axis', axisPointer: { type: 'shadow' }, valueFormatter: (value) => units.seconds(value) },
      xAxis: axis({ type: 'value', name: 'seconds of a step' }),
      yAxis: axis({ type: 'category', data: rows.map((row) => row.axis), inverse: true }),
      series: [bar('exposed', 'exposed', 'red'), bar('hidden behind compute', 'hidden', 'grey', true)],
    }),
    data: {
      name: 'communication',
      filter: false,
      rows,
      columns: [
        { title: 'parallelism', value: (row) => row.axis, left: true },
        { title: 'seconds', value: (row) => row.seconds, text: (row) => units.seconds(row.seconds) },
        { title: 'exposed seconds', value: (row) => row.exposed, text: (row) => units.seconds(row.exposed) },
        { title: 'hidden seconds', value: (row) => row.hidden, text: (row) => units.seconds(row.hidden) },
      ],
    },
  }).element;
}

function besideOthers(plans) {
  const rows = plans.filter((plan) => plan.predicted).slice(0, 10);
  if (rows.length < 2) return null;
  const names = Object.keys(coarseParts(rows[0].predicted));
  const label = (plan) => `#${plan.rank}`;
  return chart({
    title: 'The first ten beside each other',
    height: 110 + 26 * rows.length,
    summary: rows.map((plan) => `${label(plan)} ${units.seconds(plan.predicted.step_seconds)}`).join(', '),
    option: () => ({
      grid: { left: 48, right: 24, top: 52, bottom: 44 },
      tooltip: { trigger: 'axis', axisPointer: { type: 'shadow' }, valueFormatter: (value) => units.seconds(value) },
      xAxis: axis({ type: 'value', name: 'seconds of a step' }),
      yAxis: axis({ type: 'category', inverse: true, data: rows.map(label) }),
      series: names.map((name, i) => ({
        name,
        type: 'bar',
        stack: 'step',
        color: seriesColour(name, i),
        data: rows.map((plan) => coarseParts(plan.predicted)[name] ?? 0),
      })),
    }),
    data: {
      name: 'parts of the first ten',
      filter: false,
      rows: rows.map((plan) => ({ plan, parts: coarseParts(plan.predicted) })),
      columns: [
        { title: '#', value: ({ plan }) => plan.rank },
        { title: 'layout', value: ({ plan }) => degreesText(plan.layout), left: true },
        ...names.map((name) => ({
          title: `${name} seconds`,
          value: ({ parts }) => parts[name],
          text: ({ parts }) => units.seconds(parts[name]),
        })),
      ],
    },
  }).element;
}

export function stepSection(data) {
  const plan = data.plans[0];
  const p = plan?.predicted;
  if (!p) return null;
  const parts = data.detail?.step_seconds_by_part ?? coarseParts(p);
  const stage = data.detail && plan.layout.pp > 1 ? ` on stage ${data.detail.slowest_stage}, the slowest` : '';
  return section(
    'step',
    'Where a step goes',
    'The parts add up to the step. Compute is split by kind of kernel; communication counts here only where nothing computes beside it. The second chart has what is hidden, too.',
    partsChart(`A step${stage}`, parts, p.step_seconds),
    communicationChart(p),
    data.search && besideOthers(data.plans),
  );
}
