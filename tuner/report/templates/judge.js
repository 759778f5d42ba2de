"use strict";
// The SLO's rules for a reader without Python: verdict and best level, as verdicts.py, levels.py and summary.py have them, on the
// data that the file carries. A test holds both sides to the same. Why a verdict is what it is, how sure it is and
// where the limit lies are Python's to say.

const ROUNDING = 1e-9, MOST_ERRORS = 0.1;
const COMPLIANT = ["pass", "soft"], TOO_MUCH = ["out_of_memory", "server_died", "timeout", "all_errors"];
const OF_ALL_REQUESTS = ["error_rate", "attainment"];
const CURVE = ["experiment", "trial", "scenario", "iteration_type"];

// Python's format(value, ".{digits}g")
function general(value, digits) {
  if (value === 0) return "0";
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const trimmed = text => text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  if (exponent >= -4 && exponent < digits) return trimmed(value.toFixed(Math.max(0, digits - 1 - exponent)));
  return `${trimmed(mantissa)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

const number = value => value === null || value === undefined ? NaN : Number(value);
const limitText = limit => `${limit.label} ${limit.sign < 0 ? "≥" : "≤"} ${general(limit.threshold, 6)}${limit.unit}`;

// What is judged: the limits that are set, and one on errors in any case.
function allLimits(limits) {
  const written = limits.filter(limit => limit.metric !== "error_rate");
  const errors = limits.find(limit => limit.metric === "error_rate");
  const rooms = limits.filter(limit => /^p\d+$/.test(limit.statistic))
    .map(limit => Number((1 - Number(limit.statistic.slice(1)) / 100).toFixed(6)));
  const implied = { column: "error_rate", sign: 1, needed: 0, threshold: Math.min(MOST_ERRORS, ...rooms),
                    hard_fail: true, fail_ratio: 0, implied: true };
  return [...written, errors || implied];
}

// What one limit makes of a batch.
function verdictBy(row, limit, confidence) {
  const known = limit.isKnown === false ? NaN : number(row[limit.column]), errors = limit.column === "error_rate";
  const actual = errors && Number.isNaN(known) && row.completed === 0 ? 1 : known;
  const ratio = limit.sign * (actual - limit.threshold) / (limit.threshold || 1);
  const few = limit.needed > 0 && !(number(row.completed) >= limit.needed) && !(OF_ALL_REQUESTS.includes(limit.column) && ratio > ROUNDING);
  if ((Number.isNaN(actual) && !limit.implied) || (few && confidence !== null)) return "unknown";
  if (!(ratio > ROUNDING)) return "pass";
  const isHard = limit.hard_fail && ratio > limit.fail_ratio + ROUNDING;
  return isHard || row.completed === 0 ? "fail" : "soft";
}

const hasResult = row => row.outcome === "completed" && !row.superseded;
const isJudged = row => hasResult(row) || (row.outcome === "all_errors" && !row.superseded);
const counts = row => COMPLIANT.includes(row.verdict);

// The rows with their verdicts; `limits` are those that are set.
function judge(rows, limits, confidence) {
  const all = allLimits(limits);
  return rows.map(row => {
    const verdicts = isJudged(row) ? all.map(limit => verdictBy(row, limit, confidence)) : ["unknown"];
    return { ...row, verdict: ["fail", "unknown", "soft", "pass"].find(verdict => verdicts.includes(verdict)) };
  });
}

const mean = values => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;

// One row a level, with the places of its runs: the mean of those that can be judged, judged once.
function levelsOf(judged, limits, confidence) {
  const groups = new Map();
  judged.forEach((row, place) => {
    if (row.superseded) return;
    const key = JSON.stringify([...CURVE.map(name => row[name]), row.concurrency ?? row.request_rate ?? `batch ${place}`]);
    groups.set(key, [...groups.get(key) || [], { ...row, place }]);
  });
  return [...groups.values()].map(runs => {
    const broken = runs.find(row => TOO_MUCH.includes(row.outcome)), known = runs.filter(row => row.verdict !== "unknown");
    const places = runs.map(row => row.place);
    if (broken || known.length < 2) return { ...broken || known[0] || runs[0], places };
    const columns = ["output_throughput", "error_rate", ...limits.map(limit => limit.column)];
    const means = columns.map(name => [name, mean(known.map(row => number(row[name])).filter(value => !Number.isNaN(value)))]);
    const completed = known.reduce((sum, row) => sum + row.completed, 0);
    return { ...judge([{ ...known[0], ...Object.fromEntries(means), completed }], limits, confidence)[0], places };
  });
}

// The level with the most throughput among those that comply, of equal ones the lowest; null where there is none.
function bestOf(levels) {
  const ranked = levels.filter(row => counts(row) && row.output_throughput !== null);
  const level = row => row.concurrency ?? row.request_rate ?? Infinity;
  const lower = (one, other) => level(one) < level(other);
  const better = (one, top) => one.output_throughput > top.output_throughput
    || (one.output_throughput === top.output_throughput && one.scenario === top.scenario && lower(one, top));
  return ranked.reduce((top, row) => !top || better(row, top) ? row : top, null);
}

// The best level of each scenario and how many batches comply, most important line first.
function answer(judged, levels, limits) {
  const counted = judged.filter(row => !row.superseded);
  const bests = [...new Set(levels.map(row => row.scenario))].map(name => bestOf(levels.filter(row => row.scenario === name)));
  const compliance = limits.length === 0
    ? "No SLO was given: every batch counts in which at most one request in ten failed."
    : `${counted.filter(counts).length} of ${counted.length} batches meet the SLO: ${limits.map(limitText).join(", ")}.`;
  const lines = bests.filter(best => best).map(best => bestText(best, counted));
  return [...lines.length ? lines : ["No batch counts, so there is no maximum"], compliance];
}

// How many servers like the best level's a load takes, as costs.py has it.
function fleetText(best, load, unit) {
  const isOfRate = unit === "requests/s", one = best && (isOfRate ? best.request_rate ?? best.request_throughput : best.concurrency);
  if (!one) return `For ${general(load, 6)} ${unit}: none, since ${best ? `nobody measured how many ${unit} one carries` : "no level meets the SLO"}.`;
  const share = side => isOfRate && best.request_rate === null && best[`output_throughput_${side}`]
    ? best[`output_throughput_${side}`] / best.output_throughput : 1;
  const servers = carried => Math.ceil(load / carried - ROUNDING);
  const least = servers(one * share("high")), most = servers(one * share("low")), number = servers(one);
  const interval = least < most ? ` (${least} to ${most} at 95 %)` : "";
  return `For ${general(load, 6)} ${unit}: ${number} server${number > 1 ? "s" : ""}${interval} of ${general(one, 3)} each.`;
}

function bestText(best, counted) {
  const names = ["scenario", "experiment"].filter(name => new Set(counted.map(row => row[name])).size > 1);
  const where = names.length ? ` (${names.map(name => best[name]).join(", ")})` : "";
  const rate = best.request_rate === null ? "an unknown concurrency" : `rate ${best.request_rate}/s`;
  const level = best.concurrency === null ? rate : `concurrency ${best.concurrency}`;
  return `${best.output_throughput.toFixed(1)} output tokens/s at ${level}${where} is the most that was measured within the limits`;
}
