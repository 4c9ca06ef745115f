// Predictions against published measurements.
import { axis, chart } from '../chart.js';
import { checkbox, definitions, el, replaceChildren, select } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour } from '../theme.js';
import * as units from '../units.js';

/// Of kernels and collectives the error is that of the time.
const errorOf = (row) => row.time_error ?? row.relative_error;
/// As planner/validate/validation_summary.h: suspect rows and those of trust C are carried, not scored.
const isScored = (row) => !row.suspect && row.trust !== 'C';
const compared = (row) => row.measured > 0 && row.predicted > 0 && row.metric !== 'oom';

function summaryRows(data) {
  const rows = [];
  const add = (source, summary) => {
    for (const [kind, metrics] of Object.entries(summary ?? {})) {
      for (const [metric, error] of Object.entries(metrics)) rows.push({ source, kind, metric, ...error });
    }
  };
  add('all', data.summary);
  for (const [source, summary] of Object.entries(data.summary_by_source ?? {})) add(source, summary);
  for (const [span, summary] of Object.entries(data.summary_by_span ?? {})) add(span, summary);
  return rows;
}

const errorColumns = [
  { title: 'source', value: (row) => row.source, left: true },
  { title: 'kind', value: (row) => row.kind, left: true },
  { title: 'metric', value: (row) => row.metric, left: true },
  { title: 'n', value: (row) => row.n },
  {
    title: 'mean',
    value: (row) => row.mean_absolute,
    text: (row) => units.percent(row.mean_absolute),
    help: 'absolute',
  },
  {
    title: 'median',
    value: (row) => row.median_absolute,
    text: (row) => units.percent(row.median_absolute),
    help: 'absolute',
  },
  {
    title: '90th',
    value: (row) => row.p90_absolute,
    text: (row) => units.percent(row.p90_absolute),
    help: 'nine in ten are less off',
  },
  { title: 'signed median', value: (row) => row.signed_median, text: (row) => units.signedPercent(row.signed_median) },
  {
    title: 'in interval',
    value: (row) => row.in_interval,
    text: (row) => units.percent(row.in_interval, 0),
    help: 'of the 80 % intervals, those that hold what was measured',
  },
];

const rowColumns = [
  { title: 'id', value: (row) => row.id, wide: true },
  { title: 'source', value: (row) => row.source, left: true },
  { title: 'metric', value: (row) => row.metric, left: true },
  { title: 'measured', value: (row) => row.measured, text: (row) => units.number(row.measured, 4) },
  { title: 'predicted', value: (row) => row.predicted, text: (row) => units.number(row.predicted, 4) },
  {
    title: 'error',
    value: errorOf,
    text: (row) => units.signedPercent(errorOf(row)),
    help: 'predicted / measured - 1; of kernels and collectives that of the time',
  },
  {
    title: 'absolute error',
    value: (row) => (errorOf(row) === undefined ? undefined : Math.abs(errorOf(row))),
    text: (row) => units.percent(Math.abs(errorOf(row))),
  },
  {
    title: 'in interval',
    value: (row) =>
      row.predicted_low === undefined
        ? undefined
        : row.measured >= row.predicted_low && row.measured <= row.predicted_high
          ? 'yes'
          : 'no',
  },
  { title: 'trust', value: (row) => row.trust },
  { title: 'suspect', value: (row) => (row.suspect ? 'yes' : 'no') },
  { title: 'engine', value: (row) => row.engine, left: true },
  { title: 'layout', value: (row) => row.layout, wide: true },
];

function headline(data) {
  const ids = new Set(data.rows.map((row) => row.id));
  const steps = Object.entries(data.intervals ?? {});
  const oom = data.out_of_memory ?? {};
  const ran = (oom.true_negative ?? 0) + (oom.false_positive ?? 0);
  const out = (oom.true_positive ?? 0) + (oom.false_negative ?? 0);
  return section(
    'summary',
    'Summary',
    'Errors are predicted / measured - 1. Suspect rows and those of trust C are shown, but not scored.',
    definitions([
      ['Rows predicted', units.count(ids.size)],
      ['Published numbers', units.count(data.rows.length)],
      ['Rows skipped', units.count(data.skipped?.length)],
      ...steps.map(([kind, interval]) => [
        `80 % intervals that hold, ${kind}`,
        `${units.count(interval.held)} of ${units.count(interval.n)} (${units.percent(interval.share)})`,
      ]),
      [
        'Kendall tau in families',
        data.ranking && `${units.number(data.ranking.kendall_tau_mean)} over ${data.ranking.families}`,
      ],
      [
        'Slower than the best measured',
        data.ranking && `the predicted best is ${units.percent(data.ranking.top_regret_mean)}`,
      ],
      ['Ran out of memory, predicted so', out > 0 && `${oom.true_positive} of ${out} (${units.percent(oom.recall)})`],
      [
        'Ran, predicted to run out',
        ran > 0 && `${oom.false_positive} of ${units.count(ran)} (${units.percent(oom.false_alarm_rate)})`,
      ],
    ]),
  );
}

