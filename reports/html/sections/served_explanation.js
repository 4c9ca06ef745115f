// Why a served layout answers what it answers, beside another, and what would turn it.
import { el } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import * as units from '../units.js';
import { compared, partsBeside } from './explanation.js';
import { servedSensitivitySection } from './plan_sensitivity.js';
import { searchFigures } from './plan_ranking.js';
import { placeText, servedColumns, servedLayoutColumns, servedQuestionSection, servedText } from './serving.js';

const kStandings = {
  best: 'answers as much as any layout of the question',
  slower: 'answers less than the best',
  too_large: 'does not fit',
  breaks_promise: 'breaks a promise at every load',
  impossible: 'cannot be run',
};

/// As the text report names parts of the time between two tokens.
const kNames = {
  products: 'matrix products',
  memory: 'norms, activations, …',
  exchange: "experts' exchange",
  hidden: 'of it, hidden',
  engine: 'gaps, stages that wait',
  prompts: 'prompts of others',
};

function standingSection(data) {
  const plan = data.layout;
  const best = data.best?.predicted?.output_tokens_per_second;
  const less = best && data.standing === 'slower' ? 1 - plan.predicted.output_tokens_per_second / best : undefined;
  const why = plan.rejection ? ` (${plan.rejection.reason}: ${plan.rejection.detail})` : '';
  const beside = compared(data).map(([name, of]) => ({ name, ...of }));
  return section(
    'standing',
    'Standing',
    'What was asked about, at the load that is the best for it, beside the best layout of the same question.',
    el(
      'p',
      { class: `verdict ${data.standing === 'best' ? 'good' : 'bad'}` },
      `${data.model} on ${placeText(data)}: ${servedText(plan.layout)} ${kStandings[data.standing] ?? data.standing}${less === undefined ? '' : ` (${units.percent(less)})`}${why}.`,
    ),
    data.limit && el('p', {}, `No larger batch: ${data.limit.reason}: ${data.limit.detail}.`),
    table({
      name: 'layouts compared',
      filter: false,
      rows: beside,
      columns: [{ title: 'which', value: (of) => of.name, left: true }, ...servedColumns, ...servedLayoutColumns],
    }),
    el('p', { class: 'code' }, plan.layout_text),
    searchFigures(data.search),
  );
}

function partsSection(data) {
  const shown = compared(data)
    .filter(([, of]) => of.round_seconds_by_part)
    .map(([name, { round_seconds_by_part: parts }]) => [name, parts, Object.values(parts).reduce((a, b) => a + b, 0)]);
  if (shown.length === 0) return null;
  return section(
    'parts',
    'Where the time between two tokens goes',
    'From one step that brings tokens to the next: the parts add up. What an exchange hides behind computing is taken off again.',
    partsBeside('Until the next tokens', shown, { name: 'seconds', words: (part) => kNames[part] ?? part }),
  );
}

const kMemory = [
  ['weights', 'weights_bytes'],
  ['activations of a step', 'activations_bytes'],
  ['CUDA graphs', 'cuda_graphs_bytes'],
  ['workspaces', 'workspace_bytes'],
  ['left for keys and values', 'kv_pool_bytes'],
  ['a whole request’s keys and values', 'kv_bytes_per_sequence'],
];

function memorySection(data) {
  const shown = compared(data).filter(([, of]) => of.predicted?.memory);
  if (shown.length === 0) return null;
  return section(
    'memory',
    'Where the memory of a GPU goes',
    'Of the fullest stage. What is left holds keys and values: as many whole requests at once as it has room for.',
    table({
      name: 'parts of the memory',
      filter: false,
      rows: [...kMemory, ['largest batch of a rank', 'max_batch']],
      columns: [
        { title: 'part', value: ([name]) => name, left: true },
        ...shown.map(([name, { predicted }]) => ({
          title: name,
          value: ([, key]) => predicted.memory[key],
          text: ([, key]) =>
            key.includes('bytes') ? units.bytes(predicted.memory[key]) : units.count(predicted.memory[key]),
        })),
      ],
    }),
  );
}

/// "tp 8 → 4, dp 1 → 2": what differs between two layouts.
function differences(from, to) {
  return Object.keys(to)
    .filter((key) => key !== 'replicas' && typeof to[key] === 'number' && from[key] !== to[key])
    .map((key) => `${key.replaceAll('_', ' ')} ${from[key]} → ${to[key]}`)
    .join(', ');
}

function changesTable(data, title, list) {
  if (!list?.length) return null;
  return [
    el('h4', {}, title),
    table({
      name: `changes of ${title.toLowerCase()}`,
      filter: false,
      rows: list,
      columns: [
        { title: 'change', value: (change) => differences(data.layout.layout, change.layout), wide: true },
        { title: 'turns it', value: (change) => (change.turns ? 'yes' : 'no'), help: 'then none answers more' },
        ...servedColumns,
      ],
    }),
  ];
}

function changesSection(data) {
  const parts = [
    changesTable(data, 'One key', data.changes),
    changesTable(data, 'Two keys', data.pairs),
  ].filter(Boolean);
  if (parts.length === 0) return null;
  return section(
    'changes',
    'What would turn it',
    'The smallest changes of keys that answer more and keep what is promised; what follows from a key is changed with it.',
    parts,
  );
}

export function servedExplanationSections(data) {
  return [
    standingSection(data),
    servedQuestionSection(data),
    partsSection(data),
    memorySection(data),
    changesSection(data),
    servedSensitivitySection(data.what_if, data.layout),
  ];
}
