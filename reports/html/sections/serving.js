// Answers of plan and estimate with --serve: speed for one user against speed for all, what a token waits for, what fills
// a GPU.
import { axis, chart } from '../chart.js';
import { definitions, el } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour, seriesColour } from '../theme.js';
import * as units from '../units.js';
import { behindSwitch, rejectedTable, searchFigures } from './plan_ranking.js';
import { servedLinksSection } from './plan_links.js';
import { servedCommandsSection } from './plan_run.js';
import { servedSensitivitySection } from './plan_sensitivity.js';
import { partsChart } from './plan_step.js';
import { confidenceText } from './plan_verdict.js';
import { byUnit } from './trial.js';

const kGib = 2 ** 30;

const degreesOf = (pool) =>
  [
    ['tp', pool.tp],
    ['pp', pool.pp],
    ['attention dp', pool.attention_dp],
    ['cp', pool.cp],
    ['ep', pool.ep],
    ['etp', pool.etp],
  ]
    .filter(([name, degree]) => name === 'tp' || degree > 1)
    .map(([name, degree]) => `${name} ${degree}`)
    .join(' · ');
const times = (n, what) => (n > 1 ? `${n} × ${what}` : what);

/// "2 × tp 8 · ep 8"; "prefill 2 × tp 4, decode tp 8 · ep 8"
export function servedText(layout) {
  if (layout.serving !== 'disaggregated') return times(layout.replicas, degreesOf(layout));
  const pool = (name) => `${name} ${times(layout[name].workers, degreesOf(layout[name]))}`;
  return `${pool('prefill')}, ${pool('decode')}`;
}

const predicted = (key) => (plan) => plan.predicted?.[key];
const column = (title, key, text, help) => ({
  title,
  help,
  always: true,
  value: predicted(key),
  text: (plan) => text(plan.predicted?.[key]),
});

/// What a reader compares first.
export const servedColumns = [
  column('tokens/s/GPU', 'output_tokens_per_second_per_gpu', units.number, 'output tokens a second, of a GPU'),
  column('tokens/s/user', 'output_tokens_per_second_per_user', units.number, 'what one user sees'),
  column('TTFT', 'ttft_seconds', units.seconds, 'time to the first token'),
  column('TPOT', 'tpot_seconds', units.seconds, 'time of each further token'),
  column('tokens/s', 'output_tokens_per_second', units.count, 'output tokens a second, of all GPUs'),
  column('in flight', 'concurrency', units.count, 'requests at once, waiting ones too'),
];

export const servedLayoutColumns = [
  {
    title: 'layout',
    value: (plan) => plan.layout_text ?? servedText(plan.layout),
    text: (plan) => servedText(plan.layout),
    wide: true,
    always: true,
  },
  { title: 'kind', value: (plan) => plan.layout.serving, left: true },
  { title: 'GPUs', value: (plan) => plan.gpus },
  { title: 'batch', value: predicted('batch_per_rank'), help: 'sequences of a rank at once' },
  { title: 'largest batch', value: predicted('max_batch'), help: 'that memory and the engine allow a rank' },
];

const ofLoad = (title, quantity) => ({
  title,
  value: (plan) => plan.under_load?.[quantity]?.p99,
  text: (plan) => units.seconds(plan.under_load?.[quantity]?.p99),
  help: 'of the load as played',
});

const moreColumns = [
  ofLoad('TTFT p99', 'ttft_seconds'),
  ofLoad('TPOT p99', 'tpot_seconds'),
  ...[
    { title: 'TTFT from s', key: 'ttft_seconds_low' },
    { title: 'TTFT to s', key: 'ttft_seconds_high' },
    { title: 'TPOT from s', key: 'tpot_seconds_low' },
    { title: 'TPOT to s', key: 'tpot_seconds_high' },
    { title: 'price/M tokens', key: 'cost_per_million_output_tokens' },
  ].map(({ title, key }) => ({
    title,
    value: predicted(key),
    text: (plan) => units.number(plan.predicted?.[key]),
    help: key.startsWith('cost') ? 'of output tokens' : 'of the 80 % interval',
  })),
];

export function promisesText(work) {
  const slo = work.slo ?? {};
  const parts = [];
  if (slo.max_ttft_seconds) parts.push(`first token within ${units.seconds(slo.max_ttft_seconds)}`);
  if (slo.max_tpot_seconds) parts.push(`each further one within ${units.seconds(slo.max_tpot_seconds)}`);
  return parts.join(', ') + (slo.of && parts.length > 0 ? ` (${slo.of})` : '');
}