function scatter(rows, metric) {
  const sources = [...new Set(rows.map((row) => row.source))];
  const all = rows.flatMap((row) => [row.measured, row.predicted]);
  const from = Math.min(...all) / 1.2;
  const to = Math.max(...all) * 1.2;
  const logBase = to / from < 1000 ? 2 : 10; // so that a short axis has marks, too
  const line = (factor) => [
    [from, from * factor],
    [to, to * factor],
  ];
  const within = rows.filter((row) => Math.abs(errorOf(row)) <= 0.1).length;
  const reference = (name, factor, type) => ({
    name,
    type: 'line',
    silent: true,
    symbol: 'none',
    color: colour('quiet'),
    lineStyle: { type, width: 1 },
    data: line(factor),
    tooltip: { show: false },
  });
  return chart({
    title: `Predicted against measured: ${metric}`,
    height: 460,
    summary: `${rows.length} numbers of ${sources.length} sources; ${within} of them within 10 % of what was measured.`,
    option: () => ({
      legend: { data: ['equal', '10 % off'] },
      grid: { left: 76, right: 24, top: 36, bottom: 52 },
      tooltip: {
        formatter: ({ data: { row } }) =>
          row
            ? `${row.id}\n${row.source}, trust ${row.trust}\nmeasured ${units.number(row.measured, 4)}, predicted ${units.number(row.predicted, 4)}: ${units.signedPercent(errorOf(row))}`
            : '',
      },
      xAxis: axis({
        type: 'log',
        logBase,
        name: `measured ${metric}`,
        min: from,
        max: to,
        axisLabel: { color: colour('ink'), hideOverlap: true, formatter: (value) => units.number(value) },
      }),
      yAxis: axis({
        type: 'log',
        logBase,
        name: 'predicted',
        nameGap: 54,
        min: from,
        max: to,
        axisLabel: { color: colour('ink'), formatter: (value) => units.number(value) },
      }),
      dataZoom: [
        { type: 'inside', filterMode: 'none', xAxisIndex: 0, zoomOnMouseWheel: 'ctrl' },
        { type: 'inside', filterMode: 'none', yAxisIndex: 0, zoomOnMouseWheel: 'ctrl' },
      ],
      series: [
        reference('equal', 1, 'solid'),
        reference('10 % off', 1.1, 'dashed'),
        { ...reference('10 % off', 1 / 1.1, 'dashed') },
        {
          name: 'rows',
          type: 'scatter',
          symbolSize: 7,
          data: rows.map((row) => ({
            value: [row.measured, row.predicted],
            row,
            symbol: isScored(row) ? 'circle' : 'emptyCircle',
            itemStyle: { opacity: 0.65, color: colour(isScored(row) ? 'blue' : 'orange') },
          })),
        },
      ],
    }),
    data: () => ({ name: `numbers of ${metric}`, rows, columns: rowColumns, sort: ['absolute error', true] }),
  }).element;
}

function scatterSection(data) {
  const byMetric = new Map();
  for (const row of data.rows.filter(compared)) byMetric.set(row.metric, [...(byMetric.get(row.metric) ?? []), row]);
  if (byMetric.size === 0) return null;
  const metrics = [...byMetric.keys()].sort((a, b) => byMetric.get(b).length - byMetric.get(a).length);
  const place = el('div');
  let all = true;
  let metric = metrics[0];
  const show = () =>
    replaceChildren(
      place,
      scatter(
        byMetric.get(metric).filter((row) => all || isScored(row)),
        metric,
      ),
    );
  const picker = select(
    'Metric',
    metrics.map((name) => [name, `${name} (${byMetric.get(name).length})`]),
    (value) => {
      metric = value;
      show();
    },
  );
  show();
  return section(
    'scatter',
    'Predicted and measured',
    'On the line a prediction is right; between the dashed lines it is within 10 %. Rows in orange are suspect or of trust C.',
    el(
      'p',
      {},
      picker.element,
      ' ',
      checkbox('with rows that are not scored', true, (on) => {
        all = on;
        show();
      }),
    ),
    place,
  );
}

