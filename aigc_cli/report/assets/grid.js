// The gallery. Only cards near the window exist, so that ten thousand images cost as much as fifty.

const GAP = 12, MIN_SIDE = 168, WORDS = 78, TITLE = 44, AHEAD = 500;

function makeElement(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text; // text only: it may be untrusted
  return element;
}

class Grid {
  constructor(host, onOpen) {
    Object.assign(this, { host, onOpen, cards: new Map(), titles: new Map(), lines: [], active: null, across: 1 });
    host.addEventListener("keydown", (event) => this.handleKey(event));
    addEventListener("scroll", () => this.scheduleRender(), { passive: true });
    new ResizeObserver(() => this.handleResize()).observe(host);
  }

  handleResize() {
    if (this.host.clientWidth !== this.width) this.layout();
  }

  /** Computes the place of every line of cards and every title. */
  layout() {
    this.width = this.host.clientWidth;
    this.across = Math.max(2, Math.floor((this.width + GAP) / (MIN_SIDE + GAP)));
    this.side = (this.width - GAP * (this.across - 1)) / this.across;
    this.high = Math.round(this.side) + WORDS;
    this.lines = [];
    this.where = new Map(); // row -> number of its line
    let top = 0, line = null, prompt;
    state.view.forEach((row, place) => {
      const here = getValue("prompt", row);
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
    if (state.view.length === 0) this.host.append(makeElement("p", "empty", "No image passes these filters."));
    this.render();
    if (focused) this.cards.get(this.active)?.firstChild.focus({ preventScroll: true });
  }

  scheduleRender() {
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
        if (!this.titles.has(number)) this.titles.set(number, this.makeTitle(line, number));
      }
      line.rows.forEach((row, place) => {
        cards.add(row);
        if (!this.cards.has(row)) this.cards.set(row, this.makeCard(row, line, place));
      });
    }
    for (const [row, card] of this.cards) {
      if (cards.has(row) || card.contains(document.activeElement)) continue; // keep the card that has the focus
      card.remove();
      this.cards.delete(row);
    }
    for (const [number, title] of this.titles) {
      if (titles.has(number)) continue;
      title.remove();
      this.titles.delete(number);
    }
  }

  makeTitle(line, number) {
    const title = makeElement("h2", "row-title");
    title.append(makeElement("span", "", line.title));
    title.firstChild.title = line.title; // a long title is cut on the page
    let count = 0;
    for (let next = number + 1; next < this.lines.length && this.lines[next].title === null; next++) {
      count += this.lines[next].rows.length;
    }
    title.append(makeElement("small", "", `  ${count} image${count === 1 ? "" : "s"}`));
    title.style.top = `${line.top}px`;
    this.host.append(title);
    return title;
  }

  makeCard(row, line, place) {
    const card = makeElement("div", "card");
    card.setAttribute("role", "listitem");
    card.setAttribute("aria-setsize", state.view.length);
    card.setAttribute("aria-posinset", line.first + place + 1);
    card.dataset.row = row;
    Object.assign(card.style, {
      top: `${line.top}px`, left: `${place * (this.side + GAP)}px`, width: `${this.side}px`, height: `${this.high}px`,
    });
    const open = makeElement("button", "open");
    open.type = "button";
    open.tabIndex = row === this.active ? 0 : -1;
    open.append(this.makePicture(row), this.makeWords(row));
    open.addEventListener("click", () => this.onOpen(row));
    open.addEventListener("focus", () => this.activate(row));
    const mark = makeElement("button", "mark");
    mark.type = "button";
    mark.tabIndex = -1; // the key f does the same
    mark.addEventListener("click", () => toggleFavourite(row));
    card.append(open, mark);
    this.host.append(card);
    showMark(mark, row);
    return card;
  }

  makePicture(row) {
    const frame = makeElement("span", "frame");
    if (columns.thumb[row] === null) {
      frame.append(makeElement("span", "none", getValue("reason", row) || "no picture"));
      return frame;
    }
    const image = makeElement("img");
    image.alt = "";
    image.decoding = "async";
    image.src = columns.thumb[row];
    frame.append(image);
    return frame;
  }

  makeWords(row) {
    const words = makeElement("span", "words");
    const points = makeElement("span", "points");
    for (const name of ["quality", "consistency"]) {
      if (!columns[name]) continue;
      const score = makeElement("span", name);
      score.append(makeElement("b", "", name[0].toUpperCase()), ` ${formatScore(columns[name][row])}`);
      score.title = TITLES[name];
      points.append(score);
    }
    const text = makeElement("span", "text", getValue("prompt", row) ?? "");
    text.dir = "auto";
    words.append(points, makeElement("span", "", columns.name[row]), text);
    return words;
  }

  activate(row) {
    const before = this.cards.get(this.active);
    if (before) before.firstChild.tabIndex = -1;
    this.active = row;
    const now = this.cards.get(row);
    if (now) now.firstChild.tabIndex = 0;
  }

  /** Scrolls to a row and focuses it. */
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

  findNext(row, direction) {
    const place = state.view.indexOf(row);
    return state.view[Math.min(state.view.length - 1, Math.max(0, place + direction))];
  }

  /** The row above or below, in the same column if there is one. */
  findBelow(row, direction) {
    const at = this.where.get(row);
    const column = this.lines[at].rows.indexOf(row);
    let next = at + direction;
    while (this.lines[next] && this.lines[next].title !== null) next += direction;
    const rows = this.lines[next]?.rows;
    return rows ? rows[Math.min(column, rows.length - 1)] : row;
  }

  handleKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.where.has(this.active)) return;
    const moves = {
      ArrowRight: () => this.findNext(this.active, 1),
      ArrowLeft: () => this.findNext(this.active, -1),
      ArrowDown: () => this.findBelow(this.active, 1),
      ArrowUp: () => this.findBelow(this.active, -1),
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
