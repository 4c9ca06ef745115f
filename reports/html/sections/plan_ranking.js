// The ranked layouts, and behind a switch what the search turned down.
import { chart, axis } from '../chart.js';
import { checkbox, definitions, el } from '../dom.js';
import { layoutColumns, moreResultColumns, resultColumns } from '../layout.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour } from '../theme.js';
import * as units from '../units.js';

/// What planner/search/search.h and planner/pricer.h mean by each reason.
const kReasons = {
  heads: 'attention heads, or KV heads, cannot be cut so many ways',
  ffn: 'tp, or etp, does not divide the width of the feed-forward part',
  experts: 'ep does not divide the experts, or experts under tp lack sequence parallelism',
  sequence: 'cp, or cp × tp, does not divide the sequence',
  mesh: 'the dense and the expert axes do not divide each other',
  layers: 'more chunks than layers',
  batch: 'dp × micro_batch does not divide the global batch',
  schedule: 'the schedule needs other stages, chunks or micro-batches',
  interleaving: 'the micro-batches are no multiple of pp',
  shard_group: 'fsdp_group does not divide dp × cp',
  precision: 'the GPU does not compute in the format',
  memory: 'it was seen not to fit',
  ttft: 'first tokens come later than promised',
  tpot: 'further tokens come more slowly than promised',
  load: 'requests come faster than they are answered, or are longer than what a rank holds',
};

const rank = { title: '#', value: ({ plan }) => plan.rank, always: true };
const tie = {
  title: 'ties',
  value: ({ plan }) => (plan.rank === 1 ? 'best' : plan.ties_with_best ? 'yes' : 'no'),
  help: 'whether it may be as fast as the best',
};

function ranked(plans) {
  return table({
    name: 'layouts',
    columns: [rank, ...resultColumns, ...layoutColumns, tie, ...moreResultColumns],
    rows: plans.map((plan) => ({ plan })),
    same: false,
    highlight: ({ plan }) => plan.rank === 1,
  });
}

/// Of "memory" those that would be fast, of the other reasons the first that the search met.
function rejectedLayouts(plans) {
  return table({
    name: 'rejected layouts',
    filter: false,
    same: false,
    rows: plans.map((plan) => ({ plan })),
    columns: [
      { title: 'reason', value: ({ plan }) => plan.rejection.reason, left: true, always: true },
      { title: 'why', value: ({ plan }) => plan.rejection.detail, wide: true, always: true },
      ...layoutColumns,
      ...resultColumns.map((column) => ({ ...column, always: false })),
    ],
  });
}

export function rejectedTable(search) {
  const rows = Object.entries(search.rejected).map(([reason, layouts]) => ({ reason, layouts }));
  if (rows.length === 0) return [];
  return [
    el('h4', {}, 'Rejected, by reason'),
    table({
      name: 'reasons',
      sort: ['layouts', true],
      rows,
      filter: false,
      columns: [
        { title: 'reason', value: (row) => row.reason, left: true },
        { title: 'layouts', value: (row) => row.layouts, text: (row) => units.count(row.layouts) },
        { title: 'meaning', value: (row) => kReasons[row.reason], wide: true },
      ],
    }),
  ];
}

function turnedDown(data) {
  const parts = [];
  if (data.nearest?.length > 0) {
    parts.push(
      el('h4', {}, 'Nothing fits: those that miss by least'),
      table({
        name: 'layouts that do not fit',
        rows: data.nearest.map((plan) => ({ plan })),
        columns: [
          ...resultColumns,
          ...layoutColumns,
          { title: 'why', value: ({ plan }) => plan.rejection?.detail, wide: true },
        ],
      }),
    );
  }
  parts.push(...rejectedTable(data.search));
  if (data.rejected?.length > 0) parts.push(el('h4', {}, 'Some of them'), rejectedLayouts(data.rejected));
  return parts;
}

export function searchFigures(search) {
  const rejected = Object.values(search.rejected).reduce((sum, n) => sum + n, 0);
  return definitions([
    ['Layouts considered', units.count(search.considered)],
    ['Priced in full', units.count(search.priced)],
    ['Pruned by bounds', units.count(search.pruned)],
    ['Rejected', units.count(rejected)],
    ['Best is proven', search.proven_best ? 'yes' : 'no'],
  ]);
}

/// `parts`, behind a switch where something fits; nothing without parts.
export function behindSwitch(data, parts) {
  if (parts.length === 0) return null;
  const extra = el('div', { hidden: data.plans.length > 0 }, parts);
  const toggle = checkbox('Show what was rejected, and why', false, (on) => {
    extra.hidden = !on;
  });
  return [data.plans.length > 0 && el('p', { class: 'switch' }, toggle), extra];
}

