// A layout's keys as people write them, and what several sections say about one.
import * as units from './units.js';

/// "2 ring"; the kind says nothing of one rank.
function contextText(layout) {
  return layout.cp > 1 ? `${layout.cp} ${layout.cp_kind}` : String(layout.cp);
}

function recomputeText(layout) {
  return layout.recompute === 'selective' ? layout.recompute_modules.join('+') : layout.recompute;
}

function zeroText(layout) {
  const whole = layout.zero === 0 || layout.fsdp_group === layout.dp * layout.cp;
  return whole ? String(layout.zero) : `${layout.zero} in groups of ${layout.fsdp_group}`;
}

/// "tp 1 · pp 16 · cp 2 ring · dp 64 · ep 32"
export function degreesText(layout) {
  const parts = [`tp ${layout.tp}`, `pp ${layout.pp}`];
  if (layout.vpp > 1) parts.push(`vpp ${layout.vpp}`);
  if (layout.cp > 1) parts.push(`cp ${contextText(layout)}`);
  parts.push(`dp ${layout.dp}`);
  if (layout.ep > 1) parts.push(`ep ${layout.ep}`);
  if (layout.etp > 1) parts.push(`etp ${layout.etp}`);
  return parts.join(' · ');
}

/// Columns of table.js for rows that are { plan, ... }.
export const layoutColumns = [
  { title: 'tp', value: ({ plan }) => plan.layout.tp, help: 'tensor parallelism', always: true },
  { title: 'sp', value: ({ plan }) => (plan.layout.sequence_parallel ? 'yes' : 'no'), help: 'sequence parallelism' },
  {
    title: 'cp',
    value: ({ plan }) => plan.layout.cp,
    text: ({ plan }) => contextText(plan.layout),
    help: 'context parallelism',
  },
  { title: 'pp', value: ({ plan }) => plan.layout.pp, help: 'pipeline stages', always: true },
  { title: 'vpp', value: ({ plan }) => plan.layout.vpp, help: 'chunks of layers a stage' },
  { title: 'dp', value: ({ plan }) => plan.layout.dp, help: 'data parallelism', always: true },
  { title: 'ep', value: ({ plan }) => plan.layout.ep, help: 'expert parallelism' },
  { title: 'etp', value: ({ plan }) => plan.layout.etp, help: 'tensor parallelism of an expert' },
  {
    title: 'zero',
    value: ({ plan }) => zeroText(plan.layout),
    help: 'ZeRO stage: what of optimizer, gradients, parameters is sharded',
  },
  {
    title: 'micro-batch',
    value: ({ plan }) => plan.layout.micro_batch,
    help: 'sequences of a micro-batch',
    always: true,
  },
  {
    title: 'recompute',
    value: ({ plan }) => recomputeText(plan.layout),
    text: ({ plan }) => recomputeText(plan.layout).replaceAll('+', '+\u200b'), // a line may end there
    help: 'what runs again in backward',
    left: true,
  },
  { title: 'schedule', value: ({ plan }) => plan.layout.schedule, help: 'of the pipeline', left: true },
  { title: 'rank order', value: ({ plan }) => plan.layout.rank_order, help: 'innermost axis first', left: true },
  { title: 'precision', value: ({ plan }) => plan.precision, left: true },
];

const predicted =
  (key) =>
  ({ plan }) =>
    plan.predicted?.[key];
const ofStep =
  (key) =>
  ({ plan }) =>
    plan.predicted ? plan.predicted[key] / plan.predicted.step_seconds : undefined;

/// What a reader compares first; in front of a layout's keys.
export const resultColumns = [
  {
    title: 'step s',
    value: predicted('step_seconds'),
    text: ({ plan }) => units.number(plan.predicted?.step_seconds, 4),
    help: 'seconds of an optimizer step',
    always: true,
  },
  {
    title: 'tokens/s/GPU',
    value: predicted('tokens_per_second_per_gpu'),
    text: ({ plan }) => units.count(plan.predicted?.tokens_per_second_per_gpu),
    always: true,
  },
  {
    title: 'MFU %',
    value: predicted('mfu'),
    text: ({ plan }) => units.number(plan.predicted?.mfu * 100),
    help: 'model FLOPs utilization, of the peak of the precision',
    always: true,
  },
  {
    title: 'memory GiB',
    value: ({ plan }) => gibOf(plan),
    text: ({ plan }) => units.number(gibOf(plan)),
    help: 'reserved on a GPU of the fullest stage',
    always: true,
  },
];

/// And behind them.
export const moreResultColumns = [
  {
    title: 'from s',
    value: predicted('step_seconds_low'),
    text: ({ plan }) => units.number(plan.predicted?.step_seconds_low),
    help: 'lower end of the interval that holds the step in 80 % of cases',
  },
  {
    title: 'to s',
    value: predicted('step_seconds_high'),
    text: ({ plan }) => units.number(plan.predicted?.step_seconds_high),
    help: 'its upper end',
  },
  {
    title: 'bubble %',
    value: ofStep('bubble_seconds'),
    text: (row) => units.number(ofStep('bubble_seconds')(row) * 100),
    help: 'share of the step that the slowest stage waits for others',
  },
  {
    title: 'exposed %',
    value: ofStep('exposed_communication_seconds'),
    text: (row) => units.number(ofStep('exposed_communication_seconds')(row) * 100),
    help: 'share of the step that is communication beside which nothing computes',
  },
];

function gibOf(plan) {
  return plan.predicted?.memory_reserved_bytes === undefined
    ? undefined
    : plan.predicted.memory_reserved_bytes / 2 ** 30;
}
