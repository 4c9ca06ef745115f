// Tables that sort and filter. Ten thousand rows stay data: only those that are looked at become elements.
import { button, el, freshId, replaceChildren } from './dom.js';
import { downloads } from './download.js';

const kPage = 50;

function compare(a, b) {
  if (a === b) return 0;
  if (a === undefined || a === null) return 1; // unknown ones last, whatever the order
  if (b === undefined || b === null) return -1;
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return String(a).localeCompare(String(b), 'en', { numeric: true });
}

/// One table. `columns`: { title, value(row): to sort and to save, text?(row): shown, a string or an element,
/// help?: what it means, left?: aligned so, wide?: long text, always?: shown
/// even where every row says the same }. `name` says what the rows are: "layouts". Options: filter (a box for it), same
/// (whether columns that say the same everywhere are shown at first), sort: [title, descending], onRow(row),
/// highlight(row).
export function table({
  name,
  columns,
  rows,
  filter = rows.length > 12,
  same = true,
  sort = null,
  highlight,
  page = kPage,
}) {
  let order = rows.slice();
  let shown = page;
  let sorted = sort;
  let all = same;
  let words = [];
  const body = el('tbody');
  const head = el('tr');
  const status = el('span', { role: 'status', class: 'quiet' });
  const more = button('', () => {
    shown += 10 * page;
    draw();
  });
  let searched = null; // what the filter looks at, by row, once it does
  const textOf = (column, row) => (column.text ? column.text(row) : column.value(row));
  const alignment = (column) => (column.wide ? 'wide' : column.left ? 'left' : null);
  const known = new Map(); // a look at ten thousand rows is enough
  const differs = (column) => {
    if (!known.has(column))
      known.set(column, rows.length < 2 || rows.some((row) => column.value(row) !== column.value(rows[0])));
    return known.get(column);
  };
  const visible = () => (all ? columns : columns.filter((column) => column.always || differs(column)));
  const searchedText = (column, row) => ` ${column.title}=${column.value(row) ?? ''} `;
  function search() {
    const same = columns.filter((column) => !differs(column));
    const others = columns.filter(differs);
    const tail = rows.length > 0 ? same.map((column) => searchedText(column, rows[0])).join('') : '';
    searched = new Map();
    for (const row of rows) {
      let text = '';
      for (const column of others) text += searchedText(column, row);
      searched.set(row, (text + tail).toLowerCase());
    }
  }
  /// "tp=4" is a whole cell, other words are anywhere.
  const has = (text, word) => text.includes(word.includes('=') ? ` ${word} ` : word);

  function arrange() {
    if (words.length > 0 && searched === null) search();
    order = rows.filter((row) => words.every((word) => has(searched.get(row), word)));
    if (sorted === null) return;
    const column = columns.find((c) => c.title === sorted[0]);
    const missing = (value) => value === undefined || value === null;
    order = order
      .map((row) => [column.value(row), row])
      .sort(([a], [b]) => (missing(a) || missing(b) || !sorted[1] ? 1 : -1) * compare(a, b))
      .map(([, row]) => row);
  }

  function drawHead() {
    replaceChildren(
      head,
      visible().map((column) => {
        const active = sorted !== null && sorted[0] === column.title;
        const state = active ? (sorted[1] ? 'descending' : 'ascending') : 'none';
        const sortBy = () => {
          sorted = [column.title, active ? !sorted[1] : false];
          draw();
          [...head.querySelectorAll('button')].find((b) => b.dataset.column === column.title)?.focus();
        };
        const mark = active ? (sorted[1] ? ' ▼' : ' ▲') : '';
        return el(
          'th',
          {
            scope: 'col',
            'aria-sort': state,
            class: alignment(column),
            'data-title': column.title.replaceAll('/', '/\u200b') + mark,
          },
          button(column.title + mark, sortBy, { 'data-column': column.title, title: column.help }),
        );
      }),
    );
  }

  function draw() {
    arrange();
    drawHead();
    const cells = visible();
    replaceChildren(
      body,
      order.slice(0, shown).map((row) =>
        el(
          'tr',
          { class: highlight?.(row) ? 'highlight' : null },
          cells.map((column, i) =>
            el(
              i === 0 ? 'th' : 'td',
              { scope: i === 0 ? 'row' : null, class: alignment(column) },
              textOf(column, row) ?? '',
            ),
          ),
        ),
      ),
    );
    const rest = order.length - Math.min(shown, order.length);
    status.textContent =
      order.length === rows.length
        ? `${rows.length.toLocaleString('en')} ${name}`
        : `${order.length.toLocaleString('en')} of ${rows.length.toLocaleString('en')} ${name}`;
    more.textContent = `Show ${Math.min(rest, 10 * page).toLocaleString('en')} more`;
    more.hidden = rest === 0;
  }

  const controls = el('div', { class: 'controls' });
  if (filter) {
    const id = freshId('filter');
    const box = el('input', {
      type: 'search',
      id,
      placeholder: columns.some(({ title }) => title === 'tp') ? 'words, or tp=4' : 'words',
      on: {
        input: () => {
          words = box.value
            .toLowerCase()
            .split(/\s+/)
            .filter((word) => word !== '');
          shown = page;
          draw();
        },
      },
    });
    controls.append(el('span', { class: 'control' }, el('label', { for: id }, 'Filter'), ' ', box));
  }
  if (!same && columns.some((column) => !column.always && !differs(column))) {
    const toggle = button(
      'All columns',
      () => {
        all = !all;
        toggle.setAttribute('aria-pressed', all);
        draw();
      },
      { 'aria-pressed': false },
    );
    controls.append(toggle);
  }
  controls.append(
    status,
    downloads(name, columns, () => order),
  );
  draw();
  return el(
    'div',
    { class: 'table' },
    controls,
    el(
      'div',
      { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Table of ${name}` },
      el('table', {}, el('caption', { class: 'hidden' }, name), el('thead', {}, head), body),
    ),
    more,
  );
}
