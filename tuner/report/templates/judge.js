"use strict";
// The SLO's rules for a reader without Python: what slo.py, summary.py and answer.py do, on the data that the file
// carries. A test holds both sides to the same verdicts and the same words.

const ROUNDING = 1e-9, MOST_ERRORS = 0.1;
const TOO_MUCH = ["out_of_memory", "server_died", "timeout", "all_errors"];
const CURVE = ["experiment", "trial", "scenario", "iteration_type"];
const COMPLIANT = ["pass", "soft"];
const TOO_FEW = "too few for the percentiles that the SLO limits; measure longer";
const TOO_NEAR = "the verdict turns on less than the load generator's own share of the latency";
const CLIENT_SHARES = { ttft: "client_ttft", tpot: "client_tpot", e2e_latency: "client_ttft" };

// Python's format(value, ".{digits}g")
function general(value, digits) {
  if (value === 0) return "0";
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const trimmed = text => text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  if (exponent >= -4 && exponent < digits) return trimmed(value.toFixed(Math.max(0, digits - 1 - exponent)));
  return `${trimmed(mantissa)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

const short = value => Math.abs(value) < 1000 ? general(value, 3) : value.toFixed(0);
const percent = ratio => (ratio < 0 ? "-" : "+") + Math.abs(ratio * 100).toFixed(0) + "%";
const number = value => value === null || value === undefined ? NaN : Number(value);
const limitText = limit => `${limit.label} ${limit.sign < 0 ? "≥" : "≤"} ${general(limit.threshold, 6)}${limit.unit}`;

// What is judged: the limits that are set, and one on errors in any case.
function allLimits(limits) {
  const written = limits.filter(limit => limit.metric !== "error_rate");
  const errors = limits.find(limit => limit.metric === "error_rate");
  const rooms = limits.filter(limit => /^p\d+$/.test(limit.statistic))
    .map(limit => Number((1 - Number(limit.statistic.slice(1)) / 100).toFixed(6)));
  const implied = { metric: "error_rate", column: "error_rate", label: "error rate", unit: "", sign: 1, needed: 0,
                    threshold: Math.min(MOST_ERRORS, ...rooms), hard_fail: true, fail_ratio: 0, implied: true };
  return [...written, errors || implied];
}

function finding(row, limit, confidence) {
  const actual = number(row[limit.column]), completed = number(row.completed);
  const ratio = limit.sign * (actual - limit.threshold) / limit.threshold;
  const weak = limit.needed > 0 && !(completed >= limit.needed);
  const missing = Number.isNaN(actual) && !limit.implied;
  const unknown = missing || (weak && confidence !== null);
  const violated = ratio > ROUNDING;
  const over = violated && limit.hard_fail && ratio > limit.fail_ratio + ROUNDING;
  const turns = [limit.threshold];
  if (limit.hard_fail && limit.fail_ratio) turns.push(limit.threshold * (1 + limit.sign * limit.fail_ratio));
  const share = number(row[CLIENT_SHARES[limit.metric]]);
  const near = Math.min(...turns.map(turn => Math.abs(actual - turn))) < share;
  const across = turns.map(turn => straddling(row, limit, turn, actual, confidence)).find(Boolean) || "";
  return { weak, near, across, unknown, hard: over && !unknown, soft: violated && !over && !unknown,
           text: findingText(limit, { actual, completed, ratio, missing, unknown, violated, near, share }) };
}

// That the interval of a value leaves the verdict open, in words.
function straddling(row, limit, turn, actual, confidence) {
  const low = number(row[`${limit.column}_low`]), high = number(row[`${limit.column}_high`]);
  if (limit.metric === "error_rate" || !(Math.min(low, actual) <= turn && turn < Math.max(high, actual))) return "";
  const [value, from, to] = [actual, low, high].map(bound => general(bound, 3));
  const between = `${from} and ${to}${limit.unit} at ${general((confidence ?? 0.95) * 100, 4)} %`;
  const name = turn === limit.threshold ? "threshold" : "hard limit";
  const lies = low <= actual && actual <= high ? "lies" : "is one of runs whose mean lies";
  return `${limit.label} ${value}${limit.unit} ${lies} between ${between}, on both sides of the ${name} ${general(turn, 4)}${limit.unit}`;
}

function findingText(limit, { actual, completed, ratio, missing, unknown, violated, near, share }) {
  if (missing) return `${limit.label} is not known`;
  if (unknown) {
    const there = Number.isNaN(completed) ? "nobody knows how many" : completed.toFixed(0);
    return `${limit.label} needs ${limit.needed} completed requests, there are ${there}`;
  }
  if (!violated) return "";
  const against = `${general(actual, 4)}${limit.unit} ${limit.sign < 0 ? "<" : ">"} ${general(limit.threshold, 4)}${limit.unit}`;
  const implied = limit.implied ? ", implied as the SLO names no error_rate" : "";
  const own = near ? `, of which ${general(share, 2)} s may be the load generator's own` : "";
  return `${limit.label} ${against} (${percent(ratio)}${implied}${own})`;
}

