// Joins the controls, the charts, the gallery and the dialog.

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
  keepFavourites();
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
  const chosen = new Array(data.count).fill(false);
  for (const row of state.view) chosen[row] = true;
  for (const chart of charts) chart.draw(chosen);
}

function update() {
  select();
  grid.layout();
  drawCharts();
  const [some, all] = [state.view.length, data.count].map((count) => count.toLocaleString("en"));
  byId("count").textContent = some === all ? `${all} images` : `${some} of ${all} images`;
  byId("direction").textContent = state.down ? "↓" : "↑";
}

let pending = 0;
function soon() {
  pending ||= requestAnimationFrame(() => {
    pending = 0;
    update();
  });
}

function option(list, text, title) {
  const found = document.createElement("option");
  found.value = text;
  found.textContent = title;
  list.append(found);
}

function brushed(ranges) {
  for (const [name, pair] of Object.entries(ranges)) {
    state.ranges[name] = pair;
    ["min", "max"].forEach((end, at) => (byId(`${end}-${name}`).value = pair[at] ?? ""));
  }
  soon();
}

function prepareFilters() {
  const sorts = [...SCORES.filter((name) => !name.startsWith("human")), "difference", "miss_quality", "miss_consistency"];
  for (const name of [...sorts.filter((name) => columns[name]), "name", "order"]) option(byId("sort"), name, TITLES[name]);
  byId("sort").value = state.sort;
  byId("sort").addEventListener("change", (event) => {
    state.sort = event.target.value;
    state.down = !["name", "order"].includes(state.sort);
    if (state.sort === "order") state.down = true;
    soon();
  });
  byId("direction").addEventListener("click", () => ((state.down = !state.down), soon()));
  byId("search").addEventListener("input", (event) => ((state.search = event.target.value.trim().toLowerCase()), soon()));
  byId("group")?.addEventListener("change", (event) => ((state.group = event.target.checked), soon()));
  byId("only-favourites").addEventListener("change", (event) => ((state.onlyFavourites = event.target.checked), soon()));
  for (const list of document.querySelectorAll(".category")) {
    const name = list.dataset.column;
    option(list, "", "all");
    for (const found of [...new Set(columns[name].map((text) => text ?? "(none)"))].sort()) option(list, found, found);
    list.addEventListener("change", () => ((state.categories[name] = list.value), soon()));
  }
  for (const name of SCORES) {
    const ends = ["min", "max"].map((end) => byId(`${end}-${name}`));
    const read = (field) => (field.value === "" ? null : Number(field.value));
    for (const field of ends) {
      field.addEventListener("input", () => ((state.ranges[name] = ends.map(read)), soon()));
    }
  }
  byId("clear").addEventListener("click", clear);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
}

function clear() {
  Object.assign(state, { search: "", ranges: {}, categories: {}, onlyFavourites: false });
  byId("search").value = "";
  byId("only-favourites").checked = false;
  for (const field of document.querySelectorAll("#controls input[type=number]")) field.value = "";
  for (const list of document.querySelectorAll(".category")) list.value = "";
  update();
}

function prepareCharts() {
  charts = ["quality", "consistency"].filter((name) => columns[name]).map((name) => new Chart(byId(`chart-${name}`), name, null, brushed));
  const pairs = [["human_quality", "quality"], ["human_consistency", "consistency"], ["quality", "consistency"]]
    .filter((pair) => pair.every((name) => columns[name]));
  if (!pairs.length) return;
  const scatter = new Chart(byId("chart-scatter"), ...pairs[0], brushed);
  charts.push(scatter);
  byId("axes").hidden = pairs.length < 2;
  if (pairs.length < 2) byId("axes").previousElementSibling.textContent = `${TITLES[pairs[0][1]]} (up) against ${TITLES[pairs[0][0]].toLowerCase()}`;
  for (const [x, y] of pairs) option(byId("axes"), `${x} ${y}`, `${TITLES[y]} (up) against ${TITLES[x].toLowerCase()}`);
  byId("axes").addEventListener("change", (event) => {
    [scatter.x, scatter.y] = event.target.value.split(" ");
    drawCharts();
  });
}

function keys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || detail.dialog.open) return;
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("search").focus();
  } else if (event.key === "Escape") {
    typing && event.target.id === "search" && event.target.value === "" ? grid.focus(grid.active) : clear();
  } else if (event.key === "ArrowDown" && event.target.id === "search") {
    event.preventDefault();
    update(); // what was typed last may still wait for its frame
    grid.focus(state.view[0]);
  } else if (event.target === document.body && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    event.preventDefault();
    grid.focus(grid.active); // up and down scroll the page until the gallery has the focus
  }
}

if (data) {
  readFavourites();
  grid = new Grid(byId("grid"), (row) => detail.show(row));
  detail = new Detail(byId("detail"), (row) => (update(), grid.focus(row)));
  prepareFilters();
  prepareCharts();
  byId("export-txt").addEventListener("click", () => download("favourites.txt", asText(), "text/plain"));
  byId("export-csv").addEventListener("click", () => download("favourites.csv", asTable(), "text/csv"));
  document.addEventListener("keydown", keys);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
  addEventListener("resize", () => requestAnimationFrame(drawCharts));
  countFavourites();
  update();
}
