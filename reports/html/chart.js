// A chart: drawn when it is about to be seen (or printed), again when the theme or its width changes; with a sentence for
// who cannot see it, and its data as a table.
import { BarChart, CustomChart, LineChart, ScatterChart } from 'echarts/charts';
import {
  DataZoomComponent,
  GridComponent,
  LegendComponent,
  MarkLineComponent,
  TooltipComponent,
} from 'echarts/components';
import * as echarts from 'echarts/core';
import { CanvasRenderer } from 'echarts/renderers';
import { button, el, freshId } from './dom.js';
import { table } from './table.js';
import { colour, onThemeChange, setTheme, currentTheme } from './theme.js';

echarts.use([
  BarChart,
  CustomChart,
  LineChart,
  ScatterChart,
  DataZoomComponent,
  GridComponent,
  LegendComponent,
  MarkLineComponent,
  TooltipComponent,
  CanvasRenderer,
]);

const charts = new Set();
onThemeChange(() => charts.forEach((one) => one.redraw()));

// Paper is white, narrow, and shows what was never scrolled to.
const kPaperWidth = 690; // pixels of A4 and of Letter within their margins
let themeBeforePrint = '';
addEventListener('beforeprint', () => {
  themeBeforePrint = currentTheme();
  charts.forEach((one) => {
    one.draw();
    one.fit(kPaperWidth);
  });
  setTheme('light');
});
addEventListener('afterprint', () => {
  charts.forEach((one) => one.fit());
  setTheme(themeBeforePrint);
});

/// What all charts share. The tooltip is painted, not markup: names in it stay text.
function common() {
  const ink = colour('ink');
  return {
    animation: false,
    textStyle: { color: ink, fontFamily: 'system-ui, sans-serif' },
    tooltip: {
      renderMode: 'richText',
      confine: true,
      backgroundColor: colour('paper'),
      borderColor: colour('line'),
      textStyle: { color: ink, fontSize: 12 },
    },
    legend: { textStyle: { color: ink }, type: 'plain', top: 0 },
  };
}

/// An axis in the page's colours.
export function axis(more) {
  return {
    nameLocation: 'middle',
    nameGap: 28,
    nameTextStyle: { color: colour('ink') },
    axisLabel: { color: colour('ink'), hideOverlap: true },
    axisLine: { lineStyle: { color: colour('quiet') } },
    splitLine: { lineStyle: { color: colour('line') } },
    ...more,
  };
}

/// `option(width)`: ECharts' option without what `common` has. `data`: { name, columns, rows } of table.js.
/// `summary`: what the chart shows, in a sentence. `zoom`: buttons and keys for its first x axis. `onPoint(params)`.
export function chart({ title, summary, height = 320, option, data, zoom = false, onPoint }) {
  const heading = freshId('chart');
  const box = el('div', {
    class: 'chart',
    role: 'img',
    'aria-label': `${title}. ${summary}`,
    tabindex: zoom ? 0 : null,
  });
  box.style.height = `${height}px`;
  let instance = null;
  let width = 0;
  const apply = () => {
    const own = option(width);
    const shared = common();
    instance.setOption(
      {
        ...shared,
        ...own,
        tooltip: { ...shared.tooltip, ...own.tooltip },
        legend: own.legend === false ? { show: false } : { ...shared.legend, ...own.legend },
      },
      { notMerge: true },
    );
  };
  const one = {
    draw() {
      if (instance !== null || box.clientWidth === 0) return;
      instance = echarts.init(box, null, { renderer: 'canvas' });
      width = box.clientWidth;
      if (onPoint) instance.on('click', onPoint);
      apply();
      box.dataset.drawn = 'yes';
    },
    redraw() {
      if (instance !== null) apply();
    },
    /// To so many pixels, or to its place.
    fit(pixels = box.clientWidth) {
      if (instance === null || pixels === 0 || pixels === width) return;
      width = pixels;
      instance.resize({ width });
      apply();
    },
  };
  charts.add(one);
  new IntersectionObserver(
    (entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      one.draw();
    },
    { rootMargin: '300px' },
  ).observe(box);
  new ResizeObserver(() => one.fit()).observe(box);

  const figure = el('figure', { 'aria-labelledby': heading }, el('figcaption', { id: heading }, title), box);
  if (zoom) addZoom(figure, box, () => instance);
  if (data) figure.append(asTable(data));
  return { element: figure, redraw: () => one.redraw() };
}

/// The table behind a chart is made when it is opened.
function asTable(data) {
  const details = el('details', { class: 'data' }, el('summary', {}, 'The numbers as a table'));
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1)
      details.append(table(typeof data === 'function' ? data() : data));
  });
  return details;
}

function addZoom(figure, box, instance) {
  const range = () => {
    const { start, end } = instance().getOption().dataZoom[0];
    return [start, end];
  };
  const show = (from, to) => {
    const span = Math.min(100, Math.max(0.01, to - from));
    const start = Math.min(Math.max(0, from), 100 - span);
    instance()?.dispatchAction({ type: 'dataZoom', start, end: start + span });
  };
  const scale = (factor) => {
    if (instance() === null) return;
    const [from, to] = range();
    const middle = (from + to) / 2;
    show(middle - ((to - from) * factor) / 2, middle + ((to - from) * factor) / 2);
  };
  const move = (share) => {
    if (instance() === null) return;
    const [from, to] = range();
    show(from + (to - from) * share, to + (to - from) * share);
  };
  const whole = () => show(0, 100);
  box.addEventListener('keydown', (event) => {
    const keys = {
      '+': () => scale(0.5),
      '=': () => scale(0.5),
      '-': () => scale(2),
      ArrowLeft: () => move(-0.25),
      ArrowRight: () => move(0.25),
      0: whole,
    };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    keys[event.key]();
    event.preventDefault();
  });
  figure.insertBefore(
    el(
      'div',
      { class: 'controls' },
      button('Zoom in', () => scale(0.5)),
      button('Zoom out', () => scale(2)),
      button('Earlier', () => move(-0.5)),
      button('Later', () => move(0.5)),
      button('Whole', whole),
      el('span', { class: 'quiet' }, 'Keys on the chart: + − ← → 0; drag to move.'),
    ),
    box,
  );
}
