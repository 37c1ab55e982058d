// Connects the controls, the charts, the gallery and the dialog.

const byId = (id) => document.getElementById(id);
let grid = null, detail = null, charts = [];

byId("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  drawCharts();
});

function showMark(mark, row) {
  const on = favourites.has(row);
  mark.textContent = on ? "★" : "☆";
  mark.setAttribute("aria-pressed", on);
  mark.setAttribute("aria-label", `Favourite: ${columns.name[row]}`);
}

function toggleFavourite(row) {
  if (!favourites.delete(row)) favourites.add(row);
  saveFavourites();
  const card = grid.cards.get(row);
  if (card) showMark(card.lastChild, row);
  if (detail.row === row) showMark(detail.parts.star, row);
  countFavourites();
  if (state.onlyFavourites && !detail.dialog.open) update();
}

function countFavourites() {
  const count = favourites.size;
  byId("favourites").textContent = `${count.toLocaleString("en")} favourite${count === 1 ? "" : "s"}`;
  for (const kind of ["txt", "csv"]) byId(`export-${kind}`).disabled = count === 0;
}

function download(name, text, kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${kind};charset=utf-8` }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function drawCharts() {
  if (!data) return;
  const selected = new Array(data.count).fill(false);
  for (const row of state.view) selected[row] = true;
  for (const chart of charts) chart.draw(selected);
}

function update() {
  selectRows();
  grid.layout();
  drawCharts();
  const [some, all] = [state.view.length, data.count].map((count) => count.toLocaleString("en"));
  byId("count").textContent = some === all ? `${all} images` : `${some} of ${all} images`;
  byId("direction").textContent = state.down ? "↓" : "↑";
}

let pending = 0;
function scheduleUpdate() {
  pending ||= requestAnimationFrame(() => {
    pending = 0;
    update();
  });
}

function addOption(list, text, title) {
  const found = document.createElement("option");
  found.value = text;
  found.textContent = title;
  list.append(found);
}

function setRanges(ranges) {
  for (const [name, pair] of Object.entries(ranges)) {
    state.ranges[name] = pair;
    ["min", "max"].forEach((end, at) => (byId(`${end}-${name}`).value = pair[at] ?? ""));
  }
  scheduleUpdate();
}

function prepareFilters() {
  const sorts = [...SCORES.filter((name) => !name.startsWith("human")), "difference", "miss_quality", "miss_consistency"];
  for (const name of [...sorts.filter((name) => columns[name]), "name", "order"]) addOption(byId("sort"), name, TITLES[name]);
  byId("sort").value = state.sort;
  byId("sort").addEventListener("change", (event) => {
    state.sort = event.target.value;
    state.down = !["name", "order"].includes(state.sort);
    if (state.sort === "order") state.down = true;
    scheduleUpdate();
  });
  byId("direction").addEventListener("click", () => ((state.down = !state.down), scheduleUpdate()));
  byId("search").addEventListener("input", (event) => ((state.search = event.target.value.trim().toLowerCase()), scheduleUpdate()));
  byId("group")?.addEventListener("change", (event) => ((state.group = event.target.checked), scheduleUpdate()));
  byId("only-favourites").addEventListener("change", (event) => ((state.onlyFavourites = event.target.checked), scheduleUpdate()));
  for (const list of document.querySelectorAll(".category")) {
    const name = list.dataset.column;
    addOption(list, "", "all");
    for (const found of [...new Set(columns[name].map((text) => text ?? "(none)"))].sort()) addOption(list, found, found);
    list.addEventListener("change", () => ((state.categories[name] = list.value), scheduleUpdate()));
  }
  for (const name of SCORES) {
    const ends = ["min", "max"].map((end) => byId(`${end}-${name}`));
    const read = (field) => (field.value === "" ? null : Number(field.value));
    for (const field of ends) {
      field.addEventListener("input", () => ((state.ranges[name] = ends.map(read)), scheduleUpdate()));
    }
  }
  byId("clear").addEventListener("click", clearFilters);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
}

function clearFilters() {
  Object.assign(state, { search: "", ranges: {}, categories: {}, onlyFavourites: false });
  byId("search").value = "";
  byId("only-favourites").checked = false;
  for (const field of document.querySelectorAll("#controls input[type=number]")) field.value = "";
  for (const list of document.querySelectorAll(".category")) list.value = "";
  update();
}

function prepareCharts() {
  charts = ["quality", "consistency"].filter((name) => columns[name]).map((name) => new Chart(byId(`chart-${name}`), name, null, setRanges));
  const pairs = [["human_quality", "quality"], ["human_consistency", "consistency"], ["quality", "consistency"]]
    .filter((pair) => pair.every((name) => columns[name]));
  if (!pairs.length) return;
  const scatter = new Chart(byId("chart-scatter"), ...pairs[0], setRanges);
  charts.push(scatter);
  byId("axes").hidden = pairs.length < 2;
  if (pairs.length < 2) byId("axes").previousElementSibling.textContent = `${TITLES[pairs[0][1]]} (up) against ${TITLES[pairs[0][0]].toLowerCase()}`;
  for (const [x, y] of pairs) addOption(byId("axes"), `${x} ${y}`, `${TITLES[y]} (up) against ${TITLES[x].toLowerCase()}`);
  byId("axes").addEventListener("change", (event) => {
    [scatter.x, scatter.y] = event.target.value.split(" ");
    drawCharts();
  });
}

function handleKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || detail.dialog.open) return;
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("search").focus();
  } else if (event.key === "Escape") {
    typing && event.target.id === "search" && event.target.value === "" ? grid.focus(grid.active) : clearFilters();
  } else if (event.key === "ArrowDown" && event.target.id === "search") {
    event.preventDefault();
    update(); // the last input may still wait for its frame
    grid.focus(state.view[0]);
  } else if (event.target === document.body && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    event.preventDefault();
    grid.focus(grid.active); // arrow up and down scroll the page until the gallery has the focus
  }
}

if (data) {
  readFavourites();
  grid = new Grid(byId("grid"), (row) => detail.show(row));
  detail = new Detail(byId("detail"), (row) => (update(), grid.focus(row)));
  prepareFilters();
  prepareCharts();
  byId("export-txt").addEventListener("click", () => download("favourites.txt", formatNames(), "text/plain"));
  byId("export-csv").addEventListener("click", () => download("favourites.csv", formatCsv(), "text/csv"));
  document.addEventListener("keydown", handleKey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
  addEventListener("resize", () => requestAnimationFrame(drawCharts));
  countFavourites();
  update();
}
