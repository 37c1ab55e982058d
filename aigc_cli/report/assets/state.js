// State of the page: rows, filters, order and favourites. Nothing here changes the document.

const source = document.getElementById("data");
const data = source && JSON.parse(source.textContent);
const columns = data ? data.columns : {};
const SCORES = ["quality", "consistency", "human_quality", "human_consistency"].filter((name) => columns[name]);
const TITLES = {
  quality: "Quality", consistency: "Consistency", human_quality: "Human quality",
  human_consistency: "Human consistency", difference: "Quality − consistency", miss_quality: "Error of quality",
  miss_consistency: "Error of consistency", order: "Order of the table", name: "Name",
};

const getValue = (column, row) => (columns[column] ? columns[column][row] : null);

function subtractColumns(one, other, absolute) {
  return columns[one].map((left, row) => {
    const right = columns[other][row];
    if (left === null || right === null) return null;
    return absolute ? Math.abs(left - right) : left - right;
  });
}
if (columns.quality && columns.consistency) columns.difference = subtractColumns("quality", "consistency", false);
for (const name of ["quality", "consistency"]) {
  if (columns[name] && columns[`human_${name}`]) columns[`miss_${name}`] = subtractColumns(name, `human_${name}`, true);
}
const searchTexts = data ? data.columns.name.map((name, row) => `${name}\n${getValue("prompt", row) || ""}`.toLowerCase()) : [];

const state = {
  search: "", sort: columns.miss_quality ? "miss_quality" : columns.quality ? "quality" : "order", down: true,
  group: false, onlyFavourites: false,
  ranges: {}, // {score: [minimum or null, maximum or null]}
  categories: {}, // {column: value}
  view: [], // rows that pass the filters, sorted
};

function passesFilters(row) {
  for (const name in state.ranges) {
    const [minimum, maximum] = state.ranges[name];
    if (minimum === null && maximum === null) continue;
    const found = columns[name][row];
    if (found === null || (minimum !== null && found < minimum) || (maximum !== null && found > maximum)) return false;
  }
  for (const name in state.categories) {
    if (state.categories[name] !== "" && (getValue(name, row) ?? "(none)") !== state.categories[name]) return false;
  }
  if (state.onlyFavourites && !favourites.has(row)) return false;
  return state.search === "" || state.search.split(/\s+/).every((word) => searchTexts[row].includes(word));
}

function compareRows(one, other) {
  const sign = state.down ? -1 : 1;
  if (state.sort === "order") return -sign * (one - other);
  const [left, right] = [getValue(state.sort, one), getValue(state.sort, other)];
  if (left === null || right === null) return left === right ? one - other : left === null ? 1 : -1; // rows without a value always come last
  return sign * (left < right ? -1 : left > right ? 1 : 0) || one - other;
}

function selectRows() {
  state.view = [];
  for (let row = 0; row < data.count; row++) if (passesFilters(row)) state.view.push(row);
  state.view.sort(compareRows);
  if (!state.group) return;
  const groups = new Map(); // keeps the order of first images
  for (const row of state.view) {
    const prompt = getValue("prompt", row);
    groups.has(prompt) ? groups.get(prompt).push(row) : groups.set(prompt, [row]);
  }
  state.view = [...groups.values()].flat();
}

// Favourites are row numbers. Without browser storage they are kept in the address.
const favourites = new Set();
const STORE = data && `aigc-favourites-${data.key}`;

function readFavourites() {
  let kept = null;
  try {
    kept = localStorage.getItem(STORE);
  } catch {
    // the browser allows no storage for this page
  }
  const found = /^#favourites=([\d,]*)$/.exec(location.hash);
  const rows = found ? found[1].split(",").filter(Boolean) : kept ? kept.split(",") : [];
  for (const row of rows.map(Number)) if (row < data.count) favourites.add(row);
}

function saveFavourites() {
  const rows = [...favourites].sort((one, other) => one - other).join(",");
  try {
    localStorage.setItem(STORE, rows);
    if (!location.hash.startsWith("#favourites=")) return;
  } catch {
    // the browser allows no storage for this page
  }
  history.replaceState(null, "", `#favourites=${rows}`);
}

const listFavourites = () => [...favourites].sort((one, other) => one - other);

function formatNames() {
  return listFavourites().map((row) => `${columns.name[row]}\n`).join("");
}

function formatCsv() {
  const names = ["name", "path", "prompt", "quality", "consistency"].filter((name) => columns[name]);
  const cell = (found) => {
    if (found === null) return "";
    const text = typeof found === "string" && /^[=+\-@\t\r]/.test(found) ? `'${found}` : String(found); // no formulas
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = listFavourites().map((row) => names.map((name) => cell(columns[name][row])).join(","));
  return [names.join(","), ...lines].join("\r\n") + "\r\n";
}
