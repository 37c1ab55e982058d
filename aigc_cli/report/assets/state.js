// What is shown: the rows, the filters on them, their order, and the favourites. Nothing here touches the page.

const source = document.getElementById("data");
const data = source && JSON.parse(source.textContent);
const columns = data ? data.columns : {};
const SCORES = ["quality", "consistency", "human_quality", "human_consistency"].filter((name) => columns[name]);
const TITLES = {
  quality: "Quality", consistency: "Consistency", human_quality: "People's quality",
  human_consistency: "People's consistency", difference: "Quality − consistency", miss_quality: "Miss of quality",
  miss_consistency: "Miss of consistency", order: "Order of the table", name: "Name",
};

const value = (column, row) => (columns[column] ? columns[column][row] : null);

function apart(one, other, absolute) {
  return columns[one].map((left, row) => {
    const right = columns[other][row];
    if (left === null || right === null) return null;
    return absolute ? Math.abs(left - right) : left - right;
  });
}
if (columns.quality && columns.consistency) columns.difference = apart("quality", "consistency", false);
for (const name of ["quality", "consistency"]) {
  if (columns[name] && columns[`human_${name}`]) columns[`miss_${name}`] = apart(name, `human_${name}`, true);
}
const lower = data ? data.columns.name.map((name, row) => `${name}\n${value("prompt", row) || ""}`.toLowerCase()) : [];

const state = {
  search: "", sort: columns.miss_quality ? "miss_quality" : columns.quality ? "quality" : "order", down: true,
  group: false, onlyFavourites: false,
  ranges: {}, // {score: [least or null, greatest or null]}
  categories: {}, // {column: text}
  view: [], // rows that pass, in order
};

function passes(row) {
  for (const name in state.ranges) {
    const [least, greatest] = state.ranges[name];
    if (least === null && greatest === null) continue;
    const found = columns[name][row];
    if (found === null || (least !== null && found < least) || (greatest !== null && found > greatest)) return false;
  }
  for (const name in state.categories) {
    if (state.categories[name] !== "" && (value(name, row) ?? "(none)") !== state.categories[name]) return false;
  }
  if (state.onlyFavourites && !favourites.has(row)) return false;
  return state.search === "" || state.search.split(/\s+/).every((word) => lower[row].includes(word));
}

function compare(one, other) {
  const sign = state.down ? -1 : 1;
  if (state.sort === "order") return -sign * (one - other);
  const [left, right] = [value(state.sort, one), value(state.sort, other)];
  if (left === null || right === null) return left === right ? one - other : left === null ? 1 : -1; // these last, always
  return sign * (left < right ? -1 : left > right ? 1 : 0) || one - other;
}

function select() {
  state.view = [];
  for (let row = 0; row < data.count; row++) if (passes(row)) state.view.push(row);
  state.view.sort(compare);
  if (!state.group) return;
  const groups = new Map(); // in the order of their first image
  for (const row of state.view) {
    const prompt = value("prompt", row);
    groups.has(prompt) ? groups.get(prompt).push(row) : groups.set(prompt, [row]);
  }
  state.view = [...groups.values()].flat();
}

// Favourites: rows. Where the browser keeps nothing for a page, the address does.
const favourites = new Set();
const STORE = data && `aigc-favourites-${data.key}`;

function readFavourites() {
  let kept = null;
  try {
    kept = localStorage.getItem(STORE);
  } catch {
    // no storage here
  }
  const found = /^#favourites=([\d,]*)$/.exec(location.hash);
  const rows = found ? found[1].split(",").filter(Boolean) : kept ? kept.split(",") : [];
  for (const row of rows.map(Number)) if (row < data.count) favourites.add(row);
}

function keepFavourites() {
  const rows = [...favourites].sort((one, other) => one - other).join(",");
  try {
    localStorage.setItem(STORE, rows);
    if (!location.hash.startsWith("#favourites=")) return;
  } catch {
    // no storage here
  }
  history.replaceState(null, "", `#favourites=${rows}`);
}

const favouriteRows = () => [...favourites].sort((one, other) => one - other);

function asText() {
  return favouriteRows().map((row) => `${columns.name[row]}\n`).join("");
}

function asTable() {
  const names = ["name", "path", "prompt", "quality", "consistency"].filter((name) => columns[name]);
  const cell = (found) => {
    if (found === null) return "";
    const text = typeof found === "string" && /^[=+\-@\t\r]/.test(found) ? `'${found}` : String(found); // no formulas
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = favouriteRows().map((row) => names.map((name) => cell(columns[name][row])).join(","));
  return [names.join(","), ...lines].join("\r\n") + "\r\n";
}
