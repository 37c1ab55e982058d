// The dialog: one large image, and the parts of its scores.

const SVG = "http://www.w3.org/2000/svg";
const REST = [
  "table", "split", "generator", "model", "sampler", "steps", "cfg", "seed", "prompt_source", "clip_cosine",
  "quality_percentile", "consistency_percentile", "out_of_domain", "prompt_split", "path",
];
const MEANINGS = {
  clip_cosine: "similarity of image and prompt without training",
  quality_percentile: "percentage of rated images with a lower score",
  consistency_percentile: "percentage of rated images with a lower score",
  out_of_domain: "how unusual the image is: 0.5 is typical, above 0.95 do not trust the score",
  prompt_split: "the prompt is longer than the model reads at once, so it was read in parts",
};

function makeBar(name, kind, from, to) {
  const [low, high] = data.scale;
  const at = (score) => (100 * (Math.min(high, Math.max(low, score)) - low)) / (high - low);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", name);
  svg.setAttribute("aria-hidden", "true");
  const track = document.createElementNS(SVG, "rect");
  const fill = document.createElementNS(SVG, "rect");
  const [left, right] = [at(from), at(to)].sort((one, other) => one - other);
  const place = { x: `${left}%`, width: `${Math.max(0.4, right - left)}%`, y: 3, height: 10, rx: 2 };
  for (const [key, found] of Object.entries({ width: "100%", y: 3, height: 10, rx: 2 })) track.setAttribute(key, found);
  for (const [key, found] of Object.entries(place)) fill.setAttribute(key, found);
  track.setAttribute("class", "track");
  fill.setAttribute("class", `fill ${kind}`);
  svg.append(track, fill);
  return svg;
}

function makeParts(name, row) {
  const score = makeElement("section", "score");
  const title = makeElement("h3", name, TITLES[name]);
  title.append(makeElement("span", "", formatScore(getValue(name, row))));
  score.append(title);
  const [low, high] = data.scale;
  const [base, delta, final] = [getValue(`${name}_base`, row), getValue(`${name}_delta`, row), getValue(name, row)];
  const human = getValue(`human_${name}`, row);
  const lines = [];
  if (base !== null) lines.push(["Base", "base", low, base, formatScore(base)]);
  if (base !== null && delta !== null) {
    lines.push(["Residual", "residual", base, base + delta, `${delta < 0 ? "-" : "+"}${formatScore(Math.abs(delta))}`]);
  }
  if (final !== null) lines.push(["Final", "final", low, final, formatScore(final)]);
  if (human !== null) lines.push(["Human", "final", low, human, formatScore(human)]);
  const [intervalLow, intervalHigh] = [getValue(`${name}_low`, row), getValue(`${name}_high`, row)];
  if (intervalLow !== null && intervalHigh !== null) {
    lines.push(["90% interval", "interval", intervalLow, intervalHigh, `[${formatScore(intervalLow, 1)}, ${formatScore(intervalHigh, 1)}]`]);
  }
  for (const [label, kind, from, to, text] of lines) {
    const part = makeElement("div", "part");
    part.append(makeElement("span", "", label), makeBar(name, kind, from, to), makeElement("output", "", text));
    score.append(part);
  }
  const ends = makeElement("div", "ends");
  ends.append(makeElement("span", "", String(low)), makeElement("span", "", String(high)));
  if (lines.length) score.append(ends);
  return score;
}

class Detail {
  constructor(dialog, onClose) {
    Object.assign(this, { dialog, row: null });
    const by = (id) => document.getElementById(id);
    this.parts = { name: by("detail-name"), prompt: by("prompt"), bars: by("bars"), rest: by("rest"), star: by("star") };
    this.image = by("large");
    this.link = by("original");
    this.image.addEventListener("error", () => this.showThumbnail());
    by("previous").addEventListener("click", () => this.move(-1));
    by("next").addEventListener("click", () => this.move(1));
    by("close").addEventListener("click", () => dialog.close());
    this.parts.star.addEventListener("click", () => toggleFavourite(this.row));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => onClose(this.row));
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight") this.move(1);
      else if (event.key === "ArrowLeft") this.move(-1);
      else if (event.key === "f") toggleFavourite(this.row);
      else return;
      event.preventDefault();
    });
  }

  show(row) {
    this.row = row;
    const { name, prompt, bars, rest, star } = this.parts;
    name.textContent = columns.name[row];
    prompt.textContent = getValue("prompt", row) ?? "No prompt.";
    const failed = getValue("status", row) === "failed";
    bars.replaceChildren(...["quality", "consistency"].filter((score) => columns[score]).map((score) => makeParts(score, row)));
    rest.replaceChildren();
    const more = [["reason", this.describeReason(row)], ["size", this.describeSize(row)], ...REST.map((key) => [key, getValue(key, row)])];
    for (const [key, found] of more) {
      if (found === null || found === "" || found === false) continue;
      const line = makeElement("div");
      line.append(makeElement("dt", "", key.replaceAll("_", " ")), makeElement("dd", "", String(found)));
      if (MEANINGS[key]) line.lastChild.append(makeElement("small", "", ` (${MEANINGS[key]})`));
      rest.append(line);
    }
    showMark(star, row);
    this.image.alt = failed ? "No picture" : getValue("prompt", row) ?? columns.name[row];
    const original = failed ? null : getValue("link", row);
    this.thumbnailShown = original === null;
    original === null ? this.link.removeAttribute("href") : (this.link.href = original);
    this.image.hidden = original === null && columns.thumb[row] === null;
    this.image.src = original ?? columns.thumb[row] ?? "data:,";
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** Shows the thumbnail: the original is no longer where the report expects it. */
  showThumbnail() {
    if (this.thumbnailShown) return;
    this.thumbnailShown = true;
    this.link.removeAttribute("href");
    this.image.hidden = columns.thumb[this.row] === null;
    this.image.src = columns.thumb[this.row] ?? "data:,";
  }

  describeReason(row) {
    const words = (getValue("reason", row) || "").split(",").filter(Boolean);
    return words.map((word) => `${word}: ${data.reasons[word] ?? ""}`).join("; ");
  }

  describeSize(row) {
    return getValue("width", row) === null ? null : `${getValue("width", row)} × ${getValue("height", row)}`;
  }

  move(direction) {
    this.show(grid.findNext(this.row, direction));
  }
}
