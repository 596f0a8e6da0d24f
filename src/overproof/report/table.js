// Tables: sorting by a column, seeds folded in, methods and groups of columns left out.

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = head.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => {
      const falls = place > 0 && head.getAttribute("aria-sort") !== "descending";
      const rises = place === 0 && head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      const direction = falls || rises ? -1 : 1;
      head.setAttribute("aria-sort", direction < 0 ? "descending" : "ascending");
      sortBodies(table, place, direction);
    });
  });
}

// What has no figure comes last in either direction.
function sortBodies(table, place, direction) {
  const figure = (body) => {
    const value = parseFloat(body.rows[0].cells[place].dataset.value);
    return Number.isFinite(value) ? value : null;
  };
  const bodies = [...table.tBodies];
  bodies.sort((one, other) => {
    if (place === 0) return direction * one.dataset.name.localeCompare(other.dataset.name, undefined, { numeric: true });
    const [a, b] = [figure(one), figure(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (a - b);
  });
  bodies.forEach((body) => table.append(body));
}

function foldable(button) {
  const members = [...button.closest("tbody").querySelectorAll(".member")];
  const set = (open) => {
    button.setAttribute("aria-expanded", String(open));
    members.forEach((row) => { row.hidden = !open; });
  };
  button.addEventListener("click", () => set(button.getAttribute("aria-expanded") !== "true"));
  set(false);
}

function shownMethods() {
  const boxes = [...document.querySelectorAll("input[name=method]")];
  return boxes.length ? new Set(boxes.filter((box) => box.checked).map((box) => box.value)) : null;
}

function filterMethods() {
  const shown = shownMethods();
  document.querySelectorAll("tbody[data-method]").forEach((body) => {
    body.hidden = shown !== null && !shown.has(body.dataset.method);
  });
  redraw();
}

function filterColumns(box) {
  document.querySelectorAll("#results table").forEach((table) => {
    table.classList.toggle(`hide-${box.value}`, !box.checked);
  });
}
