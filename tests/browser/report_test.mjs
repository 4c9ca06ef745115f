// report_test.mjs SHARDWRIGHT CHROMIUM: every kind of page, opened from disk as a reader would.
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { check, same, sideBySide, summary, test } from './check.mjs';
import { kHostile, makePages } from './pages.mjs';

// Packages lie in the build's folder, not beside this file.
const require = createRequire(join(resolve(process.env.NODE_PATH), 'any.js'));
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const [program, browserPath] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), 'shardwright-browser-'));
const pages = makePages(resolve(program), folder);
const browser = await chromium.launch({
  executablePath: browserPath,
  args: [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});

/// Opens a page; everything that it says or asks for is kept.
async function open(name, { width = 1280, height = 900, colorScheme = 'light', hash = '' } = {}) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme,
    acceptDownloads: true,
  });
  const page = await context.newPage();
  const said = [];
  const requests = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) said.push(message.text());
  });
  page.on('pageerror', (error) => said.push(error.message));
  page.on('request', (request) => {
    if (!request.url().startsWith('data:')) requests.push(request.url());
  });
  const session = await context.newCDPSession(page);
  await session.send('Performance.enable');
  const start = performance.now();
  await page.goto(pathToFileURL(pages[name]).href + hash);
  await page.waitForSelector('html[data-ready]', { timeout: 20000 });
  const opened = performance.now() - start;
  const { metrics } = await session.send('Performance.getMetrics');
  const busy = metrics.find((metric) => metric.name === 'TaskDuration').value; // seconds of the page's main thread
  await session.detach();
  return { page, said, requests, opened, busy, close: () => context.close() };
}

/// The table behind the chart of a part of the page. It is made when it is opened.
async function openTable(part) {
  await part.locator('summary').click();
  await part.locator('details tbody th').first().waitFor();
}

async function scrollThrough(page) {
  await page.evaluate(async () => {
    for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight) {
      scrollTo(0, y);
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 5)));
    }
    scrollTo(0, 0);
  });
}

/// Of each chart: its title, and what share of its pixels differs from the most frequent one, which is the paper.
const inkOfCharts = (page) =>
  page.evaluate(() =>
    [...document.querySelectorAll('.chart')].map((box) => {
      const canvas = box.querySelector('canvas');
      const title = box.getAttribute('aria-label').slice(0, 40);
      if (canvas === null) return { title, ink: 0 };
      const pixels = new Uint32Array(
        canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer,
      );
      const counts = new Map();
      for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
      return { title, ink: 1 - Math.max(...counts.values()) / pixels.length };
    }),
  );

/// The pixels of one chart, in a number.
const pixelsOf = (page, chart) =>
  chart.evaluate((box) => {
    const canvas = box.querySelector('canvas');
    return canvas
      .getContext('2d')
      .getImageData(0, 0, canvas.width, canvas.height)
      .data.reduce((hash, value, i) => (hash * 31 + value * ((i % 251) + 1)) | 0, 7);
  });

async function axeFindings(page) {
  // As a debugger does: the page's policy would refuse a script.
  const session = await page.context().newCDPSession(page);
  await session.send('Runtime.evaluate', { expression: axe });
  await session.detach();
  const { violations } = await page.evaluate(() =>
    window.axe.run(document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'],
      resultTypes: ['violations'],
    }),
  );
  return violations
    .filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(
      ({ id, nodes }) =>
        `${id}: ${nodes
          .slice(0, 3)
          .map((node) => node.target.join(' '))
          .join(', ')}`,
    );
}

const widthOf = (page) => page.evaluate(() => document.documentElement.scrollWidth);

