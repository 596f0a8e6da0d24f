// The images of a run: decoded when its panel comes near the screen, some cards at a time.

const SOME = 12;
const sprites = new Map();

// Return the pixels of a sprite, RGBA; the browser decodes each once.
async function pixels(source) {
  if (!sprites.has(source)) {
    sprites.set(source, (async () => {
      const image = new Image();
      image.src = source;
      await image.decode();
      const canvas = new OffscreenCanvas(image.width, image.height);
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      return context.getImageData(0, 0, image.width, image.height);
    })());
  }
  return sprites.get(source);
}

function tileAt(sheet, place, [height, width]) {
  const across = DATA.images.across;
  const top = Math.floor(place / across) * height, left = (place % across) * width;
  const tile = new Uint8ClampedArray(4 * width * height);
  for (let row = 0; row < height; row += 1) {
    const from = 4 * ((top + row) * sheet.width + left);
    tile.set(sheet.data.subarray(from, from + 4 * width), 4 * row * width);
  }
  return tile;
}

// The sprite of a run holds (attacked - clean) mod 256.
function attackedFrom(clean, change) {
  return clean.map((value, place) => (place % 4 === 3 ? 255 : (value + change[place]) & 255));
}
function amplified(clean, attacked, factor) {
  return clean.map((value, place) => (place % 4 === 3 ? 255 : 128 + factor * (attacked[place] - value)));
}
function largest(clean, attacked) {
  return clean.reduce((most, value, place) => Math.max(most, Math.abs(attacked[place] - value)), 0);
}

function make(tag, content = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  if (className) element.className = className;
  return element;
}

function view(tile, [height, width], label, about) {
  const holder = document.createElement("div"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(new ImageData(tile, width, height), 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${label}, ${about}`);
  holder.append(canvas, make("span", label));
  return holder;
}

function answers(run, row, classes) {
  const table = document.createElement("table"), body = table.createTBody(), head = table.createTHead().insertRow();
  ["", "clean", "adversarial"].forEach((name) => {
    const cell = make("th", name);
    cell.scope = "col";
    head.append(cell);
  });
  for (const [who, prefix] of [["student", ""], ["teacher", "teacher_"]]) {
    if (!run.answers[`${prefix}clean`]) continue;
    const line = body.insertRow(), name = make("th", who);
    name.scope = "row";
    line.append(name);
    for (const when of ["clean", "attacked"]) {
      const [given, confidence] = run.answers[prefix + when][row], right = given === run.labels[row];
      line.append(make("td", `${right ? "✓" : "✗"} ${classes[given] ?? given}, ${(100 * confidence).toFixed(0)} %`, right ? "" : "wrong"));
    }
  }
  return table;
}

function studentOnly(run, row) {
  const teacher = run.answers.teacher_attacked;
  return Boolean(teacher) && teacher[row][0] === run.labels[row];
}

async function gallery(panel) {
  const place = panel.dataset.run, run = DATA.images.runs[place], classes = DATA.classes[place];
  const set = DATA.images.sets[run.set], [clean, change] = await Promise.all([set, run].map((one) => (one.sprite ? pixels(one.sprite) : null)));
  const holder = panel.querySelector(".gallery"), tools = make("div", "", "tools"), cards = make("ul", "", "cards");
  const count = make("span", "", "quiet"), more = make("button", `Show ${SOME} more`, "more"), chip = make("label", "", "chip pick"), box = document.createElement("input");
  box.type = "checkbox";
  box.name = "student-only";
  chip.append(box, "fooled the student only");
  more.type = "button";
  count.setAttribute("role", "status");
  const pick = make("label", "Class ", "control"), select = document.createElement("select");
  select.append(new Option("all", ""), ...[...new Set(run.labels)].sort((a, b) => a - b).map((label) => new Option(classes[label] ?? label, label)));
  pick.append(select);
  tools.append(...(run.answers.teacher_attacked ? [chip] : [make("span", "Without a teacher nothing is said about whom else an image fools.", "quiet")]), pick, count);
  holder.replaceChildren(tools, cards, more);

  let shown = SOME;
  const show = () => {
    const rows = run.labels.map((_, row) => row).filter((row) => (!box.checked || studentOnly(run, row)) && (!select.value || run.labels[row] === Number(select.value)));
    count.textContent = `${Math.min(shown, rows.length)} of ${rows.length} shown; ${run.labels.length} of the run's ${run.of} misclassified images are on this page.`;
    more.hidden = shown >= rows.length;
    cards.replaceChildren(...rows.slice(0, shown).map((row) => card(row)));
  };
  const card = (row) => {
    const before = tileAt(clean, run.place[row], set.tile), after = attackedFrom(before, tileAt(change, row, set.tile));
    const factor = Math.max(1, Math.floor(127 / Math.max(1, largest(before, after)))), label = classes[run.labels[row]] ?? run.labels[row];
    const item = make("li", "", "card"), title = make("h5", `label ${label}`), views = make("div", "", "views");
    title.append(make("span", `test image ${set.index[run.place[row]]}`));
    views.append(
      view(before, set.tile, "clean", `label ${label}`), view(after, set.tile, "adversarial", `label ${label}`),
      view(amplified(before, after, factor), set.tile, `difference × ${factor}`, "grey is no change"),
    );
    item.append(title, views, answers(run, row, classes));
    return item;
  };
  box.addEventListener("change", () => { shown = SOME; show(); });
  select.addEventListener("change", () => { shown = SOME; show(); });
  more.addEventListener("click", () => { shown += SOME; show(); });
  show();
}

function watchPictures() {
  const begun = new Set();
  const watcher = new IntersectionObserver((entries) => {
    entries.forEach(({ target, isIntersecting }) => {
      if (isIntersecting && !begun.has(target)) { begun.add(target); gallery(target); }
    });
  }, { rootMargin: "400px" });
  document.querySelectorAll(".pictures").forEach((panel) => watcher.observe(panel));
}
