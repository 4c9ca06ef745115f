// Files that the page makes itself, from what is in it.
import { button, el } from './dom.js';

export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = el('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/// RFC 4180; a cell that a spreadsheet would run as a formula gets an apostrophe.
function csvCell(value) {
  if (value === undefined || value === null) return '';
  if (typeof value === 'number') return String(value);
  const text = /^[=+\-@\t\r]/.test(String(value)) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/// `columns`: { title, value(row) }.
function csv(columns, rows) {
  const lines = [columns.map((column) => csvCell(column.title))];
  for (const row of rows) lines.push(columns.map((column) => csvCell(column.value(row))));
  return lines.map((cells) => cells.join(',')).join('\r\n') + '\r\n';
}

/// Buttons that save rows as both; `what` names them: "layouts".
export function downloads(what, columns, rows) {
  const file = what.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  const asObjects = () =>
    rows().map((row) =>
      Object.fromEntries(
        columns.map((column) => [column.title, column.value(row)]).filter(([, value]) => value !== undefined),
      ),
    );
  return el(
    'span',
    { class: 'downloads' },
    button('CSV', () => download(`${file}.csv`, csv(columns, rows()), 'text/csv'), {
      'aria-label': `Download ${what} as CSV`,
    }),
    ' ',
    button('JSON', () => download(`${file}.json`, JSON.stringify(asObjects(), null, 2), 'application/json'), {
      'aria-label': `Download ${what} as JSON`,
    }),
  );
}
