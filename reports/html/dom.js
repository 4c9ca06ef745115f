// Elements without markup: every text becomes a text node, so that no name from a file is ever read as HTML.

/// el('a', { href: '#x', on: { click } }, 'text', child, [more]). An attribute of null, undefined or false is left out.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

export function replaceChildren(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

let lastId = 0;
/// An id that nothing else on the page has.
export function freshId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

/// A labelled <select>; options are [value, text].
export function select(label, options, onChange) {
  const id = freshId('select');
  const control = el(
    'select',
    { id, on: { change: () => onChange(control.value) } },
    options.map(([value, text]) => el('option', { value }, text)),
  );
  return { element: el('span', { class: 'control' }, el('label', { for: id }, label), ' ', control), control };
}

/// A labelled checkbox.
export function checkbox(label, checked, onChange) {
  const id = freshId('check');
  const control = el('input', { type: 'checkbox', id, checked, on: { change: () => onChange(control.checked) } });
  return el('span', { class: 'control' }, control, ' ', el('label', { for: id }, label));
}

export function button(text, onClick, attributes = {}) {
  return el('button', { type: 'button', ...attributes, on: { click: onClick } }, text);
}

/// Names with what they stand for.
export function definitions(pairs) {
  return el(
    'dl',
    { class: 'facts' },
    pairs
      .filter(([, value]) => ![undefined, null, false, ''].includes(value))
      .map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))),
  );
}