/// The GPUs of a question, of pools on two kinds of machine both.
export function placeText(data) {
  const pool = data.prefill_pool;
  if (!pool) return `${units.count(data.gpus)} × ${data.machine}`;
  return `${units.count(pool.gpus)} × ${pool.machine} that prefill and ${units.count(data.gpus - pool.gpus)} × ${data.machine} that decode`;
}

function verdictSentence(data) {
  const plan = data.plans[0];
  const place = `${data.model} on ${placeText(data)}`;
  const promises = promisesText(data.workload);
  if (!plan) return `${place}: nothing ${promises ? `keeps what is promised (${promises})` : 'fits'}.`;
  const how = servedText(plan.layout);
  const p = plan.predicted;
  if (plan.rejection) return `${place} as ${how}: ${plan.rejection.reason}: ${plan.rejection.detail}.`;
  const verb = data.search ? 'serves most as' : 'serves, as';
  return `${place} ${verb} ${how}: ${units.number(p.output_tokens_per_second_per_gpu)} tokens/s of a GPU, ${units.number(p.output_tokens_per_second_per_user)} of a user; first token after ${units.seconds(p.ttft_seconds)}, then one every ${units.seconds(p.tpot_seconds)}.`;
}

function interval(p, key, text) {
  return p[`${key}_low`] === undefined
    ? text(p[key])
    : `${text(p[key])} (${text(p[`${key}_low`])} to ${text(p[`${key}_high`])})`;
}

function verdictSection(data) {
  const plan = data.plans[0];
  const p = plan?.predicted;
  const speeds = p?.tpot_seconds !== undefined;
  const off = speeds && p.output_tokens_per_second_high / p.output_tokens_per_second - 1;
  return section(
    'verdict',
    'Verdict',
    'Confidence is high where the 80 % interval of the tokens a second reaches no more than 10 % above, medium 20 %, else low.',
    el('p', { class: `verdict ${plan && !plan.rejection ? 'good' : 'bad'}` }, verdictSentence(data)),
    speeds && confidenceText(plan, `In 80 % of cases tokens a second are less than ${units.percent(off, 0)} off`),
    speeds &&
      definitions([
        ['First token (TTFT)', interval(p, 'ttft_seconds', units.seconds)],
        ['Each further token (TPOT)', interval(p, 'tpot_seconds', units.seconds)],
        ['Output tokens/s', interval(p, 'output_tokens_per_second', units.count)],
        ['Output tokens/s of a GPU', units.number(p.output_tokens_per_second_per_gpu)],
        ['Output tokens/s of a user', units.number(p.output_tokens_per_second_per_user)],
        ['All tokens/s, prompts too', units.count(p.total_tokens_per_second)],
        ['Requests in flight', units.count(p.concurrency)],
        ['Of a rank at once', units.count(p.batch_per_rank)],
        [
          'Price per million output tokens',
          p.cost_per_million_output_tokens && units.number(p.cost_per_million_output_tokens),
        ],
      ]),
    plan?.layout_text && el('p', { class: 'code' }, plan.layout_text),
    plan?.layout_assumed?.length > 0 &&
      el('p', { class: 'quiet' }, `Filled in by the planner: ${plan.layout_assumed.join(', ')}.`),
  );
}

export function servedQuestionSection(data) {
  const work = data.workload;
  return section(
    'question',
    'What was asked',
    'Everything below answers exactly this question. Other lengths, or another load, are another question.',
    definitions([
      ['Model', data.model],
      ['Machine', placeText(data)],
      ['Engine', data.engine],
      ['Prompt', `${units.count(work.isl)} tokens`],
      ['Answer', `${units.count(work.osl)} tokens`],
      ['Clients at once', work.concurrency ? units.count(work.concurrency) : 'as many as is best'],
      ['Requests a second', work.requests_per_second],
      ['Arrivals', work.arrivals],
      ['Lengths', work.lengths],
      ['Promised', promisesText(work)],
      ['Weights', work.precision],
      ['Experts', work.moe_precision],
      ['Keys and values', work.kv_precision],
      ['Tokens proposed', work.mtp_tokens],
      ['Each is right', work.mtp_acceptance && units.percent(work.mtp_acceptance, 0)],
    ]),
  );
}

function turnedDown(data) {
  const nearest = data.nearest ?? [];
  const parts = [];
  if (nearest.length > 0)
    parts.push(
      el('h4', {}, 'Those that come nearest'),
      table({
        name: 'layouts that do not do',
        rows: nearest,
        columns: [
          { title: 'why', value: (plan) => `${plan.rejection?.reason}: ${plan.rejection?.detail}`, wide: true },
          ...servedColumns,
          ...servedLayoutColumns,
        ],
      }),
    );
  return [...parts, ...rejectedTable(data.search)];
}

