// Every page: figures from their compressed text, tables that sort, prints that fit.

const byId = id => document.getElementById(id);
const PRINTED = 690;  // CSS pixels between the margins of an A4 page
// what stands for a colour of the figures on a dark page; each has a contrast of 4.5 or more there
const DARK = {
  "#0072b2": "#6cc0f5", "#d55e00": "#ff9e73", "#009e73": "#4fd6a8", "#cc79a7": "#e8a3c8", "#56b4e9": "#a5d8ff",
  "#e69f00": "#ffc94d", "#9a6700": "#e8b04a", "#666666": "#b3bcc6", "#000000": "#ffffff", "#333": "#c7d0da",
  "#2a3f5f": "#dbe3ec", "#ebf0f8": "#3a4552", "white": "#14191f",
};
const isDark = window.matchMedia("screen and (prefers-color-scheme: dark)").matches;

async function unpack(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), character => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// ---------------------------------------------------------------------------------------------------- figures
function inColoursOfPage(text) {
  if (!isDark) return text;
  const bright = /"(#[0-9a-f]{3,6}|white)"/gi;
  return text.replace(bright, (whole, colour) => `"${DARK[colour.toLowerCase()] || colour}"`)
    .replaceAll("rgba(255,255,255,0.8)", "rgba(20,25,31,0.8)");
}

async function draw(page) {
  const narrow = window.innerWidth < 600;
  for (const [place, { data: traces, layout }] of page.figures.entries()) {
    layout.margin = { l: narrow ? 48 : 70, r: narrow ? 8 : 20, t: 30, b: 50 };
    layout.height -= 40;  // the title stands above, where it wraps
    if (narrow) layout.legend.y -= 25 / layout.height;
    await Plotly.newPlot(`plot-${place + 1}`, traces, layout, page.config);
  }
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
for (const table of document.querySelectorAll("table.sortable")) sortable(table);
for (const figure of document.querySelectorAll("figure")) figure.hidden = false;
for (const more of document.querySelectorAll("details.more")) more.addEventListener("toggle", () => {
  for (const plot of more.querySelectorAll(".plot")) Plotly.Plots.resize(plot);
});
window.addEventListener("beforeprint", () => {
  for (const more of document.querySelectorAll("details.more")) more.open = true;
  for (const plot of document.querySelectorAll(".plot")) plot.style.zoom = Math.min(1, PRINTED / plot.clientWidth);
});
window.addEventListener("afterprint", () => { for (const plot of document.querySelectorAll(".plot")) plot.style.zoom = ""; });
async function show(live = () => {}) {
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
  const page = JSON.parse(inColoursOfPage(await unpack("page")));
  await draw(page);
  live(page);
  document.body.dataset.drawn = "true";
}
