// The schedule as it is played: stages of the pipeline, then one layer on its streams.
import { axis, chart } from '../chart.js';
import { el, replaceChildren, select } from '../dom.js';
import { section } from '../section.js';
import { colour, seriesColour } from '../theme.js';
import * as units from '../units.js';

function tasksOf(lanes) {
  return lanes.flatMap((lane, y) =>
    lane.name.map((name, i) => ({
      lane: lane.label,
      y,
      name,
      kind: lane.kind[i],
      start: lane.start_seconds[i],
      end: lane.end_seconds[i],
    })),
  );
}

function taskTable(name, lanes) {
  return {
    name,
    page: 30,
    rows: tasksOf(lanes),
    columns: [
      { title: 'where', value: (row) => row.lane, left: true },
      { title: 'task', value: (row) => row.name, left: true },
      { title: 'kind', value: (row) => row.kind, left: true },
      { title: 'start s', value: (row) => row.start, text: (row) => units.seconds(row.start) },
      { title: 'end s', value: (row) => row.end, text: (row) => units.seconds(row.end) },
      { title: 'length s', value: (row) => row.end - row.start, text: (row) => units.seconds(row.end - row.start) },
    ],
  };
}

/// A rectangle for each task of `lanes` ({ label, name, kind, start_seconds, end_seconds }), in lanes from top to bottom.
function gantt(title, lanes, summary) {
  const kinds = [...new Set(lanes.flatMap((lane) => lane.kind))];
  const end = Math.max(...lanes.map((lane) => lane.end_seconds.reduce((a, b) => Math.max(a, b), 0)));
  const tasks = tasksOf(lanes);
  const rectangle = (params, api) => {
    const [from, row] = api.coord([api.value(0), api.value(2)]);
    const [to] = api.coord([api.value(1), api.value(2)]);
    const height = Math.max(2, api.size([0, 1])[1] * 0.8);
    const area = params.coordSys;
    const left = Math.max(from, area.x);
    const right = Math.min(to, area.x + area.width);
    if (right <= area.x || left >= area.x + area.width) return null;
    const wide = right - left > 46;
    return {
      type: 'rect',
      shape: { x: left, y: row - height / 2, width: Math.max(0.7, right - left - 0.5), height },
      style: { fill: api.visual('color') },
      ...(wide && height > 11
        ? {
            textContent: {
              style: {
                text: api.value(3) === undefined ? '' : tasks[api.value(3)].name,
                fill: colour('on-series'),
                fontSize: 10,
                width: right - left - 6,
                overflow: 'truncate',
              },
            },
            textConfig: { position: 'inside' },
          }
        : {}),
    };
  };
  return chart({
    title,
    summary,
    zoom: true,
    height: Math.min(640, 130 + Math.max(18, Math.min(40, 420 / lanes.length)) * lanes.length),
    option: (width) => ({
      grid: { left: width < 560 ? 74 : 130, right: 16, top: 44, bottom: 88 },
      tooltip: {
        formatter: ({ value }) => {
          const task = tasks[value[3]];
          return `${task.name}\n${task.lane}, ${task.kind}\n${units.seconds(task.start)} to ${units.seconds(task.end)}: ${units.seconds(task.end - task.start)}`;
        },
      },
      dataZoom: [
        { type: 'inside', filterMode: 'none', zoomOnMouseWheel: 'ctrl' },
        {
          type: 'slider',
          filterMode: 'none',
          height: 22,
          bottom: 10,
          showDataShadow: false,
          textStyle: { color: colour('ink') },
          labelFormatter: (value) => units.seconds(value),
        },
      ],
      xAxis: axis({
        type: 'value',
        min: 0,
        max: end,
        name: 'time',
        axisLabel: { color: colour('ink'), hideOverlap: true, formatter: (value) => units.seconds(value) },
      }),
      yAxis: axis({
        type: 'category',
        inverse: true,
        data: lanes.map((lane) => lane.label),
        splitLine: { show: false },
        axisLabel: { color: colour('ink'), width: width < 560 ? 66 : 120, overflow: 'truncate', interval: 'auto' },
      }),
      series: kinds.map((kind, k) => ({
        name: kind,
        type: 'custom',
        color: seriesColour(kind, k),
        renderItem: rectangle,
        clip: true,
        progressive: 0,
        dimensions: ['start', 'end', 'lane', 'task'],
        encode: { x: [0, 1], y: 2 },
        data: tasks.flatMap((task, i) => (task.kind === kind ? [[task.start, task.end, task.y, i]] : [])),
      })),
    }),
    data: () => taskTable(`tasks: ${title}`, lanes),
  });
}

/// What a long step leaves out of its middle, as a block of its own in each row.
function withGap(lane, gap) {
  if (!gap) return lane;
  return {
    ...lane,
    kind: [...lane.kind, 'left out'],
    name: [...lane.name, 'left out: the schedule repeats itself'],
    start_seconds: [...lane.start_seconds, gap.from_seconds],
    end_seconds: [...lane.end_seconds, gap.to_seconds],
  };
}

function layers(timeline) {
  const devices = [...new Set(timeline.filter((lane) => lane.stream !== 'pipeline').map((lane) => lane.device))];
  if (devices.length === 0) return null;
  const place = el('div');
  const show = (device) => {
    const lanes = timeline.filter((lane) => lane.device === device).map((lane) => ({ ...lane, label: lane.stream }));
    const end = Math.max(...lanes.map((lane) => lane.end_seconds.at(-1)));
    replaceChildren(
      place,
      gantt(
        `Streams of ${device}`,
        lanes,
        `${lanes.map((lane) => `${lane.name.length} tasks on ${lane.stream}`).join(', ')}; ${units.seconds(end)} in all.`,
      ).element,
    );
  };
  const widest = devices[devices.length - 1];
  const picker = select(
    'Which',
    devices.map((device) => [device, device]),
    show,
  );
  picker.control.value = widest;
  show(widest);
  return [el('h4', {}, 'One layer on its streams'), el('p', {}, picker.element), place];
}

export function timelineSection(data) {
  const timeline = data.detail?.timeline;
  if (!timeline?.length) return null;
  const layout = data.plans[0].layout;
  const gap = data.detail.timeline_omitted;
  const stages = timeline
    .filter((lane) => lane.stream === 'pipeline')
    .map((lane) => withGap({ ...lane, label: lane.device }, gap));
  const summary = `${stages.length} stages, ${layout.micro_batches} micro-batches, schedule ${layout.schedule}; the slowest stage waits ${units.seconds(data.plans[0].predicted.bubble_seconds)} of the step.`;
  return section(
    'pipeline',
    'Pipeline and streams',
    'Each row is a stage, each block a task; gaps are waiting. Zoom in to see single micro-batches. Below, one layer by itself: what runs on each stream at once.',
    gap &&
      el(
        'p',
        { class: 'quiet' },
        `${units.count(gap.tasks)} tasks between ${units.seconds(gap.from_seconds)} and ${units.seconds(gap.to_seconds)} are left out: the schedule repeats itself there.`,
      ),
    gantt('One step', stages, summary).element,
    layers(timeline),
  );
}
