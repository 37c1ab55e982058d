// One image large, with what its scores are made of.

const SVG = "http://www.w3.org/2000/svg";
const REST = ["table", "split", "generator", "model", "sampler", "steps", "cfg", "seed", "prompt_source", "clip_cosine", "quality_percentile", "consistency_percentile", "out_of_domain", "prompt_truncated", "path"];

function bar(name, kind, from, to) {
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

function partsOf(name, row) {
  const score = make("section", "score");
  const title = make("h3", name, TITLES[name]);
  title.append(make("span", "", shown(value(name, row))));
  score.append(title);
  const [low, high] = data.scale;
  const [base, delta, final] = [value(`${name}_base`, row), value(`${name}_delta`, row), value(name, row)];
  const human = value(`human_${name}`, row);
  const lines = [];
  if (base !== null) lines.push(["Base", "base", low, base, shown(base)]);
  if (base !== null && delta !== null) {
    lines.push(["Residual", "residual", base, base + delta, `${delta < 0 ? "−" : "+"}${shown(Math.abs(delta))}`]);
  }
  if (final !== null) lines.push(["Final", "final", low, final, shown(final)]);
  if (human !== null) lines.push(["People", "final", low, human, shown(human)]);
  const [least, most] = [value(`${name}_low`, row), value(`${name}_high`, row)];
  if (least !== null && most !== null) lines.push(["90%", "interval", least, most, `${shown(least, 1)}–${shown(most, 1)}`]);
  for (const [label, kind, from, to, text] of lines) {
    const part = make("div", "part");
    part.append(make("span", "", label), bar(name, kind, from, to), make("output", "", text));
    score.append(part);
  }
  const ends = make("div", "ends");
  ends.append(make("span", "", String(low)), make("span", "", String(high)));
  if (lines.length) score.append(ends);
  return score;
}

class Detail {
  constructor(dialog, closed) {
    Object.assign(this, { dialog, row: null });
    const by = (id) => document.getElementById(id);
    this.parts = { name: by("detail-name"), prompt: by("prompt"), bars: by("bars"), rest: by("rest"), star: by("star") };
    this.image = by("large");
    this.link = by("original");
    this.image.addEventListener("error", () => this.fall());
    by("previous").addEventListener("click", () => this.move(-1));
    by("next").addEventListener("click", () => this.move(1));
    by("close").addEventListener("click", () => dialog.close());
    this.parts.star.addEventListener("click", () => toggleFavourite(this.row));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => closed(this.row));
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
    prompt.textContent = value("prompt", row) ?? "No prompt.";
    const failed = value("status", row) === "failed";
    bars.replaceChildren(...["quality", "consistency"].filter((score) => columns[score]).map((score) => partsOf(score, row)));
    rest.replaceChildren();
    const more = [["reason", this.reason(row)], ["size", this.size(row)], ...REST.map((key) => [key, value(key, row)])];
    for (const [key, found] of more) {
      if (found === null || found === "" || found === false) continue;
      const line = make("div");
      line.append(make("dt", "", key.replaceAll("_", " ")), make("dd", "", String(found)));
      rest.append(line);
    }
    showMark(star, row);
    this.image.alt = failed ? "No picture" : value("prompt", row) ?? columns.name[row];
    const original = failed ? null : value("link", row);
    this.fallen = original === null;
    original === null ? this.link.removeAttribute("href") : (this.link.href = original);
    this.image.hidden = original === null && columns.thumb[row] === null;
    this.image.src = original ?? columns.thumb[row] ?? "data:,";
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** The thumbnail, where the original is no longer beside the report. */
  fall() {
    if (this.fallen) return;
    this.fallen = true;
    this.link.removeAttribute("href");
    this.image.hidden = columns.thumb[this.row] === null;
    this.image.src = columns.thumb[this.row] ?? "data:,";
  }

  reason(row) {
    const words = (value("reason", row) || "").split(",").filter(Boolean);
    return words.map((word) => `${word}: ${data.reasons[word] ?? ""}`).join("; ");
  }

  size(row) {
    return value("width", row) === null ? null : `${value("width", row)} × ${value("height", row)}`;
  }

  move(direction) {
    this.show(grid.step(this.row, direction));
  }
}
