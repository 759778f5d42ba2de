// The page: figures from their compressed text, sliders that judge again, a table that sorts, prints that fit.

const byId = id => document.getElementById(id);
const PRINTED = 690;  // CSS pixels between the margins of an A4 page
const STEPS = 400;

async function unpack(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), character => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const data = JSON.parse(byId("tuner-data").textContent);
const rows = data.rows.map(values => Object.fromEntries(data.columns.map((name, place) => [name, values[place]])));
const escaped = text => text.replace(/[&<>"']/g, found => `&#${found.charCodeAt(0)};`);
const wrapped = text => (text.match(/.{1,60}(\s|$)|\S{60}/g) || []).map(part => escaped(part.trim())).join("<br>");

// ---------------------------------------------------------------------------------------------------- figures
async function draw(page) {
  const narrow = window.innerWidth < 600;
  for (const [place, { data: traces, layout }] of page.figures.entries()) {
    layout.margin = { l: narrow ? 48 : 70, r: narrow ? 8 : 20, t: 30, b: 50 };
    layout.height -= 40;  // the title stands above, where it wraps
    if (narrow) layout.legend.y -= 0.06;
    await Plotly.newPlot(`plot-${place + 1}`, traces, layout, page.config);
  }
}

// Give each verdict's markers the batches that have it now.
function moveMarkers(judged, looks) {
  for (const plot of document.querySelectorAll(".plot")) {
    const places = plot.data.flatMap((trace, place) => trace.meta && trace.meta.verdict ? [place] : []);
    if (!places.length) continue;
    const points = places.flatMap(place => {
      const { x, y, customdata } = plot.data[place];
      return Array.from(customdata, (custom, index) => ({ x: x[index], y: y[index], custom }));
    });
    const groups = places.map(place => points.filter(point => judged[point.custom[0]].verdict === plot.data[place].meta.verdict));
    Plotly.restyle(plot, {
      x: groups.map(group => group.map(point => point.x)),
      y: groups.map(group => group.map(point => point.y)),
      customdata: groups.map(group => group.map(point => point.custom)),
      hovertext: groups.map(group => group.map(({ custom }) => {
        const { verdict, evidence, reason } = judged[custom[0]];
        return [custom[1], `${looks[verdict]}, ${evidence} evidence`, wrapped(reason)].filter(Boolean).join("<br>");
      })),
      showlegend: groups.map(group => group.length > 0),
    }, places);
  }
}

function moveThresholds(limits) {
  const byColumn = Object.fromEntries(limits.map(limit => [limit.column, limit]));
  for (const plot of document.querySelectorAll(".plot")) {
    const changes = {};
    (plot.layout.shapes || []).forEach((shape, place) => {
      const limit = byColumn[shape.name];
      if (shape.name) changes[`shapes[${place}].visible`] = Boolean(limit);
      if (!limit) return;
      const axes = shape.x0 === shape.x1 ? ["x0", "x1"] : ["y0", "y1"];
      for (const axis of axes) changes[`shapes[${place}].${axis}`] = limit.threshold;
    });
    (plot.layout.annotations || []).forEach((note, place) => {
      const limit = byColumn[note.name];
      if (note.name) changes[`annotations[${place}].visible`] = Boolean(limit);
      if (!limit) return;
      const axis = note.xref === "x" ? "x" : "y";
      changes[`annotations[${place}].${axis}`] = limit.threshold;
      changes[`annotations[${place}].text`] = `SLO ${limitText(limit)}`;
    });
    if (Object.keys(changes).length) Plotly.relayout(plot, changes);
  }
}

// ---------------------------------------------------------------------------------------------------- sliders
function range(limit) {
  const values = rows.map(row => row[limit.column]).filter(value => value > 0);
  if (limit.threshold) values.push(limit.threshold);
  return values.length ? [Math.min(...values) / 2, Math.max(...values) * 2] : null;
}

const rounded = value => Number(value.toPrecision(3));

function slider(limit, changed) {
  const bounds = range(limit);
  if (!bounds) return;
  const [low, high] = bounds.map(Math.log), asked = limit.threshold;
  const off = limit.sign < 0 ? 0 : STEPS;  // the end where there is no limit
  const place = value => value === null ? off : Math.round((Math.log(value) - low) / (high - low) * STEPS);
  const part = byId("slider").content.cloneNode(true);
  const [label, input, output] = ["label", "input", "output"].map(name => part.querySelector(name));
  label.textContent = `${limit.label} ${limit.sign < 0 ? "at least" : "at most"}`;
  label.htmlFor = input.id = `limit-${limit.column}`;
  input.max = STEPS;
  const show = () => {
    output.textContent = limit.threshold === null ? "no limit" : general(limit.threshold, 6) + limit.unit;
    input.setAttribute("aria-valuetext", output.textContent);
  };
  const set = value => { limit.threshold = value; input.value = place(value); show(); };
  input.addEventListener("input", () => {
    const step = Number(input.value);
    limit.threshold = step === off ? null : step === place(asked) && asked !== null ? asked : rounded(Math.exp(low + step / STEPS * (high - low)));
    show();
    changed();
  });
  byId("reset").addEventListener("click", () => { set(asked); changed(); });
  set(asked);
  byId("sliders").append(part);
}

function showVerdicts(judged, asAsked) {
  for (const batch of document.querySelectorAll("tbody.batch")) {
    const { verdict, reason } = judged[batch.dataset.row], [line, note] = batch.rows;
    line.className = verdict + (reason ? " noted" : "");
    note.className = `note ${verdict}`;
    note.hidden = !reason;
    note.cells[1].textContent = reason;
    line.querySelector(".verdict").textContent = verdict;
    const met = line.querySelector(".attainment");
    if (met) met.textContent = asAsked ? met.dataset.asked : "–";
  }
}

function showAnswer(lines, judged) {
  const box = byId("answer");
  box.className = judged.some(counts) ? "answer" : "answer none";
  box.replaceChildren(...lines.map((line, place) => {
    const part = document.createElement(place ? "p" : "strong");
    part.textContent = line;
    return part;
  }));
}

function offerSliders(page) {
  const asked = page.constraints.map(limit => limit.threshold);
  const again = () => {
    const limits = page.constraints.filter(limit => limit.threshold !== null);
    const asAsked = page.constraints.every((limit, place) => limit.threshold === asked[place]);
    const judged = judge(rows, limits, page.confidence);
    showVerdicts(judged, asAsked);
    showAnswer(answer(judged, limits), judged);
    byId("changed").hidden = byId("reset").hidden = asAsked;
    moveMarkers(judged, page.looks);
    moveThresholds(limits);
  };
  for (const limit of page.constraints) slider(limit, again);
  byId("what-if").hidden = !byId("sliders").children.length;
}

// ---------------------------------------------------------------------------------------------------- table
function sortable(table) {
  const value = (batch, column) => {
    const text = batch.rows[0].cells[column].textContent.trim();
    return text === "–" || text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (one, other) => typeof one === typeof other ? (one < other ? -1 : one > other ? 1 : 0) : typeof one === "number" ? -1 : 1;
  table.querySelectorAll("thead th").forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.ariaSort === "ascending" ? -1 : 1;
      table.querySelectorAll("th").forEach(other => { other.ariaSort = null; });
      header.ariaSort = down > 0 ? "ascending" : "descending";
      const batches = [...table.tBodies].map(batch => [value(batch, column), batch]);
      batches.sort(([one], [other]) => one === null ? 1 : other === null ? -1 : down * compare(one, other));
      table.append(...batches.map(([, batch]) => batch));
    });
  });
}

// ---------------------------------------------------------------------------------------------------- the page
for (const time of document.querySelectorAll("time[datetime]"))
  time.title = `${new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" })} (your zone)`;
for (const table of document.querySelectorAll("table")) sortable(table);
for (const figure of document.querySelectorAll("figure")) figure.hidden = false;
window.addEventListener("beforeprint", () => {
  for (const plot of document.querySelectorAll(".plot")) plot.style.zoom = Math.min(1, PRINTED / plot.clientWidth);
});
window.addEventListener("afterprint", () => { for (const plot of document.querySelectorAll(".plot")) plot.style.zoom = ""; });
(async () => {
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
  const page = JSON.parse(await unpack("page"));
  await draw(page);
  offerSliders(page);
  document.body.dataset.drawn = "true";
})();