export function rankingSection(data) {
  if (!data.search) return null;
  return section(
    'ranking',
    'Ranked layouts',
    'Fastest first. Every layout of the space was priced, rejected for a stated reason, or pruned by a bound that it cannot beat. Columns that say the same in every row are left out until asked for.',
    data.plans.length > 0 && ranked(data.plans),
    data.page_left_out && el('p', { class: 'quiet' }, `Left out of this page: ${data.page_left_out}.`),
    searchFigures(data.search),
    behindSwitch(data, turnedDown(data)),
  );
}

/// Every layout that the search priced, fastest first: { layout, precision, step, memory in GiB, rank if it is listed,
/// front: needs less memory than every faster one }.
function pricedLayouts(data) {
  const columns = data.priced_layouts;
  const nameOf = (layout, precision) => `${precision} ${layout}`;
  const front = new Set((data.pareto ?? []).map((plan) => nameOf(plan.layout_text, plan.precision)));
  return (columns?.layout_text ?? []).map((layout, i) => ({
    layout,
    precision: columns.precision[i],
    step: columns.step_seconds[i],
    memory: columns.memory_reserved_bytes[i] / 2 ** 30,
    rank: i < data.plans.length ? i + 1 : undefined,
    front: front.has(nameOf(layout, columns.precision[i])),
  }));
}

export function paretoSection(data) {
  const rows = pricedLayouts(data);
  if (rows.length < 2) return null;
  const usable = data.detail?.machine.usable_memory_bytes;
  const several = rows.some((row) => row.precision !== rows[0].precision);
  const point = (row) => [row.memory, row.step];
  const front = rows.filter((row) => row.front).sort((a, b) => a.memory - b.memory);
  const others = rows.filter((row) => !row.front);
  const lists = [others, front]; // by series
  const words = (row) =>
    [
      `${row.rank ? `#${row.rank}, ` : ''}${units.seconds(row.step)}, ${units.gib(row.memory * 2 ** 30)}${several ? `, ${row.precision}` : ''}`,
      ...row.layout.match(/[^,]+(,[^,]+){0,4}/g),
    ].join('\n');
  const figure = chart({
    title: 'Time against memory',
    height: 380,
    summary: `${units.count(rows.length)} layouts; ${front.length} of them need less memory than every faster one.`,
    option: () => ({
      grid: { left: 64, right: 24, top: 40, bottom: 52 },
      tooltip: { formatter: ({ seriesIndex, dataIndex }) => words(lists[seriesIndex][dataIndex]) },
      xAxis: axis({ type: 'value', name: 'memory of the fullest GPU, GiB', scale: true }),
      yAxis: axis({ type: 'value', name: 'step, s', nameGap: 44, scale: true }),
      series: [
        {
          name: 'priced',
          type: 'scatter',
          symbolSize: others.length > 500 ? 4 : 7,
          itemStyle: { color: colour('grey') },
          large: others.length > 2000,
          data: others.map(point),
        },
        {
          name: 'front',
          type: 'line',
          step: 'end',
          symbol: 'diamond',
          symbolSize: 10,
          color: colour('blue'),
          data: front.map(point),
          markLine: usable && {
            silent: true,
            symbol: 'none',
            label: { formatter: 'usable', color: colour('ink') },
            lineStyle: { color: colour('red') },
            data: [{ xAxis: usable / 2 ** 30 }],
          },
        },
      ],
    }),
    data: {
      name: 'priced layouts',
      rows,
      columns: [
        { title: 'step s', value: (row) => row.step, text: (row) => units.number(row.step, 4) },
        { title: 'memory GiB', value: (row) => row.memory, text: (row) => units.number(row.memory) },
        { title: 'front', value: (row) => (row.front ? 'yes' : 'no') },
        { title: '#', value: (row) => row.rank, help: 'where it is ranked above' },
        { title: 'layout', value: (row) => row.layout, help: 'as estimate --layout takes it', wide: true },
        ...(several ? [{ title: 'precision', value: (row) => row.precision, left: true }] : []),
      ],
    },
  });
  return section(
    'memory-for-time',
    'Memory for time',
    'Each point is a layout that was priced in full: all that bounds left in the running. Those on the line need less memory than every faster one: go along it for room to spare, for a longer sequence or a smaller GPU.',
    figure.element,
  );
}
