// Numbers with their units, three significant digits: SI for rates, GiB for memory, as in the text reports.

const known = (value) => typeof value === 'number' && Number.isFinite(value);
export const unknown = '–';

function significant(value, digits = 3) {
  if (value === 0) return '0';
  const magnitude = Math.floor(Math.log10(Math.abs(value)));
  if (magnitude >= digits) return Math.round(value).toLocaleString('en');
  return value.toFixed(Math.min(12, Math.max(0, digits - 1 - magnitude)));
}

export function seconds(value) {
  if (!known(value)) return unknown;
  const size = Math.abs(value);
  if (size < 1e-12) return '0 s'; // what sums leave of nothing
  if (size < 9.995e-7) return `${significant(value * 1e9)} ns`;
  if (size < 9.995e-4) return `${significant(value * 1e6)} µs`;
  if (size < 0.9995) return `${significant(value * 1e3)} ms`;
  return `${significant(value)} s`;
}

export function duration(value) {
  if (!known(value)) return unknown;
  if (value < 5400) return seconds(value);
  return value < 172800 ? `${significant(value / 3600)} h` : `${significant(value / 86400)} days`;
}

export function gib(bytes, decimals = 1) {
  return known(bytes) ? `${(bytes / 2 ** 30).toFixed(decimals)} GiB` : unknown;
}

export function bytes(value) {
  if (!known(value)) return unknown;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let power = 0;
  while (power + 1 < units.length && Math.abs(value) >= 1023.5 * 1024 ** power) power += 1;
  return `${significant(value / 1024 ** power)} ${units[power]}`;
}

export function percent(share, decimals = 1) {
  return known(share) ? `${(share * 100).toFixed(decimals)} %` : unknown;
}

export function signedPercent(share, decimals = 1) {
  return known(share) ? `${share > 0 ? '+' : ''}${(share * 100).toFixed(decimals)} %` : unknown;
}

export function count(value) {
  return known(value) ? Math.round(value).toLocaleString('en') : unknown;
}

/// 3.26 M, 671 B: thousands of millions are B, as in names of models.
export function short(value) {
  if (!known(value)) return unknown;
  const steps = [
    [1e12, ' T'],
    [1e9, ' B'],
    [1e6, ' M'],
    [1e4, ' K'],
  ];
  for (const [size, name] of steps)
    if (Math.abs(value) >= size) return significant(value / (name === ' K' ? 1e3 : size)) + name;
  return significant(value);
}

/// 989 TFLOP/s, 3.35 TB/s
export function rate(value, unit) {
  if (!known(value)) return unknown;
  const steps = [
    [1e15, 'P'],
    [1e12, 'T'],
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
    [1, ''],
  ];
  const [size, prefix] = steps.find(([least]) => Math.abs(value) >= least) ?? [1, ''];
  return `${significant(value / size)} ${prefix}${unit}`;
}

export function number(value, digits = 3) {
  return known(value) ? significant(value, digits) : unknown;
}