function rankingSection(data) {
  if (!data.search) return null;
  return section(
    'ranking',
    'Ranked layouts',
    'Most tokens a second first, of those that keep what is promised. More tokens for all are fewer for each: the chart below shows what lies between.',
    data.plans.length > 0 &&
      table({
        name: 'layouts',
        rows: data.plans,
        same: false,
        highlight: (plan) => plan.rank === 1,
        columns: [
          { title: '#', value: (plan) => plan.rank, always: true },
          ...servedColumns,
          ...servedLayoutColumns,
          ...moreColumns,
        ],
      }),
    searchFigures(data.search),
    behindSwitch(data, turnedDown(data)),
  );
}

const pointOf = ({ predicted: p }) => [p.output_tokens_per_second_per_user, p.output_tokens_per_second_per_gpu];

/// Every layout of a plan at its best load: those that are ranked whole, the others with what is known of them.
function pricedPlans({ plans, priced_layouts: columns }) {
  const ranked = new Map(plans.map((plan) => [plan.layout_text, plan]));
  const point = (layout_text, i) => ({
    layout_text,
    predicted: {
      concurrency: columns.concurrency[i],
      output_tokens_per_second_per_gpu: columns.output_tokens_per_second_per_gpu[i],
      output_tokens_per_second_per_user: columns.output_tokens_per_second_per_user[i],
    },
  });
  return (columns?.layout_text ?? []).map((layout_text, i) => ranked.get(layout_text) ?? point(layout_text, i));
}

/// What is told of a point, also of one that is known by these figures alone.
function pointText(plan) {
  const { predicted: p } = plan;
  const latency =
    p.tpot_seconds === undefined ? '' : `TTFT ${units.seconds(p.ttft_seconds)}, TPOT ${units.seconds(p.tpot_seconds)}, `;
  return [
    plan.layout ? servedText(plan.layout) : plan.layout_text,
    `${units.number(p.output_tokens_per_second_per_gpu)} tokens/s of a GPU, ${units.number(p.output_tokens_per_second_per_user)} of a user`,
    `${latency}${units.count(p.concurrency)} in flight`,
  ].join('\n');
}

/// Lines and points of `fronts`: [{ name, plans, joined }].
export function frontChart(fronts, leastPerUser) {
  const all = fronts.flatMap(({ plans }) => plans);
  const most = (axisIndex) => Math.max(...all.map((plan) => pointOf(plan)[axisIndex]));
  return chart({
    title: 'Tokens for all against tokens for each',
    height: 420,
    summary: `${all.length} layouts: up to ${units.number(most(1))} tokens/s of a GPU, up to ${units.number(most(0))} of a user.`,
    option: () => ({
      grid: { left: 68, right: 24, top: 40, bottom: 52 },
      tooltip: {
        formatter: ({ seriesIndex, dataIndex }) => pointText(fronts[seriesIndex].plans[dataIndex]),
      },
      xAxis: axis({ type: 'value', name: 'output tokens/s of a user' }),
      yAxis: axis({ type: 'value', name: 'output tokens/s of a GPU', nameGap: 48 }),
      series: fronts.map(({ name, plans, joined }, i) => ({
        name,
        type: joined ? 'line' : 'scatter',
        symbol: joined ? 'diamond' : 'circle',
        symbolSize: joined ? 9 : 7,
        color: joined ? seriesColour('', i) : colour('grey'),
        data: plans.map(pointOf),
        markLine:
          leastPerUser && i === 0
            ? {
                silent: true,
                symbol: 'none',
                label: { formatter: 'promised', color: colour('ink') },
                lineStyle: { color: colour('red') },
                data: [{ xAxis: leastPerUser }],
              }
            : undefined,
      })),
    }),
    data: {
      name: 'layouts by speed',
      rows: fronts.flatMap(({ name, plans }) => plans.map((plan) => ({ ...plan, of: name }))),
      columns: [
        { title: 'which', value: (plan) => plan.of, left: true },
        ...servedColumns,
        { title: 'layout', value: (plan) => plan.layout_text ?? servedText(plan.layout), wide: true },
        ...moreColumns,
      ],
    },
  }).element;
}

export const bySpeed = (plans) =>
  plans.filter((plan) => plan.predicted?.tpot_seconds !== undefined).sort((a, b) => pointOf(a)[0] - pointOf(b)[0]);