/// Pages with the least number of charts each has, and where axe looks: a width, light or dark.
const kinds = {
  plan: { charts: 9, axe: [1280, 'light'] },
  serving: { charts: 4, axe: [390, 'light'] },
  served: { charts: 3 },
  load: { charts: 3, axe: [1280, 'dark'] },
  unkept: { charts: 0 },
  both: { charts: 8 },
  lines: { charts: 4 },
  nothing: { charts: 0, axe: [390, 'dark'] },
  estimate: { charts: 6, axe: [390, 'dark'] },
  large: { charts: 5 },
  impossible: { charts: 0 },
  explain: { charts: 1, axe: [390, 'light'] },
  validate: { charts: 2, axe: [1280, 'dark'] },
  sweep: { charts: 1, axe: [390, 'light'] },
  trial: { charts: 5, axe: [390, 'dark'] },
  ran: { charts: 4, axe: [1280, 'light'] },
  alone: { charts: 4, axe: [390, 'dark'] },
  explained: { charts: 2, axe: [390, 'dark'] },
  unserved: { charts: 0 },
  loop: { charts: 3, axe: [390, 'light'] },
  models: { charts: 0, axe: [390, 'light'] },
  several: { charts: 20 },
  bare: { charts: 4 },
  other: { charts: 0 },
};
await sideBySide(Object.entries(kinds), ([name, { charts, axe }]) =>
  test(`the page of ${name} opens from disk, asks for nothing, draws its charts, and suits a phone`, async () => {
    const { page, said, requests, close } = await open(name);
    await scrollThrough(page);
    const inks = await inkOfCharts(page);
    check(`at least ${charts} charts`, inks.length >= charts, inks.length);
    same(
      'no chart is blank',
      inks.filter(({ ink }) => ink < 0.004),
      [],
    );
    same('no sideways scrolling at 1280 pixels', await widthOf(page), 1280);
    await page.setViewportSize({ width: 390, height: 844 });
    await scrollThrough(page);
    same('nor at 390', await widthOf(page), 390);
    if (axe) {
      const [width, colorScheme] = axe;
      await page.setViewportSize({ width, height: 844 });
      await page.emulateMedia({ colorScheme });
      same(`axe finds nothing serious at ${width} pixels, ${colorScheme}`, await axeFindings(page), []);
    }
    same('nothing on the console', said, []);
    same('one request', requests, [pathToFileURL(pages[name]).href]);
    await close();
  }),
);

await test('a file that is not as expected is shown as it is, and the page says so', async () => {
  const { page, close } = await open('other');
  check(
    'says so',
    (await page.getByRole('alert').textContent()).startsWith('This file lacks something that a validation has ('),
  );
  check('shows it', await page.getByText('of another version').first().isVisible());
  await close();
});

await test('a trial shows its calibration and its inference', async () => {
  const { page, close } = await open('ran');
  const calibration = page.locator('section[id$="-calibration"]');
  const texts = await calibration.locator('tbody tr').allTextContents();
  check('a factor', texts[0].includes('gemm12× 1.25020.0 %3.0 %'), texts[0]);
  check('layouts ranked again', texts[1].startsWith('12625 ms500 ms'), texts[1]);
  const inference = page.locator('section[id$="-inference"]');
  const proof = await inference.locator('.verdict').textContent();
  check('its proof', proof.startsWith('Equal to one rank’s that keeps no keys and values'), proof);
  same('prefill and decode', await inference.locator('tbody tr').count(), 2);
  await close();
});

await test('a rank that ran alone says what was measured and what is priced', async () => {
  const { page, close } = await open('alone');
  const trial = JSON.parse(readFileSync(join(folder, 'alone.json'), 'utf8'));
  const verdict = await page.locator('.verdict').textContent();
  check('which rank', verdict.startsWith('Rank 2 of 4 alone: measured '), verdict);
  check('what was not run', verdict.endsWith('Communication is priced, not run.'), verdict);
  const quantities = await page.locator('section[id$="-measured"] tbody tr').allTextContents();
  const step = quantities.find((text) => text.startsWith('step_seconds'));
  check('a step of both', !step.includes('–') && trial.alone.step_seconds_of_both > 0, step);
  const moved = quantities.find((text) => text.startsWith('exposed_communication_seconds'));
  check('nothing measured of communication', moved.endsWith('––'), moved);
  const memory = page.locator('section[id$="-memory"]');
  await openTable(memory);
  same('its stage', await memory.locator('details tbody th').allTextContents(), ['stage 1']);
  await close();
});

await test('a collection of trials shows its verdict, void rounds and the ranking', async () => {
  const { page, close } = await open('loop');
  same(
    'verdict',
    await page.locator('.verdict').textContent(),
    '2 of 2 rounds are within 10 %; 3 layouts of one model are ranked with a Kendall tau of 0.33.',
  );
  const rows = page.locator('section[id$="-rounds"] > .table tbody tr');
  check('a void round has no error', (await rows.nth(1).textContent()).includes('300 ms––'));
  const ranking = page.locator('section[id$="-ranking"]');
  same('one pair is the wrong way round', await ranking.locator('.facts dd').allTextContents(), ['3', '1']);
  same(
    'places as measured, then as predicted',
    await ranking.locator('> .table tbody tr').evaluateAll((list) =>
      list.map((row) =>
        [...row.children]
          .slice(0, 2)
          .map((cell) => cell.textContent)
          .join(),
      ),
    ),
    ['1,2', '2,1', '3,3'],
  );
  await close();
});

