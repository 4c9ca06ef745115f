// Light and dark: the system's, until the reader chooses. Charts ask here for their colours, which are those of page.css.

const listeners = new Set();
const dark = matchMedia('(prefers-color-scheme: dark)');
let chosen = '';

function show() {
  document.documentElement.dataset.theme = chosen || (dark.matches ? 'dark' : 'light');
  listeners.forEach((listener) => listener());
}
dark.addEventListener('change', show);
show();

export function onThemeChange(listener) {
  listeners.add(listener);
}

/// 'light', 'dark', or '' for the system's.
export function setTheme(theme) {
  chosen = theme;
  show();
}

export function currentTheme() {
  return chosen;
}

/// A custom property of page.css: colour('ink') is --ink.
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/// Colours of a chart's series; those of the same thing are the same everywhere.
const kSeries = ['blue', 'orange', 'teal', 'purple', 'red', 'olive', 'pink', 'grey'];
const kNamed = {
  gemm: 'blue',
  grouped_gemm: 'purple',
  attention: 'teal',
  memory: 'olive',
  compute: 'blue',
  tensor: 'orange',
  context: 'pink',
  expert: 'red',
  data: 'olive',
  pipeline: 'purple',
  collective: 'orange',
  network: 'red',
  bubble: 'grey',
  optimizer: 'pink',
  host: 'purple',
  products: 'blue',
  experts: 'purple',
  exchange: 'red',
  collectives: 'orange',
  "others' prompts": 'pink',
  'CUDA graphs': 'orange',
  workspaces: 'olive',
  'keys and values': 'pink',
  'room for more': 'grey',
  predicted: 'blue',
  measured: 'orange',
  overlap: 'orange',
  communication: 'orange',
  weights: 'blue',
  gradients: 'orange',
  activations: 'teal',
  transient: 'purple',
  buffers: 'olive',
  rounding: 'grey',
  forward: 'blue',
  backward: 'orange',
  'input gradient': 'orange',
  'weight gradient': 'olive',
  pair: 'purple',
  step: 'pink',
  'left out': 'line',
};
export function seriesColour(name, index = 0) {
  const plain = String(name).replace(/^exposed /, '');
  return colour(kNamed[plain] ?? kSeries[index % kSeries.length]);
}
