// What the page does beyond being read: filter and sort the table, open a claim by its anchor, and
// draw charts when they come into view. Without it, all text, pictures and tables are still there.
"use strict";

const CHARTS = JSON.parse(document.getElementById("charts").textContent);
// Viridis, by which light and dark tell values apart in both themes and to all eyes.
const HEAT = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];
const DARK = matchMedia("(prefers-color-scheme: dark)");

// ---- The table of claims -------------------------------------------------------------------------

const table = document.getElementById("table");
const body = table.tBodies[0];
const filters = document.querySelector(".filters");
// In the order in which verdicts stand at the top of the page.
const VERDICTS = [...filters.elements.verdict.options].map((option) => option.value);

function filterRows() {
  const { words, study, verdict, fragile } = filters.elements;
  const wanted = words.value.toLowerCase().split(/\s+/);
  let left = 0;
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    const shown =
      wanted.every((word) => text.includes(word)) &&
      (!study.value || row.dataset.study === study.value) &&
      (!verdict.value || row.dataset.verdict === verdict.value) &&
      (!fragile.checked || "fragile" in row.dataset);
    row.hidden = !shown;
    left += shown;
  }
  const status = document.getElementById("shown");
  status.textContent = `${left} of ${body.rows.length} claims`;
}

function sortKey(row, column) {
  const cell = row.cells[column];
  if (cell.classList.contains("number")) {
    return "value" in cell.dataset ? Number(cell.dataset.value) : Infinity;
  }
  const verdict = cell.querySelector(".verdict");
  return verdict ? VERDICTS.indexOf(verdict.textContent) : cell.textContent.trim().toLowerCase();
}

function sortRows(heading) {
  const column = heading.cellIndex;
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of heading.parentElement.cells) {
    other.removeAttribute("aria-sort");
  }
  heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const keyed = [...body.rows].map((row) => [sortKey(row, column), row]);
  keyed.sort(([one], [other]) => sign * (one > other) - sign * (one < other));
  body.append(...keyed.map(([, row]) => row));
}

for (const heading of table.tHead.rows[0].cells) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sortRows(heading));
  heading.append(button);
}
filters.hidden = false;
filters.addEventListener("input", filterRows);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(filterRows));
filterRows();

// ---- Anchors -------------------------------------------------------------------------------------

function openAnchor() {
  const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!found) {
    return;
  }
  for (let at = found; at; at = at.parentElement) {
    if (at instanceof HTMLDetailsElement) {
      at.open = true;
    }
  }
  // A claim's figures come with its opening, and would push it away.
  requestAnimationFrame(() => {
    found.scrollIntoView();
    found.querySelector(":scope > summary")?.focus({ preventScroll: true });
  });
}

addEventListener("hashchange", openAnchor);

// ---- Charts --------------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function theme() {
  const [text, soft, line] = [colour("text"), colour("soft"), colour("line")];
  const font = getComputedStyle(document.body).fontFamily;
  const words = { labelColor: text, titleColor: text, labelFontSize: 11, titleFontSize: 12 };
  words.titleFontWeight = "normal";
  return {
    background: null,
    font,
    axis: { ...words, domainColor: soft, tickColor: soft, gridColor: line },
    legend: { ...words, orient: "top", symbolOpacity: 1 },
    view: { stroke: null },
    text: { color: soft },
    mark: { color: colour("ours") },
    range: {
      category: [colour("published"), colour("ours")],
      ordinal: { scheme: "viridis", extent: DARK.matches ? [0.25, 1] : [0, 0.9] },
      ramp: HEAT,
      heatmap: HEAT,
    },
  };
}

async function drawView(node, view, panel, name) {
  const description = [name, panel.title, view.title].filter(Boolean).join(", ");
  const data = { height: panel.height, datasets: { rows: panel.rows } };
  const spec = { ...view.spec, ...data, description };
  const options = { renderer: "svg", actions: false, ast: true, defaultStyle: false };
  const tooltip = { theme: "stalegrad", disableDefaultStyle: true };
  await vegaEmbed(node, spec, { ...options, tooltip, config: theme() });
}

function scaleEnds([low, high]) {
  const bar = element("span");
  bar.style.background = `linear-gradient(to right, ${HEAT.join(", ")})`;
  return element("div", { className: "ends" }, element("span", {}, String(low)), bar, String(high));
}

function valuesTable(chart) {
  const columns = Object.entries(chart.columns);
  const heading = ([, text]) => element("th", { scope: "col" }, text);
  const cell = (value) =>
    element("td", { className: typeof value === "number" ? "number" : "" }, String(value ?? ""));
  const row = (values) => element("tr", {}, ...columns.map(([column]) => cell(values[column])));
  const rows = chart.panels.flatMap((panel) => panel.rows.map(row));
  const made = element(
    "table",
    { className: "values" },
    element("caption", { className: "unseen" }, "The values of the figure"),
    element("thead", {}, element("tr", {}, ...columns.map(heading))),
    element("tbody", {}, ...rows),
  );
  const scroll = element("div", { className: "scroll", tabIndex: 0, role: "region" }, made);
  scroll.ariaLabel = "The values of the figure";
  return scroll;
}

function valuesBelow(chart) {
  const details = element("details", {}, element("summary", {}, "Its values as a table"));
  const fill = () => details.append(valuesTable(chart));
  details.addEventListener("toggle", fill, { once: true });
  return details;
}

function drawChart(node) {
  const chart = CHARTS[node.dataset.chart];
  const name = node.closest("figure").querySelector("figcaption b").textContent;
  const panels = element("div", { className: "panels" });
  node.replaceChildren();
  if (chart.scale) {
    node.append(scaleEnds(chart.scale));
  }
  const listed = node.closest("figure").querySelector(".values");
  node.append(panels, ...(listed ? [] : [valuesBelow(chart)]));
  const drawn = [];
  for (const panel of chart.panels) {
    const views = element("div", { className: "views" });
    const title = panel.title ? [element("p", {}, panel.title)] : [];
    panels.append(element("div", { className: "panel" }, ...title, views));
    for (const view of chart.views) {
      const place = element("div", { className: "view" });
      const heading = view.title ? [element("p", {}, view.title)] : [];
      views.append(element("div", {}, ...heading, place));
      drawn.push(drawView(place, view, panel, name));
    }
  }
  return Promise.all(drawn).then(() => node.setAttribute("data-drawn", ""));
}

const inView = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((found) => found.isIntersecting)) {
      inView.unobserve(entry.target);
      drawChart(entry.target);
    }
  },
  { rootMargin: "300px" },
);

function observeCharts(within) {
  within.querySelectorAll(".chart").forEach((node) => inView.observe(node));
}

// A claim is opened with its figures: copies of those below its study, which have the anchors.
function bringFigures(claim) {
  const list = claim.querySelector(".shows ul");
  if (!list) {
    return;
  }
  const copies = [...list.querySelectorAll("a")].map((link) => {
    const figure = document.getElementById(link.hash.slice(1)).cloneNode(true);
    figure.removeAttribute("id");
    figure.querySelectorAll(".chart").forEach((node) => {
      node.replaceChildren();
      node.removeAttribute("data-drawn");
    });
    return figure;
  });
  list.replaceWith(...copies);
  observeCharts(claim);
}

for (const claim of document.querySelectorAll(".claim")) {
  claim.addEventListener("toggle", () => bringFigures(claim), { once: true });
}
observeCharts(document);
openAnchor();
DARK.addEventListener("change", () => {
  document.querySelectorAll(".chart[data-drawn]").forEach(drawChart);
});
