// What fills the GPUs of each stage, against what they have.
import { axis, chart } from '../chart.js';
import { el, replaceChildren, select } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour, seriesColour } from '../theme.js';
import * as units from '../units.js';

const kGib = 2 ** 30;

const tensorColumns = [
  { title: 'tensor', value: (row) => row.tensor, wide: true },
  { title: 'part', value: (row) => row.part, left: true },
  { title: 'GiB', value: (row) => row.bytes / kGib, text: (row) => units.number(row.bytes / kGib), help: 'all copies' },
  {
    title: 'copies',
    value: (row) => row.copies,
    text: (row) => units.count(row.copies),
    help: 'layers × micro-batches in flight',
  },
];

export function tensorTable(rows, name = 'tensors') {
  return table({ name, columns: tensorColumns, rows, sort: ['GiB', true], page: 15 });
}

export function memorySection(data) {
  const plan = data.plans[0];
  const stages = plan?.predicted?.memory_per_stage;
  if (!stages) return null;
  const parts = [...Object.keys(stages[0].parts), 'rounding'];
  const of = (stage, part) => (part === 'rounding' ? stage.reserved_bytes - stage.allocated_bytes : stage.parts[part]);
  const usable = data.detail?.machine.usable_memory_bytes;
  const tensors = data.detail?.tensors;
  const list = el('div');
  const show = (stage) =>
    replaceChildren(
      list,
      tensorTable(
        tensors.filter((row) => row.stage === stage),
        `tensors of stage ${stage}`,
      ),
    );
  const worst = plan.predicted.memory_worst_stage;
  const picker =
    tensors &&
    select(
      'Tensors of stage',
      stages.map((_, i) => [String(i), i === worst ? `${i}, the fullest` : String(i)]),
      (value) => show(Number(value)),
    );
  const pick = (stage) => {
    picker.control.value = String(stage);
    show(stage);
  };
  if (tensors) pick(worst);
  const figure = chart({
    title: 'Memory of a GPU by stage',
    height: 360,
    summary: `Stage ${worst} is fullest: ${units.gib(stages[worst].reserved_bytes)} reserved${usable ? ` of ${units.gib(usable)} usable` : ''}.`,
    onPoint: ({ dataIndex }) => tensors && pick(dataIndex),
    option: (width) => ({
      grid: { left: 56, right: 24, top: width < 560 ? 84 : 60, bottom: 48 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        valueFormatter: (value) => `${value.toFixed(2)} GiB`,
      },
      xAxis: axis({ type: 'category', name: 'pipeline stage', data: stages.map((_, i) => String(i)) }),
      yAxis: axis({
        type: 'value',
        name: 'GiB',
        nameGap: 40,
        max: ({ max }) => Math.ceil((Math.max(max, (usable ?? 0) / kGib) * 1.05) / 20) * 20,
      }),
      series: parts.map((part, i) => ({
        name: part,
        type: 'bar',
        stack: 'memory',
        barMaxWidth: 60,
        color: seriesColour(part, i),
        data: stages.map((stage) => of(stage, part) / kGib),
        markLine:
          i === 0 && usable
            ? {
                silent: true,
                symbol: 'none',
                lineStyle: { color: colour('red'), width: 2 },
                label: { position: 'insideEndTop', color: colour('ink'), formatter: `usable: ${units.gib(usable)}` },
                data: [{ yAxis: usable / kGib }],
              }
            : undefined,
      })),
    }),
    data: {
      name: 'memory by stage',
      filter: false,
      rows: stages.map((stage, i) => ({ stage, i })),
      columns: [
        { title: 'stage', value: ({ i }) => i },
        ...parts.map((part) => ({
          title: `${part} GiB`,
          value: ({ stage }) => of(stage, part) / kGib,
          text: ({ stage }) => units.number(of(stage, part) / kGib),
        })),
        {
          title: 'allocated GiB',
          value: ({ stage }) => stage.allocated_bytes / kGib,
          text: ({ stage }) => units.number(stage.allocated_bytes / kGib),
        },
        {
          title: 'reserved GiB',
          value: ({ stage }) => stage.reserved_bytes / kGib,
          text: ({ stage }) => units.number(stage.reserved_bytes / kGib),
        },
        { title: 'layers', value: ({ i }) => plan.layout.layers_per_stage?.[i] },
      ],
    },
  });
  const low = plan.predicted.memory_reserved_bytes_low;
  return section(
    'memory',
    'Memory',
    `A stack is what one GPU of that stage holds at its fullest moment; the line is what tensors can have. ${tensors ? 'Choose a stage, or click its stack, for the tensors behind it.' : ''}`,
    figure.element,
    low !== undefined &&
      el(
        'p',
        { class: 'quiet' },
        `The peak of the fullest stage is within ${units.gib(low)} to ${units.gib(plan.predicted.memory_reserved_bytes_high)} in 80 % of cases.`,
      ),
    tensors && el('p', {}, picker.element),
    tensors && list,
  );
}
