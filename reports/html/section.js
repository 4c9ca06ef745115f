// The frame of a part of the report: a heading that can be linked to, how to read it, what it shows.
import { el } from './dom.js';

/// Null where there is nothing to show.
export function section(id, title, how, ...content) {
  const shown = content.flat(Infinity).filter((part) => part);
  if (shown.length === 0) return null;
  return {
    id,
    title,
    build: (prefix) => {
      const anchor = `${prefix}-${id}`;
      return el(
        'section',
        { id: anchor, 'aria-labelledby': `${anchor}-title` },
        el(
          'h3',
          { id: `${anchor}-title` },
          title,
          ' ',
          el('a', { class: 'anchor', href: `#${anchor}`, 'aria-label': `Link to ${title}` }, '#'),
        ),
        how && el('p', { class: 'how' }, how),
        shown,
      );
    },
  };
}
