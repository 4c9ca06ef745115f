// The answer first: one sentence, how far to trust it, the figures that a decision needs.
import { definitions, el } from '../dom.js';
import { degreesText } from '../layout.js';
import { section } from '../section.js';
import * as units from '../units.js';

/// How far to trust the step, in a word (the planner's) and why.
function confidence(plan) {
  const p = plan.predicted;
  const off = p.step_seconds_high / p.step_seconds - 1;
  return confidenceText(plan, `In 80 % of cases the step is less than ${units.percent(off, 0)} off`);
}

export function confidenceText(plan, interval) {
  const measured = plan.sources?.measured ?? 0;
  const sources =
    measured > 0.0005
      ? `${units.percent(measured, 0)} of its kernel time was measured on this machine`
      : 'no kernel was measured on this machine';
  const word = plan.confidence ? `Confidence: ${plan.confidence}. ` : '';
  return el('p', { class: `confidence ${plan.confidence ?? ''}` }, `${word}${interval}; ${sources}.`);
}

function memoryText(data, plan) {
  const usable = data.detail?.machine.usable_memory_bytes;
  const reserved = plan.predicted.memory_reserved_bytes;
  if (usable === undefined || reserved === undefined) return units.gib(reserved);
  const left = usable - reserved;
  return `${units.gib(reserved)} of ${units.gib(usable)}, ${units.gib(Math.abs(left))} ${left >= 0 ? 'to spare' : 'too much'}`;
}

function verdictSentence(data) {
  const plan = data.plans[0];
  const place = `${data.model} on ${units.count(data.gpus)} × ${data.machine}`;
  if (plan === undefined) return `${place}: nothing fits${data.unreachable ? `; ${data.unreachable}` : ''}.`;
  const how = degreesText(plan.layout);
  const p = plan.predicted;
  if (!plan.fits) {
    const why = plan.rejection ? `${plan.rejection.reason}: ${plan.rejection.detail}` : 'it needs too much memory';
    return `${place} as ${how} ${p ? 'does not fit' : 'cannot run'}: ${why}.`;
  }
  const step = `${units.seconds(p.step_seconds)} a step (80 %: ${units.seconds(p.step_seconds_low)} to ${units.seconds(p.step_seconds_high)})`;
  const verb = data.search
    ? data.search.proven_best
      ? 'runs fastest as'
      : 'runs fastest, of what was searched, as'
    : 'runs, as';
  return `${place} ${verb} ${how}: ${step}, ${units.short(p.tokens_per_second)} tokens/s, ${units.percent(p.mfu)} of peak.`;
}

/// Keys of a layout that differ, as "zero 3 instead of 1".
function differences(other, layout) {
  const text = (value) => (Array.isArray(value) ? value.join('+') || 'none' : String(value));
  const told = { ...other, layers_per_chunk: undefined };
  if (other.recompute !== layout.recompute && other.recompute !== 'selective') delete told.recompute_modules;
  return Object.keys(told)
    .filter((key) => told[key] !== undefined && text(other[key]) !== text(layout[key]))
    .map((key) => `${key} ${text(other[key])} instead of ${text(layout[key])}`)
    .slice(0, 4)
    .join(', ');
}

/// Where the time goes, and what the next one does otherwise.
function whySentence(data) {
  const [first, second] = data.plans;
  const p = first?.predicted;
  if (!p) return null;
  const shares = [
    ['compute', p.compute_seconds],
    ['communication that nothing hides', p.exposed_communication_seconds],
    ['waiting for other stages', p.bubble_seconds],
    ['the optimizer', p.optimizer_seconds],
    ['the host', p.host_seconds],
  ]
    .filter(([, seconds]) => seconds / p.step_seconds >= 0.0005)
    .sort((a, b) => b[1] - a[1])
    .map(([name, seconds]) => `${units.percent(seconds / p.step_seconds)} ${name}`);
  const slower = second?.predicted && second.predicted.step_seconds / p.step_seconds - 1;
  const next =
    slower === undefined
      ? ''
      : ` The second takes ${slower < 0.00005 ? 'the same time' : `${units.percent(slower)} longer`}, with ${differences(second.layout, first.layout) || 'other layers in its chunks'}.`;
  return el('p', {}, `Why: its step is ${shares.join(', ')}.${next}`);
}

