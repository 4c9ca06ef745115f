// Which parallelism talks over which links.
import { definitions, el } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import * as units from '../units.js';

/// The axis of a layout and the name of its communication in predictions.
const kTraffic = { tp: 'tensor', etp: 'tensor', cp: 'context', dp: 'data', ep: 'expert', pp: 'pipeline' };

function unitText(level) {
  return level.gpus ? `${units.count(level.gpus)} GPUs` : 'all GPUs';
}

function linksTable(machine) {
  return table({
    name: 'links',
    filter: false,
    rows: machine.links,
    columns: [
      { title: 'links', value: (row) => row.name, left: true },
      { title: 'inside', value: unitText, left: true, help: 'what reaches each other over these links, or inner ones' },
      {
        title: 'of a GPU',
        value: (row) => row.bytes_per_second_per_gpu,
        text: (row) => units.rate(row.bytes_per_second_per_gpu, 'B/s'),
        help: 'one direction',
      },
      { title: 'latency', value: (row) => row.latency_seconds, text: (row) => units.seconds(row.latency_seconds) },
    ],
  });
}

/// `columns`: further ones.
function axesTable(title, name, axes, machine, columns = []) {
  if (!axes?.length) return null;
  const share = (axis, level) => axis.links.find((link) => link.name === level.name)?.ranks_inside;
  return [
    el('h4', {}, title),
    table({
      name,
      filter: false,
      rows: axes,
      columns: [
        { title: 'axis', value: (row) => row.axis, left: true },
        { title: 'ranks', value: (row) => row.ranks },
        ...machine.links.map((level) => ({
          title: `over ${level.name}`,
          help: `ranks of a group inside one unit of ${level.name}`,
          value: (row) => share(row, level),
          text: (row) =>
            share(row, level) ? el('span', { class: 'mark' }, `${share(row, level)} of ${row.ranks}`) : '–',
        })),
        ...columns,
      ],
    }),
  ];
}

function linksPart(machine, facts, tables) {
  return section(
    'links',
    'Links',
    'A group of ranks uses the links at which its ranks meet. A busy axis that reaches over outer links is where the rank order, or a smaller degree, pays.',
    definitions([['GPUs a node', machine.gpus_per_node], ['NICs a node', machine.nics_per_node], ...facts]),
    linksTable(machine),
    tables,
  );
}

export function linksSection(data) {
  const { axes, machine } = data.detail ?? {};
  if (!machine?.links) return null;
  const traffic = data.plans[0]?.predicted?.communication ?? {};
  const spent = (title, key) => ({
    title,
    help: 'seconds of a step, by kind of parallelism',
    value: (row) => traffic[kTraffic[row.axis]]?.[key],
    text: (row) => units.seconds(traffic[kTraffic[row.axis]]?.[key]),
  });
  return linksPart(
    machine,
    [['Order of ranks, innermost first', data.plans[0]?.layout.rank_order]],
    axesTable('Axes of the first layout', 'axes', axes, machine, [
      spent('communication', 'seconds'),
      spent('exposed', 'exposed_seconds'),
    ]),
  );
}

/// Of serving: each pool has axes of its own.
export function servedLinksSection(data) {
  const { pools, machine } = data.detail ?? {};
  if (!machine?.links) return null;
  return linksPart(
    machine,
    [],
    pools.map(({ pool, axes }) =>
      axesTable(
        pool ? `Axes of a worker that does ${pool}` : 'Axes of the first layout',
        pool ? `axes of ${pool}` : 'axes',
        axes,
        machine,
      ),
    ),
  );
}
