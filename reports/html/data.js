// What the page carries: the files, packed.

/// Of long lists of plans the program keeps the first as they are and the rest as columns: { column: its values, or the
/// one value of all rows }, a column being a path within a plan: "predicted.step_seconds".
function plansOfColumns(columns) {
  const paths = Object.entries(columns.values).map(([path, values]) => [path.split('.'), values]);
  const same = Object.entries(columns.same).map(([path, value]) => [path.split('.'), value]);
  const put = (plan, path, value) => {
    let place = plan;
    for (let i = 0; i + 1 < path.length; ++i) {
      if (!Object.hasOwn(place, path[i])) place[path[i]] = {};
      place = place[path[i]];
    }
    place[path.at(-1)] = value;
  };
  return Array.from({ length: columns.plans }, (_, row) => {
    const plan = {};
    for (const [path, value] of same) put(plan, path, value);
    for (const [path, values] of paths) if (values[row] !== null) put(plan, path, values[row]);
    return plan;
  });
}

function withPlans(file) {
  const { plans_behind: columns, ...data } = file.data;
  if (columns) data.plans = data.plans.concat(plansOfColumns(columns));
  return { ...file, data };
}

/// [{ name, data }]
export async function unpack() {
  const letters = atob(document.getElementById('data').textContent);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; ++i) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text()).map(withPlans);
}
