// Charts: each is drawn when it comes near the screen, and again when the theme or the filter changes.

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "hexagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const drawn = new Set();

function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
function colour(method) { return css(`--series-${Math.max(0, DATA.methods.indexOf(method)) % 8}`); }
function symbol(method) {
  const place = Math.max(0, DATA.methods.indexOf(method));
  return SYMBOLS[(place + Math.floor(place / 8)) % SYMBOLS.length];
}
// Plotly reads tags in texts; a name is only a name.
function text(name) { return String(name).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }
function percent(values) { return values.map((value) => (value === null ? null : 100 * value)); }
function faded(hex, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}
function only(items) {
  const shown = shownMethods();
  return shown === null ? items : items.filter((item) => shown.has(item.method));
}

function axis(title, more = {}) {
  return {
    title: { text: title, font: { size: 13, color: css("--quiet") }, standoff: 12 }, gridcolor: css("--line"),
    zeroline: false, linecolor: css("--line"), tickfont: { color: css("--quiet"), size: 12 }, automargin: true, ...more,
  };
}
function layout(x, y, more = {}) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { t: 12, r: 16, b: 48, l: 56 },
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 13, color: css("--ink") },
    hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--ink"), size: 13 }, align: "left" },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: 12 } }, xaxis: x, yaxis: y, hovermode: "closest", ...more,
  };
}
function once(seen, name) {
  if (seen.has(name)) return false;
  seen.add(name);
  return true;
}

