// Several plans of one page beside each other.
import { axis, chart } from '../chart.js';
import { el } from '../dom.js';
import { degreesText } from '../layout.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour } from '../theme.js';
import * as units from '../units.js';
import { bySpeed, frontChart, servedColumns, servedText } from './serving.js';

const isServing = (file) => file.data.workload?.kind === 'serving';

function served(files) {
  if (files.length < 2) return null;
  const fronts = files
    .map((file) => ({ name: file.name, joined: true, plans: bySpeed(file.data.pareto ?? file.data.plans) }))
    .filter(({ plans }) => plans.length > 0);
  const rows = files.map((file) => ({ ...file.data.plans[0], file }));
  const link = ({ file }) => el('a', { href: `#${file.prefix}` }, file.name);
  return [
    fronts.length > 1 && frontChart(fronts),
    table({
      name: 'serving plans',
      filter: false,
      rows,
      columns: [
        { title: 'plan', value: (row) => row.file.name, text: link, left: true },
        { title: 'model', value: (row) => row.file.data.model, left: true },
        { title: 'machine', value: (row) => row.file.data.machine, left: true },
        { title: 'GPUs', value: (row) => row.file.data.gpus, text: (row) => units.count(row.file.data.gpus) },
        ...servedColumns,
        { title: 'layout', value: (row) => (row.layout ? servedText(row.layout) : 'nothing'), wide: true },
      ],
    }),
  ];
}

export function compareSection(files) {
  const ofPlans = files.filter((file) => file.data.plans);
  return section(
    'compare',
    'Side by side',
    'The first layout of each plan of this page. Where intervals overlap, only a run would tell which is faster; they share most of their error where model and machine are alike.',
    trained(ofPlans.filter((file) => !isServing(file))),
    served(ofPlans.filter(isServing)),
  );
}

function trained(files) {
  const rows = files.map((file) => ({ ...file, plan: file.data.plans[0], p: file.data.plans[0]?.predicted }));
  if (rows.length < 2) return null;
  const priced = rows.filter((row) => row.p);
  const figure =
    priced.length > 1 &&
    chart({
      title: 'Tokens/s of a GPU, with the 80 % interval of the step',
      height: 80 + 44 * priced.length,
      summary: priced.map((row) => `${row.name}: ${units.count(row.p.tokens_per_second_per_gpu)}`).join('; '),
      option: (width) => ({
        legend: false,
        grid: { left: width < 560 ? 110 : 220, right: 32, top: 12, bottom: 44 },
        tooltip: {
          trigger: 'axis',
          axisPointer: { type: 'shadow' },
          formatter: ([{ dataIndex }]) =>
            `${priced[dataIndex].name}\n${units.count(priced[dataIndex].p.tokens_per_second_per_gpu)} tokens/s of a GPU\n${units.seconds(priced[dataIndex].p.step_seconds)} a step`,
        },
        xAxis: axis({ type: 'value', name: 'tokens/s of a GPU' }),
        yAxis: axis({
          type: 'category',
          inverse: true,
          data: priced.map((row) => row.name),
          axisLabel: { color: colour('ink'), width: width < 560 ? 100 : 210, overflow: 'truncate', interval: 0 },
        }),
        series: [
          {
            type: 'bar',
            barMaxWidth: 22,
            color: colour('blue'),
            data: priced.map((row) => row.p.tokens_per_second_per_gpu),
          },
          {
            type: 'custom',
            z: 5,
            color: colour('ink'),
            encode: { x: [0, 1], y: 2 },
            renderItem: (params, api) => {
              const [a, y] = api.coord([api.value(0), api.value(2)]);
              const [b] = api.coord([api.value(1), api.value(2)]);
              return {
                type: 'rect',
                shape: { x: a, y: y - 1.5, width: Math.max(1, b - a), height: 3 },
                style: { fill: colour('ink') },
              };
            },
            data: priced.map((row, i) => {
              const at = (step) => (row.p.tokens_per_second_per_gpu * row.p.step_seconds) / step;
              return [at(row.p.step_seconds_high), at(row.p.step_seconds_low), i];
            }),
          },
        ],
      }),
    }).element;
  return [
    figure,
    table({
      name: 'plans',
      filter: false,
      rows,
      columns: [
        {
          title: 'plan',
          value: (row) => row.name,
          text: (row) => el('a', { href: `#${row.prefix}` }, row.name),
          left: true,
        },
        { title: 'model', value: (row) => row.data.model, left: true },
        { title: 'machine', value: (row) => row.data.machine, left: true },
        { title: 'GPUs', value: (row) => row.data.gpus, text: (row) => units.count(row.data.gpus) },
        { title: 'layout', value: (row) => (row.plan ? degreesText(row.plan.layout) : 'nothing fits'), wide: true },
        { title: 'step s', value: (row) => row.p?.step_seconds, text: (row) => units.number(row.p?.step_seconds, 4) },
        {
          title: 'tokens/s',
          value: (row) => row.p?.tokens_per_second,
          text: (row) => units.short(row.p?.tokens_per_second),
        },
        {
          title: 'tokens/s/GPU',
          value: (row) => row.p?.tokens_per_second_per_gpu,
          text: (row) => units.count(row.p?.tokens_per_second_per_gpu),
        },
        { title: 'MFU %', value: (row) => row.p?.mfu * 100, text: (row) => units.number(row.p?.mfu * 100) },
        {
          title: 'memory',
          value: (row) => row.p?.memory_reserved_bytes,
          text: (row) => units.gib(row.p?.memory_reserved_bytes),
        },
        {
          title: 'GPU-hours/T tokens',
          value: (row) => row.p?.gpu_hours_per_trillion_tokens,
          text: (row) => units.count(row.p?.gpu_hours_per_trillion_tokens),
        },
      ],
    }),
  ];
}