function standing(data) {
  if (!data.search || !data.plans[0]) return null;
  const ties = data.ties_with_best ?? 0;
  const best = data.search.proven_best ? 'It is proven to be the best of the space that was searched. ' : '';
  const tie =
    ties === 0
      ? 'No other layout listed is within the error of the ranking.'
      : `${ties} of the ${data.plans.length - 1} listed below it may be as fast: the error of the ranking leaves that open, which a run would settle.`;
  return el('p', {}, best, tie);
}

function figures(data, plan) {
  const p = plan.predicted;
  const share = (key) => units.percent(p[key] / p.step_seconds);
  return definitions([
    [
      'Step',
      `${units.seconds(p.step_seconds)} (${units.seconds(p.step_seconds_low)} to ${units.seconds(p.step_seconds_high)})`,
    ],
    ['Tokens/s', units.short(p.tokens_per_second)],
    ['Tokens/s of a GPU', units.count(p.tokens_per_second_per_gpu)],
    ['Model FLOP/s of a GPU', units.rate(p.model_flops_per_second_per_gpu, 'FLOP/s')],
    ['MFU', units.percent(p.mfu)],
    ['Bubble', share('bubble_seconds')],
    ['Exposed communication', share('exposed_communication_seconds')],
    ['Memory, fullest stage', memoryText(data, plan)],
    ['GPU-hours per trillion tokens', units.count(p.gpu_hours_per_trillion_tokens)],
    [
      'Price per trillion tokens',
      p.cost?.per_trillion_tokens === undefined ? null : units.count(p.cost.per_trillion_tokens),
    ],
  ]);
}

export function verdictSection(data) {
  const plan = data.plans[0];
  const sure = plan?.predicted && plan.fits ? confidence(plan) : null;
  const assumed =
    plan?.layout_assumed?.length > 0 &&
    el('p', { class: 'quiet' }, `Filled in by the planner: ${plan.layout_assumed.join(', ')}.`);
  return section(
    'verdict',
    'Verdict',
    'Confidence is high where the 80 % interval reaches no more than 10 % above the step, medium 20 %, else low.',
    el('p', { class: `verdict ${plan?.fits ? 'good' : 'bad'}` }, verdictSentence(data)),
    sure,
    whySentence(data),
    standing(data),
    plan?.predicted && figures(data, plan),
    plan && el('p', { class: 'code' }, plan.layout_text),
    assumed,
  );
}

export function questionSection(data) {
  const work = data.workload;
  const tokens = work.sequence_length * work.global_batch;
  const { machine, model } = data.detail ?? {};
  const peak = machine?.peak_flops_per_second[work.precision] ?? undefined;
  return section(
    'question',
    'What was asked',
    'Everything below answers exactly this question. Another batch, length, or number of GPUs is another question.',
    definitions([
      ['Model', data.model],
      ['Parameters', model && units.short(model.parameters)],
      [
        'Active parameters',
        model && model.active_parameters !== model.parameters ? units.short(model.active_parameters) : null,
      ],
      ['Layers', model?.num_hidden_layers],
      ['Hidden size', model && units.count(model.hidden_size)],
      ['Experts', model?.n_routed_experts ? `${model.n_routed_experts}, ${model.num_experts_per_tok} a token` : null],
      ['Machine', `${units.count(data.gpus)} × ${data.machine}`],
      [
        'Memory of a GPU',
        machine && `${units.gib(machine.memory_bytes)}, ${units.gib(machine.usable_memory_bytes)} usable`,
      ],
      [`Peak, ${work.precision}`, peak && units.rate(peak, 'FLOP/s')],
      ['Memory bandwidth', machine && units.rate(machine.memory_bytes_per_second, 'B/s')],
      ['Kernels measured on it', machine && (machine.measured ? 'yes' : 'no')],
      [
        'Workload',
        `${work.kind}, ${units.count(work.global_batch)} sequences of ${units.count(work.sequence_length)} tokens`,
      ],
      ['Tokens a step', units.count(tokens)],
      ['Precision', work.precision],
      ['Engine', data.engine],
      ['Load of experts', work.expert_load],
      ['Capacity factor', work.capacity_factor],
      ['CUDA graphs', work.cuda_graphs],
      ['Longest sequence that fits, in multiples of', data.longest_sequence_multiple_of],
    ]),
    tokens > 2 ** 22 &&
      el(
        'p',
        { class: 'quiet' },
        'More than 4 Mi tokens a step: that the model learns as well from so many is your choice, it is not modelled.',
      ),
  );
}
