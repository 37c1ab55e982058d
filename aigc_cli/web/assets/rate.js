"use strict";
// Shows one question after another. The next one appears only when the answer to this one is on disk: until then the
// answer is also kept in the browser, and it is sent again, with the same id, after any interruption.
(() => {
  const find = (id) => document.getElementById(id);
  const pictures = find("pictures"), questions = find("questions"), said = find("said");
  const STORE = "aigc-rate-unsaved " + location.pathname;
  const RETRY = 1000; // milliseconds
  const PARTS = { 1: "1 Bad", 2: "2 Poor", 3: "3 Fair", 4: "4 Good", 5: "5 Excellent" };
  const SIDES = { a: "Left", tie: "No difference", b: "Right" };
  const TITLES = { quality: "Quality", consistency: "Shows the prompt" };
  const CHOICES = { quality: "Better picture", consistency: "Shows the prompt better" };
  let state = null, given = {}, shown = 0, busy = false;

  const store = {
    read() { try { return JSON.parse(localStorage.getItem(STORE)); } catch { return null; } },
    write(value) {
      try {
        if (value === null) localStorage.removeItem(STORE);
        else localStorage.setItem(STORE, JSON.stringify(value));
      } catch { /* private windows may have no storage: the answer is then kept in this page only */ }
    },
  };

  function makeId() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  async function ask(path, body) {
    for (;;) {
      try {
        const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
        const answer = await fetch(path, options);
        if (answer.status < 500) return { status: answer.status, body: await answer.json() };
        tell("The program has a problem; see the terminal. Trying again.");
      } catch {
        tell("The program does not answer. Trying again; your last answer is kept.");
      }
      await new Promise((done) => setTimeout(done, RETRY));
    }
  }

  function tell(text) { said.textContent = text; }

  async function send(path, body) {
    busy = true;
    store.write({ path, body });
    const { status, body: found } = await ask(path, body);
    store.write(null);
    busy = false;
    if (status === 200) show(found);
    else { tell(found.error || "The answer was not taken."); await load(); }
    return found;
  }

  async function load() {
    const { status, body } = await ask("state");
    if (status === 200) show(body);
    else tell(body.error);
  }

  function show(found) {
    state = found;
    given = {};
    shown = performance.now();
    const question = state.question;
    find("count").textContent = state.pairs
      ? `${state.done} answered · ${state.rater}`
      : `${state.done} answered of ${state.total} images · ${state.rater}`;
    find("worth").textContent = state.worth;
    find("ask").hidden = !question;
    find("end").hidden = !!question;
    pictures.replaceChildren();
    document.body.classList.remove("pixels");
    find("zoom").setAttribute("aria-pressed", "false");
    if (!question) return;
    question.images.forEach((one, index) => {
      const frame = document.createElement("figure"), image = document.createElement("img");
      frame.className = "picture";
      frame.tabIndex = 0;
      const which = question.images.length > 1 ? (index ? "Right image" : "Left image") : "Image";
      frame.setAttribute("aria-label", which);
      image.src = one.source;
      image.alt = `${which} to rate`;
      frame.append(image);
      pictures.append(frame);
    });
    find("prompt").textContent = question.prompt;
    find("prompt-line").hidden = !question.prompt;
    questions.replaceChildren(...question.asks.map(makeField));
    tell("");
  }

  function makeField(target) {
    const field = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = (state.pairs ? CHOICES : TITLES)[target];
    field.dataset.target = target;
    field.append(legend);
    for (const [value, label] of Object.entries(state.pairs ? SIDES : PARTS)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = state.pairs ? label : value;
      button.setAttribute("aria-label", `${legend.textContent}: ${label}`);
      button.setAttribute("aria-pressed", "false");
      button.dataset.value = value;
      button.addEventListener("click", () => give(target, value));
      field.append(button);
    }
    const ends = document.createElement("span");
    ends.className = "ends";
    ends.textContent = state.pairs ? "" : "bad to excellent";
    field.append(ends);
    return field;
  }

  function give(target, value) {
    if (busy || !state || !state.question) return;
    given[target] = value;
    for (const button of questions.querySelectorAll(`[data-target="${target}"] button`))
      button.setAttribute("aria-pressed", String(button.dataset.value === value));
    const rest = state.question.asks.filter((name) => !given[name]);
    if (rest.length) tell(`${TITLES[target]} ${value}. Now: ${(state.pairs ? CHOICES : TITLES)[rest[0]]}.`);
    else answer({ ...given });
  }

  function answer(values) {
    if (busy || !state || !state.question) return;
    const images = state.question.images.map((one) => one.name);
    const seconds = (performance.now() - shown) / 1000;
    send("answer", { id: makeId(), images, seconds, ...values });
  }

  async function undo() {
    if (busy) return;
    const found = await send("undo", { id: makeId() });
    tell(found.undone ? "The last answer is taken back. Answer again." : "There is nothing to undo.");
  }

  function toggleZoom() {
    const on = document.body.classList.toggle("pixels");
    find("zoom").setAttribute("aria-pressed", String(on));
  }

  function toggleHidden() {
    const hidden = find("prompt").hidden = !find("prompt").hidden;
    find("hide").setAttribute("aria-pressed", String(hidden));
  }

  function toggleHelp() {
    const open = find("help").hidden;
    const keys = state && state.pairs
      ? { "1 or ←": "left", "2 or ↓": "no difference", "3 or →": "right" }
      : { "1 to 5": "quality, then how well the image shows the prompt" };
    const rows = { ...keys, U: "undo the last answer", S: "skip", Z: "pixels, one to one", H: "hide or show the prompt", "?": "these keys" };
    find("keys").replaceChildren(...Object.entries(rows).flatMap(([key, text]) => {
      const name = document.createElement("dt"), means = document.createElement("dd"), label = document.createElement("kbd");
      label.textContent = key;
      name.append(label);
      means.textContent = text;
      return [name, means];
    }));
    find("help").hidden = !open;
    find("help-button").setAttribute("aria-expanded", String(open));
  }

  const ARROWS = { ArrowLeft: "a", ArrowDown: "tie", ArrowRight: "b", 1: "a", 2: "tie", 3: "b" };
  const COMMANDS = { u: undo, s: () => answer({ skip: true }), z: toggleZoom, h: toggleHidden, "?": toggleHelp };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const value = state && state.pairs ? ARROWS[event.key] : PARTS[event.key] && event.key;
    const scrolls = document.body.classList.contains("pixels") && event.key.startsWith("Arrow");
    if (value && !scrolls && state && state.question) {
      const next = state.question.asks.find((name) => !given[name]);
      if (next) give(next, value);
      event.preventDefault();
    } else if (COMMANDS[event.key.toLowerCase()]) {
      COMMANDS[event.key.toLowerCase()]();
      event.preventDefault();
    }
  });
  find("undo").addEventListener("click", undo);
  find("undo-last").addEventListener("click", undo);
  find("skip").addEventListener("click", () => answer({ skip: true }));
  find("zoom").addEventListener("click", toggleZoom);
  find("hide").addEventListener("click", toggleHidden);
  find("help-button").addEventListener("click", toggleHelp);

  const unsaved = store.read();
  if (unsaved && unsaved.path && unsaved.body) send(unsaved.path, unsaved.body);
  else load();
})();