function sourcesSection(data) {
  const rows = summaryRows(data);
  if (rows.length === 0) return null;
  const ofSteps = {};
  for (const row of rows)
    if (row.source !== 'all' && (ofSteps[row.source] === undefined || row.n > ofSteps[row.source].n))
      ofSteps[row.source] = row;
  const bars = Object.values(ofSteps).sort((a, b) => a.median_absolute - b.median_absolute);
  const cut = bars.some((row) => row.p90_absolute > 1);
  const figure =
    bars.length > 1 &&
    chart({
      title: 'Median and 90th percentile of the error by source',
      height: 80 + 20 * bars.length,
      summary: bars.map((row) => `${row.source}: ${units.percent(row.median_absolute)}`).join('; '),
      option: (width) => ({
        grid: { left: width < 560 ? 120 : 180, right: 24, top: 34, bottom: 44 },
        tooltip: { trigger: 'axis', axisPointer: { type: 'shadow' }, valueFormatter: (value) => units.percent(value) },
        xAxis: axis({
          type: 'value',
          name: `absolute relative error${cut ? '; longer bars are cut' : ''}`,
          max: cut ? 1 : undefined,
          axisLabel: { color: colour('ink'), formatter: (value) => units.percent(value, 0) },
        }),
        yAxis: axis({
          type: 'category',
          inverse: true,
          data: bars.map((row) => `${row.source} (${row.n})`),
          axisLabel: {
            color: colour('ink'),
            interval: 0,
            width: width < 560 ? 112 : 170,
            overflow: 'truncate',
            fontSize: 11,
          },
        }),
        series: [
          { name: 'median', type: 'bar', color: colour('blue'), data: bars.map((row) => row.median_absolute) },
          { name: '90th percentile', type: 'bar', color: colour('orange'), data: bars.map((row) => row.p90_absolute) },
        ],
      }),
    }).element;
  return section(
    'sources',
    'Errors by source',
    'Each bar is the metric of which a source states most numbers. The table has every metric.',
    figure,
    table({ name: 'errors', rows, columns: errorColumns, page: 20 }),
  );
}

/// Families are layouts of one model on one machine: whether the right one is predicted to be the fastest.
function familiesSection(data) {
  const families = new Map();
  for (const row of data.rows) {
    if (!row.family || !compared(row) || !isScored(row) || errorOf(row) === undefined) continue;
    const key = `${row.family} · ${row.metric}`;
    if (!families.has(key)) families.set(key, { family: row.family, metric: row.metric, rows: [] });
    families.get(key).rows.push(row);
  }
  const list = [...families.values()]
    .filter((family) => family.rows.length > 2)
    .map((family) => {
      const errors = family.rows.map((row) => Math.abs(errorOf(row))).sort((a, b) => a - b);
      const spread = Math.max(...family.rows.map(errorOf)) - Math.min(...family.rows.map(errorOf));
      return { ...family, n: family.rows.length, median: errors[Math.floor(errors.length / 2)], spread };
    });
  const ranking = data.ranking;
  if (list.length === 0 && !ranking) return null;
  const part = (name, r) =>
    r
      ? [
          name,
          `${r.families} families, Kendall tau ${units.number(r.kendall_tau_mean)}, predicted best ${units.percent(r.top_regret_mean)} slower than the measured best`,
        ]
      : null;
  return section(
    'ranking',
    'Ranking',
    'A family is one model on one machine with several layouts. Kendall tau is 1 where the predicted order is the measured one, 0 where it is chance. In the table, a small spread of errors means that layouts are told apart even where all are off alike.',
    ranking &&
      definitions(
        [
          part('All', ranking),
          part('That say what tells their rows apart', ranking.complete),
          part('That do not', ranking.incomplete),
        ].filter(Boolean),
      ),
    list.length > 0 &&
      table({
        name: 'families',
        rows: list,
        page: 15,
        sort: ['spread', true],
        columns: [
          { title: 'family', value: (row) => row.family, wide: true },
          { title: 'metric', value: (row) => row.metric, left: true },
          { title: 'n', value: (row) => row.n },
          { title: 'median error', value: (row) => row.median, text: (row) => units.percent(row.median) },
          {
            title: 'spread',
            value: (row) => row.spread,
            text: (row) => units.percent(row.spread),
            help: 'largest minus smallest signed error',
          },
        ],
      }),
  );
}

function worstSection(data) {
  const rows = data.rows.filter((row) => errorOf(row) !== undefined);
  if (rows.length === 0) return null;
  return section(
    'worst',
    'Rows, worst first',
    'Every number that was predicted. Filter by source, metric, model or trust.',
    table({ name: 'rows', rows, columns: rowColumns, sort: ['absolute error', true], page: 25, same: false }),
  );
}

function skippedSection(data) {
  if (!data.skipped?.length) return null;
  return section(
    'skipped',
    'Skipped',
    'Rows that no prediction is made for, and why.',
    table({
      name: 'skipped rows',
      rows: data.skipped,
      page: 15,
      columns: [
        { title: 'id', value: (row) => row.id, wide: true },
        { title: 'reason', value: (row) => row.reason, wide: true },
      ],
    }),
  );
}

export function validationSections(data) {
  return [
    headline(data),
    scatterSection(data),
    sourcesSection(data),
    familiesSection(data),
    worstSection(data),
    skippedSection(data),
  ];
}
