// The report: sliders that judge again.

const STEPS = 400;

const data = JSON.parse(byId("tuner-data").textContent);
const intervals = Object.entries(data.intervals);
const rows = data.rows.map((values, row) => ({ ...Object.fromEntries(data.columns.map((name, place) => [name, values[place]])),
                                              ...Object.fromEntries(intervals.map(([name, ends]) => [name, ends[row]])),
                                              attainment: data.attainment[row] }));
const batches = [...document.querySelectorAll("tbody.batch")].sort((one, other) => one.dataset.row - other.dataset.row);
const judgedAsAsked = rows.map((row, place) => ({ ...row, verdict: batches[place].dataset.verdict }));

// Each figure with markers of verdicts: which traces they are, and all of their points.
function markedPlots() {
  return [...document.querySelectorAll(".plot")].map(plot => {
    const places = plot.data.flatMap((trace, place) => trace.meta && trace.meta.verdict ? [place] : []);
    const points = places.flatMap(place => {
      const { x, y, customdata, hovertext, meta: { verdict: asked } } = plot.data[place];
      return Array.from(customdata, ([row, facts], index) => ({ x: x[index], y: y[index], row, facts, asked, said: hovertext[index] }));
    });
    return { plot, places, points };
  }).filter(({ places }) => places.length);
}

// Give each verdict's markers the levels that have it now.
function moveMarkers(marked, levels, looks, asAsked) {
  const now = new Map(levels.flatMap(level => level.places.map(place => [place, level.verdict])));
  const verdictOf = ({ row, asked }) => asAsked ? asked : now.get(row) || "unknown";
  for (const { plot, places, points } of marked) {
    const groups = places.map(place => points.filter(point => verdictOf(point) === plot.data[place].meta.verdict));
    const each = value => groups.map(group => group.map(value));
    Plotly.restyle(plot, {
      x: each(point => point.x),
      y: each(point => point.y),
      customdata: each(({ row, facts }) => [row, facts]),
      hovertext: each(point => asAsked ? point.said : `${point.facts}<br>${looks[verdictOf(point)]}`),
      showlegend: groups.map(group => group.length > 0),
      name: places.map(place => asAsked ? plot.data[place].meta.says : looks[plot.data[place].meta.verdict]),
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
  const most = limit.unit === "" ? 1 : Infinity;  // of a share
  return values.length ? [Math.min(...values) / 2, Math.min(Math.max(...values) * 2, most)] : null;
}

const rounded = value => Number(value.toPrecision(3));

function slider(limit, changed) {
  const bounds = range(limit);
  if (!bounds) return;
  const [low, high] = bounds.map(Math.log), asked = limit.threshold;
  const off = limit.sign < 0 ? 0 : STEPS;  // the end where there is no limit
  const place = value => value === null ? off : value === 0 ? 0 : Math.round((Math.log(value) - low) / (high - low) * STEPS);
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
  batches.forEach((batch, row) => {
    const { verdict } = judged[row], [line, note] = batch.rows, cell = line.querySelector(".verdict");
    note.hidden = !note.cells[1].textContent || (!asAsked && hasResult(rows[row]));
    line.className = verdict + (note.hidden ? "" : " noted");
    note.className = `note ${verdict}`;
    if (cell) cell.textContent = verdict;
    for (const met of line.querySelectorAll(".attainment")) met.textContent = asAsked ? met.dataset.asked : "–";
  });
}

function showAnswer(lines, levels) {
  const box = byId("answer");
  box.className = levels.some(counts) ? "answer" : "answer none";
  box.replaceChildren(...lines.map((line, place) => {
    const part = document.createElement(place ? "p" : "strong");
    part.textContent = line;
    return part;
  }));
}

// What the load that a reader types takes, by the best of these levels.
function showFleet(levels) {
  const loads = [...byId("fleet").querySelectorAll("input")].filter(input => input.value > 0);
  const best = bestOf(levels);
  byId("servers").textContent = loads.map(input => fleetText(best, Number(input.value), input.dataset.unit)).join(" ");
}

function offerSliders(page) {
  const thresholds = page.constraints.map(limit => limit.threshold), marked = markedPlots();
  const askedAnswer = [...byId("answer").children].map(line => line.textContent);  // with tiers and costs, if any
  const again = () => {
    const limits = page.constraints.filter(limit => limit.threshold !== null);
    const asAsked = page.constraints.every((limit, place) => limit.threshold === thresholds[place]);
    const sameLatencies = page.constraints.every((limit, place) => !limit.statistic || limit.threshold === thresholds[place]);
    for (const limit of limits) limit.isKnown = limit.column !== "attainment" || sameLatencies;  // it is of single requests
    const judged = asAsked ? judgedAsAsked : judge(rows, limits, page.confidence);
    showVerdicts(judged, asAsked);
    const levels = levelsOf(judged, limits, page.confidence);
    showAnswer(asAsked ? askedAnswer : answer(judged, levels, limits), levels);
    showFleet(levels);
    byId("changed").hidden = byId("reset").hidden = asAsked;
    moveMarkers(marked, levels, page.looks, asAsked);
    moveThresholds(limits);
  };
  for (const limit of page.constraints) slider(limit, again);
  const isEmpty = !rows.some(hasResult);
  byId("fleet").hidden = isEmpty;
  byId("fleet").addEventListener("input", again);
  byId("what-if").hidden = isEmpty || !byId("sliders").children.length;
}

show(offerSliders);
