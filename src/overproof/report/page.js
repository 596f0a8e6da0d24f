// The page: its data, its theme, and which run is looked at.

const DATA = JSON.parse(document.getElementById("data").textContent);
const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.querySelector("#theme .choice").textContent = theme;
  paint();
  redraw();
}

function paint() {
  // All colours are asked for before any is set: each question after a change would lay out the whole page again.
  const colours = new Map(DATA.methods.map((method) => [method, colour(method)]));
  document.querySelectorAll(".swatch").forEach((swatch) => swatch.style.setProperty("--colour", colours.get(swatch.dataset.method)));
}

function lookAt(place) {
  document.querySelectorAll("article.run").forEach((article) => { article.hidden = article.id !== `run-${place}`; });
  const which = document.getElementById("which");
  if (which) which.value = place;
}

function follow() {
  const place = /^#run-(\d+)$/.exec(location.hash)?.[1];
  if (place === undefined || !document.getElementById(`run-${place}`)) return;
  lookAt(place);
  document.getElementById(`run-${place}`).scrollIntoView();
}

function start() {
  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % 3]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { paint(); redraw(); });
  document.querySelectorAll(".tools").forEach((tools) => { tools.hidden = false; });
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".seeds").forEach(foldable);
  document.querySelectorAll("input[name=method]").forEach((box) => box.addEventListener("change", filterMethods));
  document.querySelectorAll("input[name=group]").forEach((box) => box.addEventListener("change", () => filterColumns(box)));
  document.querySelectorAll("select[data-attack-of]").forEach((select) => {
    select.addEventListener("change", () => draw(document.getElementById(`chart-${select.dataset.attackOf}`)));
  });
  const which = document.getElementById("which");
  if (which) which.addEventListener("change", () => lookAt(which.value));
  addEventListener("hashchange", follow);
  let before = "auto";
  addEventListener("beforeprint", () => { before = document.documentElement.dataset.theme; setTheme("light"); drawAll(); });
  addEventListener("afterprint", () => setTheme(before));
  lookAt("0");
  follow();
  paint();
  watchCharts();
  watchPictures();
  setTimeout(ready, 2000); // printing cannot wait for it
}

start();
