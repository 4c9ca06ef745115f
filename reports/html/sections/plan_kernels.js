// Kernels under the machine's roofline, each with where its time comes from.
import { axis, chart } from '../chart.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { colour, seriesColour } from '../theme.js';
import * as units from '../units.js';

const kSymbols = { measured: 'circle', interpolated: 'triangle', extrapolated: 'rect', datasheet: 'diamond' };

/// The type in a kernel's text: "gemm m=8 type=fp8"; what is left out there is bf16.
const typeOf = (row) => / type=(\w+)/.exec(row.kernel)?.[1] ?? 'bf16';
const achieved = (row) => (row.flops_per_call > 0 ? row.flops_per_call / row.seconds_per_call : undefined);
const intensity = (row) => (row.flops_per_call > 0 ? row.flops_per_call / row.bytes_per_call : undefined);
const moved = (row) => (row.bytes_per_call > 0 ? row.bytes_per_call / row.seconds_per_call : undefined);

function roofline(kernels, machine) {
  const rows = kernels.filter((row) => intensity(row) !== undefined);
  if (rows.length === 0) return null;
  const types = [...new Set(rows.map(typeOf))].filter((type) => machine.peak_flops_per_second[type]);
  const xs = rows.map(intensity);
  const from = 10 ** Math.floor(Math.log10(Math.min(...xs, 10)));
  const to = 10 ** Math.ceil(Math.log10(Math.max(...xs, 1000)));
  const longest = Math.max(...rows.map((row) => row.seconds));
  const roof = (type) => {
    const peak = machine.peak_flops_per_second[type];
    const knee = peak / machine.memory_bytes_per_second;
    const at = (x) => [x, Math.min(peak, x * machine.memory_bytes_per_second)];
    return [at(from), ...(knee > from && knee < to ? [at(knee)] : []), at(to)];
  };
  const families = [...new Set(rows.map((row) => row.family))];
  return chart({
    title: 'Roofline',
    height: 420,
    summary: `${rows.length} kernels that compute, against ${types.map((type) => `${units.rate(machine.peak_flops_per_second[type], 'FLOP/s')} in ${type}`).join(', ')} and ${units.rate(machine.memory_bytes_per_second, 'B/s')}.`,
    option: (width) => ({
      grid: { left: 76, right: 28, top: width < 560 ? 84 : 56, bottom: 52 },
      tooltip: {
        formatter: ({ data }) =>
          data.row
            ? `${data.row.kernel}\n${units.rate(achieved(data.row), 'FLOP/s')}, ${units.number(intensity(data.row))} FLOP/B\n${units.seconds(data.row.seconds)} of a step, ${data.row.source}`
            : '',
      },
      xAxis: axis({ type: 'log', name: 'arithmetic intensity, FLOP per byte', min: from, max: to }),
      yAxis: axis({
        type: 'log',
        name: 'FLOP/s',
        nameGap: 58,
        axisLabel: { color: colour('ink'), formatter: (value) => units.rate(value, '') },
      }),
      series: [
        ...types.map((type) => ({
          name: `roof, ${type}`,
          type: 'line',
          symbol: 'none',
          silent: true,
          color: colour('quiet'),
          lineStyle: { type: type === types[0] ? 'solid' : 'dashed' },
          data: roof(type),
        })),
        ...families.map((family, i) => ({
          name: family,
          type: 'scatter',
          color: seriesColour(family, i),
          data: rows
            .filter((row) => row.family === family)
            .map((row) => ({
              value: [intensity(row), achieved(row)],
              row,
              symbol: kSymbols[row.source],
              symbolSize: 6 + 22 * Math.sqrt(row.seconds / longest),
            })),
        })),
      ],
    }),
  }).element;
}

function kernelTable(kernels, machine) {
  const step = kernels.reduce((sum, row) => sum + row.seconds, 0);
  const ofPeak = (row) =>
    achieved(row) && machine?.peak_flops_per_second[typeOf(row)]
      ? achieved(row) / machine.peak_flops_per_second[typeOf(row)]
      : undefined;
  return table({
    name: 'kernels',
    rows: kernels,
    sort: ['seconds', true],
    page: 20,
    columns: [
      { title: 'kernel', value: (row) => row.kernel, wide: true },
      { title: 'family', value: (row) => row.family, left: true },
      {
        title: 'source',
        value: (row) => row.source,
        left: true,
        help: 'measured, interpolated, extrapolated, or from the datasheet and efficiency curves',
      },
      {
        title: 'calls',
        value: (row) => row.calls,
        text: (row) => units.count(row.calls),
        help: 'of one GPU in a step, mean of its stages',
      },
      {
        title: 'seconds',
        value: (row) => row.seconds,
        text: (row) => units.seconds(row.seconds),
        help: 'of all calls, hidden ones, too',
      },
      {
        title: 'share',
        value: (row) => row.seconds / step,
        text: (row) => units.percent(row.seconds / step),
        help: 'of the seconds of all kernels',
      },
      { title: 'a call', value: (row) => row.seconds_per_call, text: (row) => units.seconds(row.seconds_per_call) },
      {
        title: 'error',
        value: (row) => row.relative_error,
        text: (row) => `± ${units.percent(row.relative_error, 0)}`,
        help: 'one sigma',
      },
      { title: 'FLOP/B', value: intensity, text: (row) => units.number(intensity(row)), help: 'arithmetic intensity' },
      { title: 'of peak', value: ofPeak, text: (row) => units.percent(ofPeak(row)) },
      {
        title: 'of bandwidth',
        value: (row) => (machine && moved(row) ? moved(row) / machine.memory_bytes_per_second : undefined),
        text: (row) => units.percent(machine && moved(row) ? moved(row) / machine.memory_bytes_per_second : undefined),
      },
    ],
  });
}

export function kernelsSection(data) {
  const { kernels, machine } = data.detail ?? {};
  if (!kernels?.length) return null;
  return section(
    'kernels',
    'Kernels',
    'A point is a kernel; its size is its time in a step, its shape where that time comes from: circle measured, triangle interpolated, square extrapolated, diamond datasheet. On the slope memory limits it, under the flat roof the products do.',
    roofline(kernels, machine),
    kernelTable(kernels, machine),
  );
}

export function unmeasuredSection(data) {
  if (!data.unmeasured?.length) return null;
  return section(
    'unmeasured',
    'What to measure next',
    'Kernels that the best layout and those as good ask for and that nobody measured, the most doubtful seconds first.',
    table({
      name: 'unmeasured kernels',
      rows: data.unmeasured,
      sort: ['doubt', true],
      columns: [
        { title: 'kernel', value: (row) => row.kernel, wide: true },
        { title: 'source', value: (row) => row.source, left: true },
        {
          title: 'doubt',
          value: (row) => row.doubt_seconds,
          text: (row) => units.seconds(row.doubt_seconds),
          help: 'seconds of a step that it may be off by',
        },
        { title: 'seconds', value: (row) => row.seconds, text: (row) => units.seconds(row.seconds) },
        { title: 'share', value: (row) => row.share, text: (row) => units.percent(row.share) },
      ],
    }),
  );
}
