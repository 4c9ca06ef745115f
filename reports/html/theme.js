// Light and dark: the system's, until the reader chooses. Charts ask here for their colours, which are those of page.css.

const listeners = new Set();
const dark = matchMedia('(prefers-color-scheme: dark)');
dark.addEventListener('change', () => listeners.forEach((listener) => listener()));

export function onThemeChange(listener) {
  listeners.add(listener);
}

/// 'light', 'dark', or '' for the system's.
export function setTheme(theme) {
  if (theme === '') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  listeners.forEach((listener) => listener());
}

export function currentTheme() {
  return document.documentElement.dataset.theme ?? '';
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
