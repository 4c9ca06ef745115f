// The first layout in questions with one thing changed.
import { axis, chart } from '../chart.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour } from '../theme.js';
import * as units from '../units.js';

/// `rows`: { meaning, change, note: a line of the tooltip }; `columns`: what else the table says.
function changesSection(how, rows, columns) {
  const figure = chart({
    title: 'Tokens/s of a GPU, changed by',
    height: 70 + 44 * rows.length,
    summary: rows.map((row) => `${row.meaning}: ${row.note}`).join('; '),
    option: (width) => ({
      legend: false,
      grid: { left: width < 560 ? 130 : 240, right: 64, top: 8, bottom: 44 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) => `${rows[dataIndex].meaning}\n${rows[dataIndex].note}`,
      },
      xAxis: axis({
        type: 'value',
        name: 'change of tokens/s of a GPU',
        axisLabel: { color: colour('ink'), hideOverlap: true, formatter: (value) => units.signedPercent(value) },
      }),
      yAxis: axis({
        type: 'category',
        inverse: true,
        data: rows.map((row) => row.meaning),
        axisLabel: {
          color: colour('ink'),
          interval: 0,
          width: width < 560 ? 120 : 230,
          overflow: 'break',
          lineHeight: 15,
        },
      }),
      series: [
        {
          type: 'bar',
          barMaxWidth: 22,
          color: colour('teal'),
          data: rows.map((row) => row.change ?? null),
          label: {
            show: true,
            position: 'right',
            color: colour('ink'),
            formatter: ({ value }) => units.signedPercent(value),
          },
        },
      ],
    }),
    data: {
      name: 'changes of the question',
      filter: false,
      rows,
      columns: [
        { title: 'with', value: (row) => row.meaning, wide: true },
        { title: 'tokens/s/GPU', value: (row) => row.change, text: (row) => units.signedPercent(row.change) },
        ...columns,
      ],
    },
  });
  return section('sensitivity', 'Sensitivity', how, figure.element);
}

export function sensitivitySection(data) {
  const list = data.detail?.what_if;
  const now = data.plans[0]?.predicted?.tokens_per_second_per_gpu;
  if (!list?.length || now === undefined) return null;
  return changesSection(
    'Exactly this layout, with one thing of the question changed. Another layout may then be the best: the command explain searches for it, with --sensitivity.',
    list.map((w) => {
      const change = w.tokens_per_second_per_gpu / now - 1;
      return { ...w, change, note: `${units.signedPercent(change)}, a step of ${units.seconds(w.step_seconds)}` };
    }),
    [
      { title: 'step', value: (row) => row.step_seconds, text: (row) => units.seconds(row.step_seconds) },
      {
        title: 'memory',
        value: (row) => row.memory_reserved_bytes,
        text: (row) => units.gib(row.memory_reserved_bytes),
      },
      { title: 'fits', value: (row) => (row.fits ? 'yes' : 'no') },
    ],
  );
}

/// Of a served `plan`: at the load that is then the best. `list`: what_if of its file.
export function servedSensitivitySection(list, plan) {
  const now = plan?.predicted?.output_tokens_per_second_per_gpu;
  if (!list?.length || now === undefined) return null;
  const ofLatency = (title, key) => ({ title, value: (row) => row[key], text: (row) => units.seconds(row[key]) });
  const rows = list.map((w) => {
    const change = w.answers ? w.output_tokens_per_second_per_gpu / now - 1 : undefined;
    const note = w.answers
      ? `${units.signedPercent(change)}, TTFT ${units.seconds(w.ttft_seconds)}, TPOT ${units.seconds(w.tpot_seconds)}`
      : 'nothing that fits and keeps what is promised';
    return { ...w, change, note };
  });
  return changesSection(
    'Exactly this layout, with one thing of the question changed, at the load that then is the best for it. Another layout may do better.',
    rows,
    [
      ofLatency('TTFT', 'ttft_seconds'),
      ofLatency('TPOT', 'tpot_seconds'),
      { title: 'in flight', value: (row) => row.concurrency, text: (row) => units.count(row.concurrency) },
      { title: 'promises', value: (row) => (row.keeps_goals ? 'kept' : 'broken') },
    ],
  );
}