await test('a serving plan shows its links, what would change it, and how to ask again', async () => {
  const { page, close } = await open('serving');
  const { plans, detail } = JSON.parse(readFileSync(join(folder, 'serving.json'), 'utf8'));
  const links = page.locator('section[id$="-links"]');
  same(
    'each level of links',
    await links.locator('.table').first().locator('tbody tr').count(),
    detail.machine.links.length,
  );
  const axes = detail.pools.flatMap((pool) => pool.axes.map(({ axis, ranks }) => `${axis}${ranks}`));
  same(
    'axes of every pool',
    (await links.locator('h4 + .table tbody tr').allTextContents()).filter((text, i) => text.startsWith(axes[i]))
      .length,
    axes.length,
  );
  const sensitivity = page.locator('section[id$="-sensitivity"]');
  await openTable(sensitivity);
  same('each change', await sensitivity.locator('tbody tr').count(), detail.what_if.length);
  same('the command', await page.locator('section[id$="-commands"] pre').textContent(), detail.command);
  check(
    'is of the first',
    plans[0].layout.serving === 'disaggregated' || detail.command.includes(plans[0].layout_text),
  );
  await close();
  const estimate = await open('served');
  check(
    'prices the layout',
    (await estimate.page.locator('section[id$="-commands"] pre').textContent()).includes('--layout tp=2,pp=1'),
  );
  await estimate.close();
});

await test('a page that is opened on a phone does not scroll sideways', async () => {
  for (const name of ['several', 'hostile']) {
    const { page, close } = await open(name, { width: 390, height: 844 });
    await scrollThrough(page);
    same(`width of ${name}`, await widthOf(page), 390);
    await close();
  }
});

await test('layouts sort by a column and filter by words, with the keyboard', async () => {
  const { page, close } = await open('plan');
  const table = page.locator('section[id$="-ranking"] .table').first();
  const column = async (title) => {
    const titles = await table
      .locator('thead th')
      .evaluateAll((cells) => cells.map((cell) => cell.querySelector('button').dataset.column));
    return table.locator(`tbody tr > :nth-child(${titles.indexOf(title) + 1})`).allTextContents();
  };
  const header = table.getByRole('button', { name: 'memory GiB' });
  await header.focus();
  await page.keyboard.press('Enter');
  const rising = (await column('memory GiB')).map(Number);
  same(
    'rising',
    rising,
    rising.slice().sort((a, b) => a - b),
  );
  same('as aria-sort says', await table.locator('th[aria-sort="ascending"]').count(), 1);
  await page.keyboard.press('Enter');
  const falling = (await column('memory GiB')).map(Number);
  same(
    'falling',
    falling,
    falling.slice().sort((a, b) => b - a),
  );
  same('20 layouts', falling.length, 20);
  const rank = (await column('#'))[0];
  await table.getByLabel('Filter').fill('no-such-word');
  same('no row', await table.locator('tbody tr').count(), 0);
  same('which it says', await table.getByRole('status').textContent(), '0 of 20 layouts');
  await table.getByLabel('Filter').fill('');
  same('the order stays', (await column('#'))[0], rank);
  await page.getByLabel('Show what was rejected, and why').check();
  check('reasons are shown', await page.getByRole('columnheader', { name: 'meaning' }).isVisible());
  const rejected = page.getByRole('region', { name: 'Table of rejected layouts' });
  const { rejected: examples } = JSON.parse(readFileSync(join(folder, 'plan.json'), 'utf8'));
  same('single rejected layouts', await rejected.locator('tbody tr').count(), examples.length);
  check('with their reasons', (await rejected.textContent()).includes(examples[0].rejection.detail));
  await close();
});