const CHARTS = {
  plane(chart) {
    const points = only(chart.points);
    const ends = (key, place) => points.map((point) => 100 * point[key][place]).filter(Number.isFinite);
    const range = (key) => {
      const single = points.flatMap((point) => point.runs.map((run) => 100 * run[key === "clean" ? 1 : 2]));
      const all = [...ends(key, 1), ...ends(key, 2), ...single];
      const low = Math.min(...all, 100), high = Math.max(...all, 0);
      const pad = Math.max(2, 0.06 * (high - low));
      return [Math.max(-2, low - pad), Math.min(100.6, high + pad)];
    };
    const [x, y] = [range("clean"), range("worst")];
    const traces = isoLines(x, y);
    const seen = new Set();
    for (const point of points) {
      const shade = colour(point.method);
      const bars = (key) => ({
        type: "data", symmetric: false, color: faded(shade, 0.45), thickness: 1.3, width: 0,
        array: [100 * (point[key][2] - point[key][0])], arrayminus: [100 * (point[key][0] - point[key][1])],
      });
      const span = (key) => `${(100 * point[key][0]).toFixed(1)} % [${(100 * point[key][1]).toFixed(1)}, ${(100 * point[key][2]).toFixed(1)}]`;
      if (point.runs.length) {
        traces.push({
          type: "scatter", mode: "markers", x: percent(point.runs.map((run) => run[1])), y: percent(point.runs.map((run) => run[2])),
          text: point.runs.map((run) => text(run[0])), hovertemplate: "%{text}<br>clean %{x:.1f} %, worst case %{y:.1f} %<extra></extra>",
          marker: { color: faded(shade, 0.5), size: 5.5, symbol: symbol(point.method) }, showlegend: false, legendgroup: point.method,
        });
      }
      traces.push({
        type: "scatter", mode: "markers", name: text(point.method), legendgroup: point.method, showlegend: once(seen, point.method),
        x: [100 * point.clean[0]], y: [100 * point.worst[0]], error_x: bars("clean"), error_y: bars("worst"),
        marker: { color: shade, size: 12, symbol: symbol(point.method), line: { color: css("--paper"), width: 1.5 } },
        hovertemplate: `<b>${text(point.name)}</b>${point.seeds > 1 ? `, ${point.seeds} seeds` : ""}<br>clean ${span("clean")}<br>worst case ${span("worst")}<extra></extra>`,
      });
    }
    return [traces, layout(axis("clean accuracy, %", { range: x }), axis("worst-case accuracy, %", { range: y }), { showlegend: seen.size > 1 })];
  },

  radius(chart) {
    const series = only(chart.series), traces = [], seen = new Set();
    const widest = Math.max(...series.flatMap((line) => [...line.attacked, ...line.certified].map((point) => point[0])), 0);
    for (const line of series) {
      const shade = colour(line.method), name = text(line.name);
      const draw = (points, form, style, marker) => {
        if (!points.length) return;
        const bars = points[0].length > 2 && points.length < 12 ? {
          error_y: { type: "data", symmetric: false, thickness: 1.2, width: 0, color: faded(shade, 0.5),
            array: points.map((p) => 100 * (p[3] - p[1])), arrayminus: points.map((p) => 100 * (p[1] - p[2])) },
        } : {};
        traces.push({
          type: "scatter", mode: marker ? "lines+markers" : "lines", x: points.map((p) => p[0]), y: points.map((p) => 100 * p[1]),
          line: { color: faded(shade, form === "probe" ? 0.75 : 1), width: form === "probe" ? 1.2 : 2, dash: style },
          marker: { color: shade, size: 8, symbol: form === "certified" ? `${symbol(line.method)}-open` : symbol(line.method) },
          name: text(line.method), legendgroup: line.method, showlegend: once(seen, line.method), ...bars,
          hovertemplate: `<b>${name}</b>, ${form}<br>eps %{x:.4g}: %{y:.1f} %<extra></extra>`,
        });
      };
      draw(line.attacked, "attacked", "solid", true);
      draw(line.certified, "certified", "dash", true);
      draw(line.probe.filter((point) => point[0] <= 2.2 * widest), "probe", "dot", false);
    }
    return [traces, layout(axis(`eps, ${chart.norm}`, { rangemode: "tozero" }), axis("accuracy, %", { range: [-2, 102] }), { showlegend: seen.size > 1 })];
  },

  survivors(chart, element) {
    const select = document.querySelector(`select[data-attack-of="${element.dataset.chart}"]`);
    const attacks = [...new Set(chart.lines.map((line) => line.attack))];
    const lines = only(chart.lines).filter((line) => !select || !select.value || line.attack === select.value);
    const many = new Set(chart.lines.map((line) => line.run)).size > 1, seen = new Set();
    const traces = lines.map((line) => ({
      type: "scatter", mode: "lines", x: line.rows.map((row) => Math.max(row[0], 0.8)), y: percent(line.rows.map((row) => row[1])),
      line: { shape: "hv", width: 2, color: many ? colour(line.method) : css(`--series-${attacks.indexOf(line.attack) % 8}`),
        dash: DASHES[attacks.indexOf(line.attack) % DASHES.length] },
      name: many ? text(line.method) : text(line.attack), legendgroup: many ? line.method : line.attack,
      showlegend: once(seen, many ? line.method : line.attack),
      hovertemplate: `<b>${text(line.run)}</b>, ${text(line.attack)}<br>after %{x:.0f} passes: %{y:.1f} %<extra></extra>`,
    }));
    const dashed = many ? [...new Set(lines.map((line) => line.attack))] : [];
    if (dashed.length > 1) {
      traces.push(...dashed.map((attack) => ({
        type: "scatter", mode: "lines", x: [null], y: [null], name: text(attack), hoverinfo: "skip",
        line: { width: 2, color: css("--quiet"), dash: DASHES[attacks.indexOf(attack) % DASHES.length] },
      })));
    }
    return [traces, layout(axis("forward passes per image", decades(element)), axis("still correct, %", { range: [-2, 102] }))];
  },

  accuracies(chart) {
    return ranges(only(chart.runs).filter((run) => run.accuracy.length === 2), (run) => percent(run.accuracy),
      (run) => `${run.region}, ${run.images} images`, "robust accuracy, %", (value) => `${value.toFixed(1)} %`, { range: [0, 100] });
  },
  gaps(chart) {
    return ranges(only(chart.runs).filter((run) => run.gap), (run) => run.gap.gap,
      (run) => `${run.region}, ${run.counted} images, beside ${run.teacher}<br>less sure ${run.gap.under.map((v) => v.toFixed(3)).join(" to ")}<br>surer ${run.gap.over.map((v) => v.toFixed(3)).join(" to ")}`,
      "mean confidence gap", (value) => value.toFixed(3), { rangemode: "tozero" });
  },
  faithful(chart, element) {
    const traces = [];
    for (const run of only(chart.runs).filter((one) => one.curve)) {
      const shade = colour(run.method), x = run.curve.map((point) => point[0]);
      const line = (place, style, fill, label) => ({
        type: "scatter", mode: "lines+markers", x, y: percent(run.curve.map((point) => point[place])), line: { color: shade, dash: style, width: 2 },
        marker: { size: 6, color: shade, symbol: symbol(run.method) }, fill, fillcolor: faded(shade, 0.13), name: `${text(run.name)}, ${text(run.region)}`, legendgroup: run.name,
        showlegend: place === 1, hovertemplate: `<b>${text(run.name)}</b><br>${label} %{y:.1f} % at gamma %{x}<extra></extra>`,
      });
      traces.push(line(1, "solid", "none", "proven"), line(2, "dot", "tonexty", "not refuted"));
    }
    return [traces, layout(axis("gamma, largest gap allowed", decades(element)), axis("faithful images, %", { range: [-2, 102] }))];
  },

  training(chart) {
    const lines = Object.entries(chart.terms);
    const values = lines.flatMap(([, line]) => line).filter((value) => value > 0);
    const wide = values.length && Math.max(...values) > 100 * Math.min(...values);
    return [plain(chart.epochs, lines), layout(axis("epoch", whole(chart.epochs)), axis("loss", wide ? { type: "log" } : { rangemode: "tozero" }))];
  },
  selection(chart) {
    const best = chart.epoch.indexOf(chart.best);
    const traces = plain(chart.epoch, [["clean", percent(chart.clean)], ["robust", percent(chart.robust)]]);
    if (best >= 0) {
      traces.push({
        type: "scatter", mode: "markers", name: "kept", x: [chart.best], y: [100 * chart.robust[best]],
        marker: { symbol: "star", size: 15, color: css("--ink"), line: { color: css("--paper"), width: 1 } },
        hovertemplate: "kept: epoch %{x}, robust %{y:.1f} %<extra></extra>",
      });
    }
    return [traces, layout(axis("epoch", whole(chart.epoch)), axis("held-out accuracy, %", { range: [-2, 102] }))];
  },
  controller(chart) {
    return [plain(chart.epochs, Object.entries(chart.lines)), layout(axis("epoch", whole(chart.epochs)), axis(""))];
  },

  reliability(chart, element) {
    const stacked = element.clientWidth < 560, traces = [], parts = Object.entries(chart.parts);
    const figure = layout(axis("confidence", { range: [0, 1] }), axis("share that is right", { range: [0, 1] }), { showlegend: false, annotations: [], bargap: 0 });
    parts.forEach(([name, part], place) => {
      const [x, y] = place ? ["x2", "y2"] : ["x", "y"], full = Math.max(...part.bins.map((bin) => bin[2]), 1);
      const bins = part.bins.filter((bin) => bin[2] > 0), shade = css(place ? "--series-1" : "--series-0");
      traces.push({
        type: "bar", x: bins.map((bin) => (bin[0] + bin[1]) / 2), y: bins.map((bin) => bin[4]), width: bins.map((bin) => bin[1] - bin[0]), xaxis: x, yaxis: y,
        marker: { color: bins.map((bin) => faded(shade, 0.22 + 0.78 * Math.sqrt(bin[2] / full))), line: { color: css("--paper"), width: 1 } },
        customdata: bins.map((bin) => [bin[2], bin[3]]), hovertemplate: "%{customdata[0]} images<br>confidence %{customdata[1]:.3f}<br>right %{y:.3f}<extra></extra>",
      });
      traces.push({ type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], xaxis: x, yaxis: y, hoverinfo: "skip", line: { color: css("--quiet"), width: 1, dash: "dot" } });
      const domains = stacked ? { x: [0, 1], y: place ? [0, 0.4] : [0.6, 1] } : { x: place ? [0.55, 1] : [0, 0.45], y: [0, 1] };
      figure[place ? "xaxis2" : "xaxis"] = axis("confidence", { range: [0, 1], domain: domains.x, anchor: y });
      figure[place ? "yaxis2" : "yaxis"] = axis("share that is right", { range: [0, 1], domain: domains.y, anchor: x });
      figure.annotations.push({
        text: `<b>${text(name)}</b>, ${part.of.toLocaleString("en")} images`, showarrow: false, xref: "paper", yref: "paper", x: domains.x[0], y: domains.y[1],
        xanchor: "left", yanchor: "bottom", font: { size: 13 },
      });
    });
    figure.margin.t = 34;
    if (stacked) figure.height = 620;
    return [traces, figure];
  },
};

