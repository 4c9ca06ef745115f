// Any other JSON of this program: its values, its lists as tables.
import { definitions } from '../dom.js';
import { section } from '../section.js';
import { table } from '../table.js';
import { byUnit } from './trial.js';

const isPlain = (value) => value === null || typeof value !== 'object';
const asText = (value) => (isPlain(value) ? value : JSON.stringify(value));

function listSection(key, list) {
  const rows = list.map((row) => (isPlain(row) || Array.isArray(row) ? { value: asText(row) } : row));
  const keys = [...new Set(rows.flatMap(Object.keys))];
  const title = key.replaceAll('_', ' ');
  const left = (name) => rows.some((row) => typeof row[name] === 'string');
  return section(
    key,
    title[0].toUpperCase() + title.slice(1),
    '',
    table({
      name: title,
      rows,
      columns: keys.map((name) => ({
        title: name,
        left: left(name),
        value: (row) => asText(row[name]),
        text: (row) => (typeof row[name] === 'number' ? byUnit(name, row[name]) : asText(row[name])),
      })),
    }),
  );
}

export function genericSections(data) {
  const entries = Object.entries(data).filter(([key]) => !['schema', 'shardwright_version'].includes(key));
  const plain = entries.filter(([, value]) => isPlain(value));
  return [
    section(
      'values',
      'Values',
      '',
      plain.length > 0 && definitions(plain.map(([key, value]) => [key.replaceAll('_', ' '), byUnit(key, value)])),
    ),
    ...entries
      .filter(([, value]) => Array.isArray(value) && value.length > 0)
      .map(([key, list]) => listSection(key, list)),
    ...entries
      .filter(([, value]) => !isPlain(value) && !Array.isArray(value))
      .map(([key, value]) =>
        listSection(
          key,
          Object.entries(value).map(([name, one]) => ({ name, value: asText(one) })),
        ),
      ),
  ];
}