function judgeRow(row, limits, confidence) {
  if (row.outcome !== "completed" || row.superseded)
    return { verdict: "unknown", evidence: "weak", doubt: "",
             reason: [row.outcome, row.reason].filter(part => part && part !== "completed").join(": ") };
  const findings = limits.map(limit => finding(row, limit, confidence));
  const any = mask => findings.some(found => found[mask]);
  const doubt = any("weak") ? TOO_FEW : any("near") ? TOO_NEAR : findings.map(found => found.across).find(Boolean) || "";
  return { verdict: any("hard") ? "fail" : any("unknown") ? "unknown" : any("soft") ? "soft" : "pass",
           evidence: doubt ? "weak" : "strong", doubt,
           reason: findings.map(found => found.text).filter(Boolean).join("; ") };
}

// rows with verdict, evidence and reason; `limits` are those that are set
function judge(rows, limits, confidence) {
  const all = allLimits(limits);
  return rows.map(row => ({ ...row, why: row.reason, ...judgeRow(row, all, confidence) }));
}

function bestOf(judged) {
  let best = null;
  for (const scenario of new Set(judged.map(row => row.scenario))) {
    const ranked = judged.filter(row => row.scenario === scenario && counts(row) && row.output_throughput !== null);
    const first = ranked.reduce((top, row) => top && top.output_throughput > row.output_throughput ? top : row, null);
    if (first && (!best || first.output_throughput > best.output_throughput)) best = first;
  }
  return best;
}

const counts = row => COMPLIANT.includes(row.verdict);

// The result in words, most important line first.
function answer(judged, limits, confidence) {
  const counted = judged.filter(row => !row.superseded), best = bestOf(counted);
  const told = limits.length === 0
    ? "No SLO was given: every batch counts in which at most one request in ten failed."
    : `${counted.filter(counts).length} of ${counted.length} batches meet the SLO: ${limits.map(limitText).join(", ")}.`;
  if (!best) return [nothing(judged, limits), told];
  const curve = counted.filter(row => CURVE.every(name => row[name] === best[name]))
    .sort((one, other) => one.concurrency - other.concurrency);
  const known = [bestText(best, counted, bracket(curve)), limitOf(curve), told, evidenceText(best)];
  return [...known, ...intervalTexts(best, limits, confidence)];
}

function nothing(judged, limits) {
  if (judged.every(row => row.outcome !== "completed")) return "No batch has a usable result";
  return limits.length ? "No batch meets the SLO, so there is no maximum" : "Every batch has too many errors to count";
}

const highestOf = curve => Math.max(...curve.filter(counts).map(row => row.concurrency));

function bracket(curve) {
  const highest = highestOf(curve);
  const fails = curve.filter(row => row.verdict === "fail" || TOO_MUCH.includes(row.outcome));
  if (fails.some(row => row.concurrency <= highest)) return "non_monotone";
  return fails.length ? "bracketed" : "open";
}

function bestText(best, counted, bounds) {
  const names = ["scenario", "experiment"].filter(name => new Set(counted.map(row => row[name])).size > 1);
  const where = names.length ? ` (${names.map(name => best[name]).join(", ")})` : "";
  const least = bounds === "open" ? "At least " : "";
  return `${least}${best.output_throughput.toFixed(1)} output tokens/s at concurrency ${best.concurrency}${where}`;
}

function limitOf(curve) {
  const highest = highestOf(curve), others = curve.filter(row => !counts(row));
  const above = others.find(row => row.concurrency > highest);
  const below = others.filter(row => row.concurrency < highest).pop();
  if (bracket(curve) === "non_monotone" && below)
    return `Concurrency ${below.concurrency} does not meet the SLO (${below.reason}) while ${highest} does: measure them again.`;
  if (above)
    return `The limit lies between concurrency ${highest} and ${above.concurrency}, which does not meet the SLO (${above.reason}).`;
  return `Concurrency ${highest}, the highest that was measured, still meets the SLO: measure higher ones for the limit.`;
}

function evidenceText(best) {
  const doubt = best.doubt ? ` – ${best.doubt}` : "";
  return `The evidence is ${best.evidence}: ${best.completed} completed requests${doubt}.`;
}

const THROUGHPUT = { metric: "output_throughput", column: "output_throughput", label: "output throughput", unit: " tokens/s" };

function intervalTexts(best, limits, confidence) {
  const limited = [...limits.filter(limit => limit.metric !== "error_rate"), THROUGHPUT];
  const told = [...new Set(limited.map(limit => intervalText(best, limit)).filter(Boolean))];
  const over = best.interval_over === "runs" ? " over its runs" : "";
  return told.length ? [`At ${general((confidence ?? 0.95) * 100, 4)} %${over}: ${told.join(", ")}.`] : [];
}

function intervalText(best, limit) {
  const [value, low, high] = ["", "_low", "_high"].map(end => number(best[limit.column + end]));
  if (Number.isNaN(low) || Number.isNaN(high)) return "";
  return `${limit.label} ${short(value)}${limit.unit} (${short(low)} to ${short(high)})`;
}
