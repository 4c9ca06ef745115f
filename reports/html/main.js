/*! This page contains Apache ECharts 6 and zrender 6 (https://echarts.apache.org, Apache License 2.0 and BSD 3-Clause). */
// The page: unpacks what it carries and shows each file, section by section.
import { unpack } from './data.js';
import { append, button, el, select } from './dom.js';
import { download } from './download.js';
import { section } from './section.js';
import { compareSection } from './sections/compare.js';
import { explanationSections } from './sections/explanation.js';
import { genericSections } from './sections/generic.js';
import { kernelsSection, unmeasuredSection } from './sections/plan_kernels.js';
import { linksSection } from './sections/plan_links.js';
import { loopTrialSections } from './sections/loop_trial.js';
import { memorySection } from './sections/plan_memory.js';
import { paretoSection, rankingSection } from './sections/plan_ranking.js';
import { commandsSection, runSection } from './sections/plan_run.js';
import { sensitivitySection } from './sections/plan_sensitivity.js';
import { stepSection } from './sections/plan_step.js';
import { timelineSection } from './sections/plan_timeline.js';
import { questionSection, verdictSection } from './sections/plan_verdict.js';
import { servedExplanationSections } from './sections/served_explanation.js';
import { servingSections } from './sections/serving.js';
import { sweepSections } from './sections/sweep.js';
import { trialSections } from './sections/trial.js';
import { validationSections } from './sections/validation.js';
import { setTheme } from './theme.js';

const kPlanSections = [
  verdictSection,
  questionSection,
  rankingSection,
  stepSection,
  memorySection,
  timelineSection,
  paretoSection,
  kernelsSection,
  linksSection,
  sensitivitySection,
  runSection,
  unmeasuredSection,
  commandsSection,
];

/// By schema, "shardwright.<kind>/1": what a file is called, and its sections.
const kKinds = {
  plan_result: {
    title: (data) => (data.search ? 'Plan' : 'Estimate'),
    sections: (data) => kPlanSections.map((make) => make(data)),
  },
  explanation: { title: () => 'Explanation', sections: explanationSections },
  validation: { title: () => 'Validation', sections: validationSections },
  sweep: { title: () => 'Sweep', sections: sweepSections },
  trial: { title: () => 'Trial', sections: trialSections },
  loop_trial: { title: () => 'Trials', sections: loopTrialSections },
};

/// Of serving, whose plans have other keys than those of training.
const kServedKinds = {
  plan_result: { title: ({ search }) => (search ? 'Serving' : 'Serving, one layout'), sections: servingSections },
  explanation: { title: () => 'Serving, explained', sections: servedExplanationSections },
};

function kindOf(data) {
  const kind = /^shardwright\.(\w+)\//.exec(data.schema)?.[1] ?? '';
  const kinds = data.workload?.kind === 'serving' ? kServedKinds : kKinds;
  return kinds[kind] ?? { title: () => kind.replaceAll('_', ' '), sections: genericSections };
}

function controls(files) {
  const theme = select(
    'Theme',
    [
      ['', 'as the system'],
      ['light', 'light'],
      ['dark', 'dark'],
    ],
    setTheme,
  );
  return el(
    'div',
    { class: 'controls', role: 'group', 'aria-label': 'This page' },
    theme.element,
    button('Print', () => print()),
    files.map((file) =>
      button(files.length === 1 ? 'Download the data' : `Data of ${file.name}`, () =>
        download(
          `${file.name.replace(/\.json$/, '').replace(/[^\w.-]+/g, '-')}.json`,
          JSON.stringify(file.data, null, 2),
          'application/json',
        ),
      ),
    ),
  );
}

function article(file) {
  const { kind, sections } = file;
  return el(
    'article',
    { id: file.prefix, 'aria-labelledby': `${file.prefix}-title` },
    el('h2', { id: `${file.prefix}-title` }, `${kind.title(file.data)}: ${file.name}`),
    sections.map((part) => part.build(file.prefix)),
  );
}

function contents(files, compare) {
  const link = (prefix, part) => el('li', {}, el('a', { href: `#${prefix}-${part.id}` }, part.title));
  return el(
    'nav',
    { 'aria-label': 'Sections' },
    compare && el('ul', {}, link('page', compare)),
    files.map((file) => [
      files.length > 1 && el('p', {}, el('a', { href: `#${file.prefix}` }, file.name)),
      el(
        'ul',
        {},
        file.sections.map((part) => link(file.prefix, part)),
      ),
    ]),
  );
}

function titleOf(files) {
  const [first] = files;
  if (files.length > 1) return `Shardwright: ${files.map((file) => file.name).join(', ')}`;
  return first.data.model
    ? `Shardwright: ${first.data.model} on ${first.data.machine}`
    : `Shardwright: ${first.kind.title(first.data)}`;
}

/// A file of another version, or one that was edited, may lack what its kind should have: then its values are shown as they
/// are, and that this is so.
function sectionsOf(kind, data) {
  try {
    return kind.sections(data);
  } catch (error) {
    const why = el(
      'p',
      { role: 'alert', class: 'verdict bad' },
      `This file lacks something that a ${kind.title(data).toLowerCase()} has (${error.message}). Its values follow as they are.`,
    );
    return [section('problem', 'Not as expected', '', why), ...genericSections(data)];
  }
}

function build(read) {
  const files = read.map((file, i) => {
    const kind = kindOf(file.data);
    return { ...file, kind, prefix: `part${i + 1}`, sections: sectionsOf(kind, file.data).filter(Boolean) };
  });
  const compare = compareSection(files);
  document.title = titleOf(files);
  const version = [...new Set(files.map((file) => file.data.shardwright_version))].filter(Boolean).join(', ');
  append(document.body, [
    el('a', { class: 'skip', href: '#main' }, 'Skip to the report'),
    el('header', {}, el('h1', {}, titleOf(files)), controls(files)),
    el(
      'div',
      { class: 'columns' },
      contents(files, compare),
      el('main', { id: 'main' }, compare?.build('page'), files.map(article)),
    ),
    el(
      'footer',
      {},
      `Made by Shardwright ${version}. Everything on this page is within the file; it asks for nothing from any network.`,
    ),
  ]);
  // What was asked for in the address was not there when the browser looked for it.
  if (location.hash.length > 1) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  document.documentElement.dataset.ready = 'yes';
}

unpack()
  .then(build)
  .catch((error) => {
    append(document.body, [
      el(
        'p',
        { role: 'alert', class: 'verdict bad' },
        `This report cannot be shown: ${error.message}. It needs a browser of 2023 or later.`,
      ),
    ]);
    throw error;
  });
