// The gallery: only the cards near the window exist, so ten thousand images cost as much as fifty.

const GAP = 12, LEAST = 168, WORDS = 78, TITLE = 44, AHEAD = 500;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text; // never markup
  return element;
}

class Grid {
  constructor(host, opened) {
    Object.assign(this, { host, opened, cards: new Map(), titles: new Map(), lines: [], active: null, across: 1 });
    host.addEventListener("keydown", (event) => this.key(event));
    addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.resized()).observe(host);
  }

  resized() {
    if (this.host.clientWidth !== this.width) this.layout();
  }

  /** Where every line of cards and every title is. */
  layout() {
    this.width = this.host.clientWidth;
    this.across = Math.max(2, Math.floor((this.width + GAP) / (LEAST + GAP)));
    this.side = (this.width - GAP * (this.across - 1)) / this.across;
    this.high = Math.round(this.side) + WORDS;
    this.lines = [];
    this.where = new Map(); // row -> its line
    let top = 0, line = null, prompt;
    state.view.forEach((row, place) => {
      const here = value("prompt", row);
      if (state.group && (place === 0 || here !== prompt)) {
        this.lines.push({ top, high: TITLE, title: here ?? "(no prompt)", rows: [] });
        top += TITLE;
        line = null;
      }
      prompt = here;
      if (!line || line.rows.length === this.across) {
        line = { top, high: this.high, title: null, rows: [], first: place };
        this.lines.push(line);
        top += this.high + GAP;
      }
      this.where.set(row, this.lines.length - 1);
      line.rows.push(row);
    });
    this.host.style.height = `${Math.max(top, 120)}px`;
    const focused = this.host.contains(document.activeElement);
    this.host.replaceChildren();
    this.cards.clear();
    this.titles.clear();
    if (!this.where.has(this.active)) this.active = state.view[0] ?? null;
    if (state.view.length === 0) this.host.append(make("p", "empty", "No image passes these filters."));
    this.render();
    if (focused) this.cards.get(this.active)?.firstChild.focus({ preventScroll: true });
  }

  soon() {
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      this.render();
    });
  }

  render() {
    const start = -this.host.getBoundingClientRect().top - AHEAD;
    const end = start + innerHeight + 2 * AHEAD;
    let from = 0, to = this.lines.length;
    while (from < to) {
      const middle = (from + to) >> 1;
      this.lines[middle].top + this.lines[middle].high < start ? (from = middle + 1) : (to = middle);
    }
    const cards = new Set(), titles = new Set();
    for (let number = from; number < this.lines.length && this.lines[number].top < end; number++) {
      const line = this.lines[number];
      if (line.title !== null) {
        titles.add(number);
        if (!this.titles.has(number)) this.titles.set(number, this.title(line, number));
      }
      line.rows.forEach((row, place) => {
        cards.add(row);
        if (!this.cards.has(row)) this.cards.set(row, this.card(row, line, place));
      });
    }
    for (const [row, card] of this.cards) {
      if (cards.has(row) || card.contains(document.activeElement)) continue; // the focus is not thrown away
      card.remove();
      this.cards.delete(row);
    }
    for (const [number, title] of this.titles) {
      if (titles.has(number)) continue;
      title.remove();
      this.titles.delete(number);
    }
  }

  title(line, number) {
    const title = make("h2", "row-title");
    title.append(make("span", "", line.title));
    title.firstChild.title = line.title; // a long one is cut
    let count = 0;
    for (let next = number + 1; next < this.lines.length && this.lines[next].title === null; next++) {
      count += this.lines[next].rows.length;
    }
    title.append(make("small", "", `  ${count} image${count === 1 ? "" : "s"}`));
    title.style.top = `${line.top}px`;
    this.host.append(title);
    return title;
  }

  card(row, line, place) {
    const card = make("div", "card");
    card.setAttribute("role", "listitem");
    card.setAttribute("aria-setsize", state.view.length);
    card.setAttribute("aria-posinset", line.first + place + 1);
    card.dataset.row = row;
    Object.assign(card.style, {
      top: `${line.top}px`, left: `${place * (this.side + GAP)}px`, width: `${this.side}px`, height: `${this.high}px`,
    });
    const open = make("button", "open");
    open.type = "button";
    open.tabIndex = row === this.active ? 0 : -1;
    open.append(this.picture(row), this.words(row));
    open.addEventListener("click", () => this.opened(row));
    open.addEventListener("focus", () => this.activate(row));
    const mark = make("button", "mark");
    mark.type = "button";
    mark.tabIndex = -1; // f does the same
    mark.addEventListener("click", () => toggleFavourite(row));
    card.append(open, mark);
    this.host.append(card);
    showMark(mark, row);
    return card;
  }

  picture(row) {
    const frame = make("span", "frame");
    if (columns.thumb[row] === null) {
      frame.append(make("span", "none", value("reason", row) || "no picture"));
      return frame;
    }
    const image = make("img");
    image.alt = "";
    image.decoding = "async";
    image.src = columns.thumb[row];
    frame.append(image);
    return frame;
  }

  words(row) {
    const words = make("span", "words");
    const points = make("span", "points");
    for (const name of ["quality", "consistency"]) {
      if (!columns[name]) continue;
      const score = make("span", name);
      score.append(make("b", "", name[0].toUpperCase()), ` ${shown(columns[name][row])}`);
      score.title = TITLES[name];
      points.append(score);
    }
    const text = make("span", "text", value("prompt", row) ?? "");
    text.dir = "auto";
    words.append(points, make("span", "", columns.name[row]), text);
    return words;
  }

  activate(row) {
    const before = this.cards.get(this.active);
    if (before) before.firstChild.tabIndex = -1;
    this.active = row;
    const now = this.cards.get(row);
    if (now) now.firstChild.tabIndex = 0;
  }

  /** Brings a row into the window and puts the focus on it. */
  focus(row) {
    if (!this.where.has(row)) return;
    const line = this.lines[this.where.get(row)];
    const top = this.host.getBoundingClientRect().top + line.top;
    if (top < 8 || top + line.high > innerHeight - 8) {
      scrollBy({ top: top < 8 ? top - 24 : top + line.high - innerHeight + 24, behavior: "instant" });
    }
    this.activate(row);
    this.render();
    this.cards.get(row)?.firstChild.focus({ preventScroll: true });
  }

  step(row, direction) {
    const place = state.view.indexOf(row);
    return state.view[Math.min(state.view.length - 1, Math.max(0, place + direction))];
  }

  /** The row above or below, in the same column where there is one. */
  beside(row, direction) {
    const at = this.where.get(row);
    const column = this.lines[at].rows.indexOf(row);
    let next = at + direction;
    while (this.lines[next] && this.lines[next].title !== null) next += direction;
    const rows = this.lines[next]?.rows;
    return rows ? rows[Math.min(column, rows.length - 1)] : row;
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.where.has(this.active)) return;
    const moves = {
      ArrowRight: () => this.step(this.active, 1),
      ArrowLeft: () => this.step(this.active, -1),
      ArrowDown: () => this.beside(this.active, 1),
      ArrowUp: () => this.beside(this.active, -1),
      Home: () => state.view[0],
      End: () => state.view[state.view.length - 1],
    };
    if (moves[event.key]) {
      event.preventDefault();
      this.focus(moves[event.key]());
    } else if (event.key === "f") {
      toggleFavourite(this.active);
    }
  }
}
