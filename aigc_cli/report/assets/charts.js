// Two histograms and a scatter plot. Dragging on a chart sets the ranges of the filters.

const BINS = 30;
const EDGE = { left: 34, right: 10, top: 8, bottom: 22 };

const formatScore = (number, digits = 2) => (number === null || number === undefined ? "-" : number.toFixed(digits));

function listTicks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(+at.toFixed(6));
  return found;
}

class Chart {
  /** x and y are score columns; without y it is a histogram. Calls onRanges({column: [minimum, maximum]}). */
  constructor(canvas, x, y, onRanges) {
    Object.assign(this, { canvas, x, y, onRanges, drag: null });
    canvas.addEventListener("pointerdown", (event) => this.start(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => this.end());
  }

  get box() {
    const { clientWidth, clientHeight } = this.canvas;
    return { width: clientWidth - EDGE.left - EDGE.right, height: clientHeight - EDGE.top - EDGE.bottom };
  }

  toX(score) {
    return EDGE.left + ((score - data.scale[0]) / (data.scale[1] - data.scale[0])) * this.box.width;
  }

  toY(share) {
    return EDGE.top + (1 - share) * this.box.height;
  }

  scoreAt(event) {
    const frame = this.canvas.getBoundingClientRect();
    const share = (at, from, size) => Math.min(1, Math.max(0, (at - from) / size));
    const span = data.scale[1] - data.scale[0];
    return [
      data.scale[0] + span * share(event.clientX - frame.left, EDGE.left, this.box.width),
      data.scale[0] + span * (1 - share(event.clientY - frame.top, EDGE.top, this.box.height)),
    ];
  }

  start(event) {
    if (event.button !== 0) return;
    this.drag = { from: this.scoreAt(event), moved: false };
    try {
      this.canvas.setPointerCapture(event.pointerId);
    } catch {
      // the pointer is already gone
    }
  }

  move(event) {
    if (!this.drag) return;
    const to = this.scoreAt(event);
    const far = Math.max(...to.map((at, axis) => Math.abs(at - this.drag.from[axis])));
    this.drag.moved ||= far > (data.scale[1] - data.scale[0]) / 100;
    if (this.drag.moved) this.onRanges(this.makeRanges(to));
  }

  end() {
    if (this.drag && !this.drag.moved) this.onRanges(this.makeRanges(null)); // a click clears the range
    this.drag = null;
  }

  makeRanges(to) {
    const found = {};
    [this.x, this.y].forEach((name, axis) => {
      if (!name) return;
      const pair = to && [this.drag.from[axis], to[axis]].sort((one, other) => one - other);
      found[name] = pair ? pair.map((score) => +score.toFixed(2)) : [null, null];
    });
    return found;
  }

  draw(selected) {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.body);
    const colour = (name) => {
      probe.className = name;
      return getComputedStyle(probe).color;
    };
    const muted = getComputedStyle(document.getElementById("count").parentElement).color;
    this.pen = pen;
    this.paint = { text: style.color, muted, rest: colour("probe-rest"), ink: getComputedStyle(canvas).color };
    pen.font = `11px ${style.fontFamily}`;
    this.y ? this.drawScatter(selected) : this.drawHistogram(selected);
    this.drawFrame();
  }

  drawAxis() {
    const { pen, paint } = this;
    pen.fillStyle = paint.text;
    pen.textAlign = "center";
    for (const at of listTicks(...data.scale)) pen.fillText(String(at), this.toX(at), EDGE.top + this.box.height + 15);
    pen.fillStyle = paint.rest;
    pen.fillRect(EDGE.left, EDGE.top + this.box.height, this.box.width, 1);
  }

  drawHistogram(selected) {
    const [low, high] = data.scale;
    const all = new Array(BINS).fill(0);
    const kept = new Array(BINS).fill(0);
    columns[this.x].forEach((score, row) => {
      if (score === null) return;
      const bin = Math.min(BINS - 1, Math.max(0, Math.floor(((score - low) / (high - low)) * BINS)));
      all[bin]++;
      if (selected[row]) kept[bin]++;
    });
    const most = Math.max(1, ...all);
    const width = this.box.width / BINS;
    const { pen, paint } = this;
    [[all, paint.rest], [kept, paint.ink]].forEach(([counts, ink]) => {
      pen.fillStyle = ink;
      counts.forEach((count, bin) => {
        const height = (count / most) * this.box.height;
        pen.fillRect(EDGE.left + bin * width + 0.5, this.toY(0) - height, width - 1, height);
      });
    });
    pen.fillStyle = paint.text;
    pen.textAlign = "right";
    pen.fillText(String(most), EDGE.left - 6, EDGE.top + 8);
    this.drawAxis();
  }

  drawScatter(selected) {
    const { pen, paint } = this;
    const [low, high] = data.scale;
    const size = data.count > 2000 ? 2.4 : data.count > 200 ? 3.6 : 6;
    const up = (score) => this.toY((score - low) / (high - low));
    for (const pass of [false, true]) {
      pen.fillStyle = pass ? paint.ink : paint.rest;
      pen.globalAlpha = pass && data.count > 2000 ? 0.6 : 1;
      for (let row = 0; row < data.count; row++) {
        const [x, y] = [columns[this.x][row], columns[this.y][row]];
        if (selected[row] !== pass || x === null || y === null) continue;
        pen.fillRect(this.toX(x) - size / 2, up(y) - size / 2, size, size);
      }
    }
    pen.globalAlpha = 1;
    pen.textAlign = "right";
    pen.fillStyle = paint.text;
    for (const at of listTicks(low, high)) pen.fillText(String(at), EDGE.left - 6, up(at) + 4);
    pen.fillStyle = paint.rest;
    pen.fillRect(EDGE.left, EDGE.top, 1, this.box.height);
    this.drawAxis();
  }

  /** Draws the current range as a dashed frame. */
  drawFrame() {
    const [low, high] = data.scale;
    const [x, y] = [this.x, this.y].map((name) => (name && state.ranges[name]) || [null, null]);
    if ([...x, ...y].every((end) => end === null)) return;
    const left = this.toX(Math.max(low, x[0] ?? low));
    const right = this.toX(Math.min(high, x[1] ?? high));
    const top = this.toY(((y[1] ?? high) - low) / (high - low));
    const bottom = this.toY(((y[0] ?? low) - low) / (high - low));
    this.pen.strokeStyle = this.paint.text;
    this.pen.setLineDash([4, 3]);
    this.pen.strokeRect(left, top, right - left, bottom - top);
  }
}

const probe = document.createElement("span"); // reads the current value of a colour in the style sheet
probe.hidden = true;
document.body.append(probe);