await test('every layout that was priced is a point of the chart of time against memory', async () => {
  const { page, close } = await open('plan');
  const { search, pareto, priced_layouts: priced, plans } = JSON.parse(readFileSync(join(folder, 'plan.json'), 'utf8'));
  same('as many as the search counts', priced.layout_text.length, search.priced);
  check('more than are listed', priced.layout_text.length > plans.length);
  const part = page.locator('section[id$="-memory-for-time"]');
  await openTable(part);
  same(
    'and the table behind it has them',
    await part.getByRole('status').textContent(),
    `${search.priced.toLocaleString('en')} priced layouts`,
  );
  const summary = await part.locator('[role="img"]').first().getAttribute('aria-label');
  check('the front is marked', summary.includes(`${pareto.length} of them need less memory`), summary);
  check(
    'a layout as estimate takes it',
    (await part.locator('details tbody tr').first().textContent()).includes(plans[0].layout_text),
  );
  await close();
});

await test('a word with = is a whole cell', async () => {
  const { page, close } = await open('many');
  const { plans } = JSON.parse(readFileSync(join(folder, 'many.json'), 'utf8'));
  const table = page.locator('section[id$="-ranking"] .table').first();
  await table.getByLabel('Filter').fill('tp=1 pp=2');
  const wanted = plans.filter(({ layout }) => layout.tp === 1 && layout.pp === 2).length;
  check('some are', wanted > 0 && wanted < plans.length, wanted);
  same(
    'as many as the file has, those behind the first hundred, too',
    await table.getByRole('status').textContent(),
    `${wanted.toLocaleString('en')} of 10,000 layouts`,
  );
  await close();
});

await test('an answer of serving shows speed for all and for each, what a token waits for, and percentiles', async () => {
  const { page, close } = await open('serving');
  const { plans } = JSON.parse(readFileSync(join(folder, 'serving.json'), 'utf8'));
  check('the verdict', (await page.locator('.verdict').textContent()).includes('tokens/s of a GPU'));
  check('its confidence', (await page.locator('.confidence').textContent()).startsWith('Confidence: '));
  const latency = page.locator('section[id$="-latency"]');
  await openTable(latency);
  const titles = await latency.locator('details tbody th').allTextContents();
  check("others' prompts are a part of a token's time", titles.includes("others' prompts"), titles);
  const shares = await latency.locator('details tbody td:nth-child(3)').allTextContents();
  const sum = shares.map(parseFloat).reduce((a, b) => a + b, 0);
  check('the parts add up', Math.abs(sum - 100) < 1, sum);
  check(
    'why the batch is no larger',
    await page.getByText(plans[0].predicted.memory.max_batch_reason).first().isVisible(),
  );
  await close();
  const other = await open('load');
  const table = other.page.getByRole('region', { name: 'Table of percentiles' });
  same('percentiles with units', await table.locator('tbody tr').allTextContents(), ['first token (TTFT)100 ms400 ms']);
  await other.close();
});

await test('every layout that answers in time is a point of the chart of speeds', async () => {
  const { page, close } = await open('serving');
  const { pareto, priced_layouts: priced } = JSON.parse(readFileSync(join(folder, 'serving.json'), 'utf8'));
  const front = page.locator('section[id$="-front"]');
  await openTable(front);
  const both = priced.output_tokens_per_second_per_user.filter((speed, i) =>
    pareto.some(
      ({ predicted: p }) =>
        p.output_tokens_per_second_per_user === speed &&
        p.output_tokens_per_second_per_gpu === priced.output_tokens_per_second_per_gpu[i],
    ),
  ).length;
  same(
    'those of the front once',
    await front.getByRole('status').textContent(),
    `${priced.layout_text.length - both + pareto.length} layouts by speed`,
  );
  await close();
});

await test('a served layout is explained: its standing, its parts, its memory and what turns it', async () => {
  const { page, close } = await open('explained');
  const answer = JSON.parse(readFileSync(join(folder, 'explained.json'), 'utf8'));
  const verdict = await page.locator('.verdict').textContent();
  check('the verdict', verdict.includes('answers less than the best ('), verdict);
  const parts = page.locator('section[id$="-parts"]');
  await openTable(parts);
  same(
    'three layouts side by side',
    await parts.locator('details thead th').count(),
    1 + ['layout', 'best', 'against'].filter((key) => answer[key]).length,
  );
  const memory = page.locator('section[id$="-memory"] tbody tr');
  check(
    'largest batches',
    (await memory.last().textContent()).includes(answer.layout.predicted.max_batch.toLocaleString('en')),
  );
  const changes = page.locator('section[id$="-changes"] tbody tr');
  same('changes', await changes.count(), answer.changes.length + answer.pairs.length);
  check(
    'from and to',
    /^tp 4 → \d, dp 1 → \d/.test(await changes.first().textContent()),
    await changes.first().textContent(),
  );
  same('sensitivity', await page.locator('section[id$="-sensitivity"]').count(), 1);
  await close();
});