// Lines of equal W-Robust, w = (x + y) / 2, inside a rectangle of percent.
function isoLines(x, y) {
  const corner = (x[1] + y[1]) / 2, foot = (x[0] + y[0]) / 2, traces = [];
  const step = [1, 2, 5, 10, 20].find((one) => (corner - foot) / one <= 7) || 25;
  for (let w = Math.ceil(foot / step) * step; w < Math.min(100, corner); w += step) {
    const from = Math.max(x[0], 2 * w - y[1]), to = Math.min(x[1], 2 * w - y[0]);
    if (to - from < 0.04 * (x[1] - x[0])) continue;
    traces.push({
      type: "scatter", mode: "lines+text", x: [from, to], y: [2 * w - from, 2 * w - to], text: ["", `W ${w}`], textposition: to < x[1] ? "top right" : "bottom left",
      textfont: { size: 11, color: css("--quiet") }, line: { color: faded(css("--quiet"), 0.6), width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false,
    });
  }
  return traces;
}

function plain(x, lines) {
  return lines.map(([name, y], place) => ({
    type: "scatter", mode: x.length > 40 ? "lines" : "lines+markers", name: text(name), x, y,
    line: { width: 2, color: css(`--series-${place % 8}`), dash: DASHES[Math.floor(place / 8) % DASHES.length] },
    marker: { size: 6, symbol: SYMBOLS[place % SYMBOLS.length] }, hovertemplate: `${text(name)}<br>epoch %{x}: %{y:.4g}<extra></extra>`,
  }));
}
function whole(epochs) { return epochs.at(-1) - epochs[0] < 12 ? { dtick: 1 } : {}; }
function decades(element) { return { type: "log", dtick: element.clientWidth < 560 ? 1 : "D2" }; }

// What holds in different regions is not the same claim, so the region stands beside the name.
function labelled(run) { return `${text(run.name)}<br><span style="font-size:11px">${text(run.region)}, ${run.images} images</span>`; }

function ranges(runs, ends, about, title, written, limits) {
  const traces = runs.map((run) => {
    const shade = colour(run.method), span = ends(run);
    return {
      type: "scatter", mode: "lines+markers", x: span, y: [labelled(run), labelled(run)], line: { color: shade, width: 7 },
      marker: { symbol: "line-ns", size: 20, color: shade, line: { color: shade, width: 3 } }, showlegend: false,
      hovertemplate: `<b>${text(run.name)}</b><br>${span.map(written).join(" to ")}<br>${about(run)}<extra></extra>`,
    };
  });
  const names = axis("", { type: "category", range: [runs.length - 0.5, -0.5] });
  return [traces, layout(axis(title, limits), names, { height: 120 + 46 * runs.length, margin: { t: 12, r: 20, b: 56, l: 12 } })];
}

// Plotly lies in the page packed, and is read when the first chart is drawn: the tables need not wait for it.
let plotly = null;
function ready() {
  plotly ??= unpack(document.getElementById("plotly").textContent);
  return plotly;
}
async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const script = document.createElement("script");
  script.textContent = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
}

async function draw(element) {
  drawn.add(element);
  await ready();
  const chart = DATA.charts[element.dataset.chart];
  const [traces, figure] = CHARTS[element.dataset.kind](chart, element);
  if (figure.height) element.style.minHeight = `${figure.height}px`;
  return Plotly.react(element, traces, figure, { responsive: true, displayModeBar: false });
}
function visible(element) { return element.offsetParent !== null; }
function redraw() { drawn.forEach((element) => { if (visible(element)) draw(element); else drawn.delete(element); }); }
function drawAll() { document.querySelectorAll(".chart").forEach((element) => { if (visible(element)) draw(element); }); }

function watchCharts() {
  const watcher = new IntersectionObserver((entries) => {
    entries.forEach(({ target, isIntersecting }) => { if (isIntersecting && !drawn.has(target)) draw(target); });
  }, { rootMargin: "250px" });
  document.querySelectorAll(".chart").forEach((element) => watcher.observe(element));
}