function paretoSection(data) {
  const front = bySpeed(data.pareto ?? []);
  if (front.length < 2) return null;
  const known = new Set(front.map((plan) => pointOf(plan).join()));
  const others = pricedPlans(data).filter((plan) => !known.has(pointOf(plan).join()));
  const promised = data.workload.slo?.max_tpot_seconds;
  return section(
    'front',
    'For all or for each',
    'Each point is a layout with the load at which it answers most; those on the line, at any load, can give one user more only by taking from all. Right is fast for each user, up is cheap for all.',
    frontChart(
      [
        { name: 'front', plans: front, joined: true },
        ...(others.length > 0 ? [{ name: 'priced', plans: others, joined: false }] : []),
      ],
      promised && 1 / promised,
    ),
  );
}

const kMeanings = {
  products: 'matrix products',
  experts: 'products of experts',
  attention: 'attention over keys and values',
  memory: 'passes over memory: norms, activations',
  collectives: 'all-reduce and the like',
  exchange: "sending rows to their experts' GPUs and back",
  host: 'waiting for the host',
  "others' prompts": 'prompts of other requests that come between',
  'the decode step': 'all of it',
};

/// What a further token waits for: its share of a decode step, and prompts of others in between.
function tokenParts(data, p) {
  const { mtp_tokens: tokens = 0, mtp_acceptance: right = 0 } = data.workload;
  let gained = 1; // tokens that a step brings
  for (let i = 1; i <= tokens; ++i) gained += right ** i;
  const step = Math.min(p.tpot_seconds, p.decode_step_seconds / gained);
  const parts = p.decode_step_seconds_by_part ?? {};
  const sum = Object.values(parts).reduce((a, b) => a + b, 0);
  const shares =
    sum > 0
      ? Object.fromEntries(Object.entries(parts).map(([name, value]) => [name, (value / sum) * step]))
      : { 'the decode step': step };
  return { ...shares, "others' prompts": Math.max(0, p.tpot_seconds - step) };
}

function intervalChart(p) {
  const rows = [
    ['first token (TTFT)', 'ttft_seconds'],
    ['each further token (TPOT)', 'tpot_seconds'],
  ].map(([name, key]) => ({ name, at: p[key], low: p[`${key}_low`] ?? p[key], high: p[`${key}_high`] ?? p[key] }));
  return table({
    name: 'latencies',
    filter: false,
    rows,
    columns: [
      { title: 'latency', value: (row) => row.name, left: true },
      { title: 'seconds', value: (row) => row.at, text: (row) => units.seconds(row.at) },
      { title: 'from', value: (row) => row.low, text: (row) => units.seconds(row.low), help: 'of the 80 % interval' },
      { title: 'to', value: (row) => row.high, text: (row) => units.seconds(row.high) },
    ],
  });
}

/// Of a load that was played: { requests, ..., quantity: { mean, p50, p90, ... } }.
function loadSection(data) {
  const load = data.plans[0]?.under_load;
  if (!load) return null;
  const rows = Object.entries(load).filter(([, values]) => values !== null && typeof values === 'object');
  const names = [...new Set(rows.flatMap(([, values]) => Object.keys(values)))];
  const kQuantities = {
    ttft_seconds: 'first token (TTFT)',
    tpot_seconds: 'each further token (TPOT)',
    request_latency_seconds: 'whole answer',
  };
  return section(
    'load',
    'Under the load',
    'Arrivals played request by request, with queues: of a hundred requests p99 is what all but one stay below.',
    load.overloaded &&
      el('p', { class: 'verdict bad' }, 'It is overloaded: requests come faster than they are answered.'),
    rows.length > 0 &&
      table({
        name: 'percentiles',
        filter: false,
        rows,
        columns: [
          { title: 'quantity', value: ([key]) => kQuantities[key] ?? key, left: true },
          ...names.map((name) => ({
            title: name,
            value: ([, values]) => values[name],
            text: ([key, values]) => byUnit(key, values[name]),
          })),
        ],
      }),
    definitions(
      Object.entries(load)
        .filter(([, value]) => typeof value === 'number')
        .map(([key, value]) => [key.replaceAll('_', ' '), byUnit(key, value)]),
    ),
  );
}

function latencySection(data) {
  const p = data.plans[0]?.predicted;
  if (p?.tpot_seconds === undefined) return null;
  return section(
    'latency',
    'What a token waits for',
    'The first token waits for its prompt, each further one for a decode step and for the prompts of others that come between. The parts of the chart add up to the time of a further token.',
    intervalChart(p),
    partsChart('A further token of #1', tokenParts(data, p), p.tpot_seconds, {
      name: 'seconds of a further token',
      meanings: kMeanings,
    }),
    definitions([
      ['A decode step', units.seconds(p.decode_step_seconds)],
      ["A prompt adds to others' steps", units.seconds(p.prefill_added_seconds)],
    ]),
  );
}