await test('the pipeline zooms by buttons and keys, and a stack of memory opens its tensors', async () => {
  const { page, close } = await open('plan', { hash: '#part1-pipeline' });
  const gantt = page.locator('section[id$="-pipeline"] .chart').first();
  await gantt.scrollIntoViewIfNeeded();
  await page.waitForFunction(() => document.querySelector('section[id$="-pipeline"] .chart').dataset.drawn);
  const settle = () => page.waitForTimeout(150);
  await settle();
  const whole = await pixelsOf(page, gantt);
  const controls = page.locator('section[id$="-pipeline"] figure').first();
  await controls.getByRole('button', { name: 'Zoom in' }).click();
  await settle();
  const zoomed = await pixelsOf(page, gantt);
  check('zooms in', zoomed !== whole);
  await controls.getByRole('button', { name: 'Later' }).click();
  await settle();
  check('moves', (await pixelsOf(page, gantt)) !== zoomed);
  await gantt.focus();
  await page.keyboard.press('0');
  await settle();
  same('whole again', await pixelsOf(page, gantt), whole);
  await page.keyboard.press('+');
  await settle();
  same('as the button does', await pixelsOf(page, gantt), zoomed);
  await controls.locator('summary').click();
  await controls.locator('tbody tr').first().waitFor();
  check('tasks as a table', (await controls.locator('tbody tr').count()) > 10);

  await close();
  const other = await open('estimate', { hash: '#part1-memory' });
  const memory = other.page.locator('section[id$="-memory"]');
  const stage = memory.getByLabel('Tensors of stage', { exact: true });
  const tensors = memory.locator('.table').last();
  check('tensors of the fullest stage', (await tensors.locator('tbody tr').count()) > 3);
  const box = await memory.locator('.chart').boundingBox();
  const inner = box.width - 56 - 24; // within the chart's margins four stacks share the width
  await other.page.waitForFunction(() => document.querySelector('section[id$="-memory"] .chart').dataset.drawn);
  await other.page.mouse.click(box.x + 56 + (inner * 2.5) / 4, box.y + box.height - 48 - 15);
  same('the third stack is stage 2', await stage.inputValue(), '2');
  check('its tensors', (await tensors.getByRole('status').textContent()).endsWith(' tensors of stage 2'));
  await stage.selectOption('3');
  check('by the keyboard, too', (await tensors.getByRole('status').textContent()).endsWith(' tensors of stage 3'));
  await other.close();
});

await test('what is downloaded is what was asked for', async () => {
  const { page, close } = await open('plan');
  const saved = async (click) => {
    const [download] = await Promise.all([page.waitForEvent('download'), click()]);
    return { name: download.suggestedFilename(), text: readFileSync(await download.path(), 'utf8') };
  };
  const whole = await saved(() => page.getByRole('button', { name: 'Download the data' }).click());
  same('the file of --json', JSON.parse(whole.text), JSON.parse(readFileSync(join(folder, 'plan.json'), 'utf8')));
  const csv = await saved(() => page.getByRole('button', { name: 'Download layouts as CSV' }).click());
  same('its name', csv.name, 'layouts.csv');
  const lines = csv.text.trimEnd().split('\r\n');
  same('a line for each layout and one of titles', lines.length, 21);
  check('titles', lines[0].startsWith('#,step s,tokens/s/GPU,'), lines[0]);
  const json = await saved(() => page.getByRole('button', { name: 'Download layouts as JSON' }).click());
  const plan = JSON.parse(whole.text);
  same('unrounded', JSON.parse(json.text)[0]['step s'], plan.plans[0].predicted.step_seconds);
  await close();
});

await test("dark is the system's until the reader chooses, for page and charts", async () => {
  const paper = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const { page, close } = await open('plan', { colorScheme: 'dark' });
  same('dark by the system', await paper(page), 'rgb(20, 23, 27)');
  const box = page.locator('.chart').first();
  await box.scrollIntoViewIfNeeded();
  await page.waitForFunction(() => document.querySelector('.chart').dataset.drawn);
  const dark = await pixelsOf(page, box);
  await page.getByLabel('Theme').selectOption('light');
  same('light by choice', await paper(page), 'rgb(255, 255, 255)');
  await page.waitForTimeout(100);
  check('charts follow', (await pixelsOf(page, box)) !== dark);
  await close();
});

