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
  if (/(^|_)(mfu|share|error)$/.test(key))
    return value > 0 && value < 1e-4 ? value.toExponential(1) : units.percent(value);
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

/// Of a rank that ran alone: what needs the others is priced, and the step is the sum of both.
function predictedOf({ predicted, alone }) {
  if (!alone) return predicted;
  const priced = {
    exposed_communication_seconds: alone.priced?.communication_seconds,
    bubble_seconds: alone.priced?.bubble_seconds,
  };
  return { ...predicted, ...alone.predicted, ...priced };
}
function measuredOf({ measured, alone }) {
  return alone ? { ...measured, step_seconds: alone.step_seconds_of_both } : measured;
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
  const predicted = predictedOf(data);
  const measured = measuredOf(data);
  const rows = kStepParts.map(([key, name]) => ({ name, predicted: predicted?.[key], measured: measured?.[key] }));
  return section(
    'parts',
    'Where a step goes',
    data.alone
      ? 'The parts of a step of the rank that ran. Communication and the bubble need the other ranks: they are priced, not measured, and the measured step holds them as priced.'
      : 'The parts of a step of the watched stage, predicted and measured.',
    besideChart('A step and its parts', rows, 'seconds', units.seconds),
  );
}

function memorySection(data) {
  const predicted = data.predicted?.memory_per_stage ?? [];
  const measured = data.measured?.memory_per_stage ?? [];
  const { alone } = data;
  const first = alone ? (data.conditions?.watched_stage ?? 0) : 0; // who ran alone is of this stage
  const rows = Array.from({ length: alone ? 1 : Math.max(predicted.length, measured.length) }, (_, i) => ({
    name: `stage ${first + i}`,
    key: 'x_bytes',
    predicted: predicted[first + i]?.allocated_bytes,
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
                    precision: 12, // decimals; of seconds two are none
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

/// What the loop learned: factors by family of kernels, and the layouts ranked with them.
function calibrationSection({ calibration }) {
  if (!calibration) return null;
  const { families = [], ranking = [], refused, written } = calibration;
  const seconds = (key) => ({ value: (row) => row[key], text: (row) => units.seconds(row[key]) });
  return section(
    'calibration',
    'Calibration of the measured machine',
    'Kernels of a family take, in the steps that were run, so much of what they took when they were measured alone. Plans on this machine use the factors from now on.',
    el(
      'p',
      { class: `verdict ${written ? 'good' : 'bad'}` },
      refused ? `Not calibrated: ${refused}.` : written ? 'The factors were written.' : 'No family has enough operators.',
    ),
    families.length > 0 &&
      table({
        name: 'families',
        filter: false,
        rows: families,
        columns: [
          { title: 'family', value: (row) => row.family, left: true },
          { title: 'operators', value: (row) => row.operators },
          { title: 'factor', value: (row) => row.factor, text: (row) => `× ${units.number(row.factor, 4)}` },
          {
            title: 'median error',
            value: (row) => row.median_error_before,
            text: (row) => units.percent(row.median_error_before),
          },
          {
            title: 'calibrated',
            value: (row) => row.median_error_after,
            text: (row) => units.percent(row.median_error_after),
            help: 'median error with the factor',
          },
        ],
      }),
    ranking.length > 0 && [
      el('h4', {}, 'Layouts of the plan’s question, before and with it'),
      table({
        name: 'layouts ranked again',
        filter: false,
        rows: ranking,
        columns: [
          { title: 'now', value: (row) => row.rank_after },
          { title: 'before', value: (row) => row.rank_before },
          { title: 'step', ...seconds('step_seconds_after') },
          { title: 'step before', ...seconds('step_seconds_before') },
          { title: 'layout', value: (row) => row.layout_text, wide: true },
        ],
      }),
    ],
  );
}

function inferenceSection({ inference: run }) {
  if (!run) return null;
  const { equality } = run;
  const rows = [
    { name: `prompts of ${units.count(run.prompt_tokens)} tokens, ${run.sequences} at once`, step: 'prefill' },
    { name: `a further token of each, of ${run.decoded_tokens}`, step: 'decode' },
  ].map(({ name, step }) => ({
    name,
    key: 'x_seconds',
    measured: run[`${step}_seconds`],
    predicted: run[`predicted_${step}_seconds`],
  }));
  const proof = !equality?.checked
    ? 'The logits were not compared with those of one rank.'
    : `${equality.equal ? 'Equal to' : 'NOT equal to'} one rank’s that keeps no keys and values: a relative error of ${equality.max_relative_error?.toExponential(1) ?? 'unknown size'} at most, in '${equality.at}'.`;
  return section(
    'inference',
    'Inference by the same ranks',
    'Prompts are read at once, then each sequence goes on token by token with kept keys and values.',
    equality?.checked ? el('p', { class: `verdict ${equality.equal ? 'good' : 'bad'}` }, proof) : el('p', {}, proof),
    run.rounds > 0 && run.void_rounds === run.rounds
      ? el('p', {}, `All ${run.rounds} rounds are void: the machine was not ours alone, and these times say little.`)
      : null,
    table({
      name: 'steps of inference',
      filter: false,
      rows,
      columns: [{ title: 'step', value: (row) => row.name, wide: true }, ...pairColumns],
    }),
    definitions([['Peak memory of a rank', units.bytes(run.memory_allocated_bytes)]]),
  );
}

/// What of a rank's step was run, in one sentence.
function aloneSentence({ rank, of }, compute) {
  const what =
    compute?.measured > 0 && compute.predicted > 0
      ? `measured ${units.seconds(compute.measured)} of compute a step, predicted ${units.seconds(compute.predicted)}: ${units.signedPercent(relative(compute))}`
      : 'no step was measured';
  return `Rank ${rank} of ${units.count(of)} alone: ${what}. Communication is priced, not run.`;
}

export function trialSections(data) {
  const rows = pairs(predictedOf(data), measuredOf(data));
  const step = rows.find((row) => row.key === 'step_seconds');
  const operators = operatorRows(data);
  const { alone } = data;
  const verdict = alone
    ? aloneSentence(
        alone,
        rows.find((row) => row.key === 'compute_seconds'),
      )
    : step?.measured > 0 && step.predicted > 0
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
        ...plain(alone).map(([key, value]) => [`alone, ${key}`, value]),
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
    calibrationSection(data),
    inferenceSection(data),
  ];
}