function memorySection(data) {
  const p = data.plans[0]?.predicted;
  const m = p?.memory;
  if (!m) return null;
  const used = Math.min(m.kv_pool_bytes, (p.batch_per_rank ?? 0) * m.kv_bytes_per_sequence);
  const parts = {
    weights: m.weights_bytes,
    activations: m.activations_bytes,
    'CUDA graphs': m.cuda_graphs_bytes,
    workspaces: m.workspace_bytes,
    'keys and values': used,
    'room for more': m.kv_pool_bytes - used,
  };
  const rows = Object.entries(parts).filter(([, bytes]) => bytes > 0);
  const figure = chart({
    title: `Memory of a GPU of stage ${m.stage}, the fullest`,
    height: 210,
    summary: `${rows.map(([name, bytes]) => `${name} ${units.gib(bytes)}`).join(', ')}; ${units.gib(m.usable_bytes)} usable.`,
    option: (width) => ({
      grid: { left: 16, right: 32, top: width < 560 ? 84 : 60, bottom: 48 },
      tooltip: { formatter: ({ seriesName, value }) => `${seriesName}: ${value.toFixed(2)} GiB` },
      xAxis: axis({ type: 'value', name: 'GiB', max: Math.ceil((m.usable_bytes / kGib) * 1.05) }),
      yAxis: axis({ type: 'category', data: [''], axisTick: { show: false } }),
      series: rows.map(([name, bytes], i) => ({
        name,
        type: 'bar',
        stack: 'memory',
        barMaxWidth: 44,
        color: seriesColour(name, i),
        data: [bytes / kGib],
        markLine:
          i === 0
            ? {
                silent: true,
                symbol: 'none',
                lineStyle: { color: colour('red'), width: 2 },
                label: {
                  position: 'insideEndBottom',
                  rotate: 0,
                  color: colour('ink'),
                  formatter: `usable: ${units.gib(m.usable_bytes)}`,
                },
                data: [{ xAxis: m.usable_bytes / kGib }],
              }
            : undefined,
      })),
    }),
    data: {
      name: 'memory by part',
      filter: false,
      rows,
      columns: [
        { title: 'part', value: ([name]) => name, left: true },
        { title: 'GiB', value: ([, bytes]) => bytes / kGib, text: ([, bytes]) => units.number(bytes / kGib) },
      ],
    },
  });
  return section(
    'memory',
    'Memory',
    'What a rank holds with its requests in flight; what the engine leaves for keys and values bounds the batch.',
    figure.element,
    definitions([
      ['Largest batch of a rank', units.count(m.max_batch)],
      ['Why no more', m.max_batch_reason],
      ['Keys and values of a request', units.bytes(m.kv_bytes_per_sequence)],
      ['Of a token', units.bytes(p.kv_bytes_per_token)],
    ]),
  );
}

function poolsSection(data) {
  const layout = data.plans[0]?.layout;
  if (layout?.serving !== 'disaggregated') return null;
  const rows = ['prefill', 'decode'].map((name) => ({ name, ...layout[name] }));
  const gpusOf = (pool) => pool.tp * pool.pp * pool.cp * pool.attention_dp;
  return section(
    'pools',
    'Pools',
    'Prompts are worked on by one pool, answers by the other; keys and values go from the first to the second.',
    table({
      name: 'pools',
      filter: false,
      rows,
      columns: [
        { title: 'pool', value: (row) => row.name, left: true },
        { title: 'workers', value: (row) => row.workers },
        { title: 'GPUs of a worker', value: gpusOf },
        { title: 'GPUs', value: (row) => row.workers * gpusOf(row) },
        ...['tp', 'pp', 'attention_dp', 'cp', 'ep', 'etp'].map((key) => ({ title: key, value: (row) => row[key] })),
      ],
    }),
  );
}

function sourcesSection(data) {
  const shares = Object.entries(data.plans[0]?.sources ?? {}).filter(([, share]) => share > 0.0005);
  if (shares.length === 0) return null;
  return section(
    'sources',
    'Where times come from',
    "Shares of the kernels' time in a request's prefill and decode steps.",
    definitions(shares.map(([name, share]) => [name, units.percent(share)])),
  );
}

export function servingSections(data) {
  return [
    verdictSection(data),
    servedQuestionSection(data),
    rankingSection(data),
    paretoSection(data),
    latencySection(data),
    loadSection(data),
    memorySection(data),
    poolsSection(data),
    servedLinksSection(data),
    servedSensitivitySection(data.detail?.what_if, data.plans[0]),
    sourcesSection(data),
    servedCommandsSection(data),
  ];
}