await test('names that would be markup stay text', async () => {
  const { page, said, requests, close } = await open('hostile');
  await scrollThrough(page);
  same('nothing ran', await page.evaluate(() => window.harmed), undefined);
  same('no image', await page.locator('img').count(), 0);
  same('scripts: data and page', await page.locator('script').count(), 2);
  check('the name is there to read', (await page.locator('h1').textContent()).includes(kHostile));
  check('so is the command', (await page.locator('pre').first().textContent()) === kHostile);
  same('nothing on the console', said, []);
  same('one request', requests.length, 1);
  await page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'window.harmed = 2';
    document.body.append(script);
  });
  same('the policy refuses a script that is added', await page.evaluate(() => window.harmed), undefined);
  await close();
});

await test('a link to a section leads there, and nothing jumps after it is shown', async () => {
  const { page, close } = await open('plan', { hash: '#part1-kernels' });
  const top = await page.evaluate(() => document.getElementById('part1-kernels').getBoundingClientRect().top);
  check('the section is in view', top > -5 && top < 450, top);
  await close();
  const other = await open('several');
  const moved = await other.page.evaluate(
    () =>
      new Promise((done) => {
        let sum = 0;
        new PerformanceObserver((list) =>
          list.getEntries().forEach((entry) => {
            if (!entry.hadRecentInput) sum += entry.value;
          }),
        ).observe({ type: 'layout-shift', buffered: true });
        setTimeout(() => done(sum), 300);
      }),
  );
  check('layout shift below 0.1', moved < 0.1, moved);
  await other.close();
});

await test('on paper every chart is drawn, light, without buttons', async () => {
  const { page, said, close } = await open('plan', { colorScheme: 'dark' });
  const pdf = await page.pdf({ format: 'A4' });
  check('a document of some pages', pdf.length > 50000, pdf.length);
  const state = await page.evaluate(
    () => [...document.querySelectorAll('.chart')].filter((box) => !box.dataset.drawn).length,
  );
  same('no chart is left out', state, 0);
  await page.emulateMedia({ media: 'print' });
  await page.setViewportSize({ width: 700, height: 1000 }); // A4 within its margins
  await page.evaluate(() => dispatchEvent(new Event('beforeprint')));
  check('no navigation', !(await page.getByRole('navigation').isVisible()));
  same('no switches', await page.locator('input:visible, button:visible').count(), 0);
  same('nothing is cut off at the right', await widthOf(page), 700);
  const boxes = await page.locator('.chart canvas').evaluateAll((list) =>
    list.map((canvas) => {
      const { right, width, height } = canvas.getBoundingClientRect();
      return right <= 700 && Math.abs(width / height - canvas.width / canvas.height) < 0.1;
    }),
  );
  check('charts are whole and in proportion', boxes.length > 8 && boxes.every(Boolean), boxes);
  same(
    'heads of tables are text',
    await page
      .locator('thead th')
      .first()
      .evaluate((cell) => getComputedStyle(cell, '::after').content),
    '"#"',
  );
  same('nothing on the console', said, []);
  await close();
});

await test('10,000 layouts make a page below 5 MB that is soon of use', async () => {
  const bytes = statSync(pages.many).size;
  check('below 5 MB', bytes < 5e6, bytes);
  const { page, said, close, opened, busy } = await open('many');
  const table = page.locator('section[id$="-ranking"] .table').first();
  const typed = performance.now();
  await table.getByLabel('Filter').fill('full');
  await page.waitForFunction(() =>
    document.querySelector('section[id$="-ranking"] [role="status"]').textContent.endsWith(' of 10,000 layouts'),
  );
  const filtered = performance.now() - typed;
  await scrollThrough(page);
  same('nothing on the console', said, []);
  console.log(
    `10,000 layouts: ${(bytes / 1e6).toFixed(2)} MB, shown after ${(opened / 1000).toFixed(2)} s, of which it was busy for ${busy.toFixed(2)} s, filtered in ${(filtered / 1000).toFixed(2)} s`,
  );
  check('its own work takes less than 3 s', busy < 3, busy);
  check('shown within half a minute, on however busy a machine', opened < 30000, opened);
  await close();
});

await browser.close();
rmSync(folder, { recursive: true });
process.exit(summary());
