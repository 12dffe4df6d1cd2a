// Which neurons the overview shows, and in which order.

import type { Index, Note } from "../types";
import { WORDS, wordLimits } from "./confidence";

export type Range = [number | null, number | null];

export interface Selection {
  scorer: string;
  q: string;
  status: string;
  sort: string;
  descending: boolean;
  ranges: Record<string, Range>;
  /** Only these rows of the index, e.g. what a lasso holds. */
  only?: Set<number>;
}

export const LABELS: Record<string, string> = {
  score: "Score",
  margin: "Margin",
  agreement: "Agreement",
  firing_rate: "Firing rate",
  maximum: "Largest activation",
  minimum: "Least activation",
  mean: "Mean activation",
  confidence: "Confidence",
  fdr: "Null test (false-discovery rate)",
  removal: "Removal effect",
  insertion: "Insertion effect",
  neuron: "Number",
  name: "Name",
  label: "Label",
  auc: "AUC",
  auprc: "AUPRC",
  mad: "MAD",
  dma: "DMA",
  f1: "F1",
  iou: "IoU",
  pearson: "Pearson",
  exemplar_clarity: "Exemplar clarity",
};

export const MEANING: Record<string, string> = {
  score: "score of the best concept",
  margin: "best minus second best score: how clear the choice is",
  agreement: "share of the scorers that give the most common label",
  firing_rate: "share of the images on which the neuron is active",
  maximum: "largest activation on any image",
  mean: "mean activation; contrasts are below it",
  confidence: "how likely the label is right, 0 to 1",
  fdr: "null test: expected share of null neurons among labels scoring this high; not how likely the label is wrong",
  removal: "experiment: share of the neuron's excess activation that is lost when the concept is removed from exemplars",
  insertion: "experiment: share of the gap that is closed when the concept is inserted into contrasts",
  stability: "bootstrap agreement: share of resampled image sets with the same label",
  clarity: "mean cosine among a neuron's exemplars",
  redundancy: "largest cosine with another neuron's exemplars",
  polysemanticity: "distance between two clusters of the exemplars",
  pearson: "correlation of the activation with the label's simulated activation on held-out images",
  auprc: "average precision of the label on held-out images",
  auc: "how well the activation separates images of the label from others",
};

/** A word for a figure's size; "" where none is known. */
export function wordFor(name: string, value: number): string {
  if (name === "firing_rate")
    return value >= 0.9 ? "almost always active" : value >= 0.2 ? "often active" : value >= 0.01 ? "selective" : "rarely active";
  if (name === "clarity") return value >= 0.5 ? "one theme" : value >= 0.25 ? "a loose theme" : "no common theme";
  if (name === "agreement") return value >= 1 ? "all scorers agree" : value > 0.5 ? "most scorers agree" : "scorers disagree";
  return "";
}

export function titled(column: string): string {
  const known = LABELS[column];
  if (known) return known;
  const text = column.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function scorerOf(index: Index, name: string | undefined) {
  return (
    index.scorers.find((s) => s.scorer === name) ??
    index.scorers.find((s) => s.scorer === index.primary) ??
    index.scorers[0]!
  );
}

/** A numeric column by name; score and margin belong to a scorer. */
export function column(index: Index, scorer: string, name: string): (number | null)[] | null {
  const own = scorerOf(index, scorer);
  if (name === "score") return own.score;
  if (name === "margin") return own.margin;
  return own.columns[name] ?? index.columns[name] ?? null;
}

export function columns(index: Index): string[] {
  return [...new Set(["score", "margin", ...Object.keys(index.scorers[0]!.columns), ...Object.keys(index.columns)])];
}

export function labelAt(index: Index, scorer: string, row: number): string | null {
  const place = scorerOf(index, scorer).label[row] ?? -1;
  return place < 0 ? null : (index.labels[place] ?? null);
}

/** Of each label the row that is surest of it: by confidence where there is one, else by score; ties by lower row. */
export function best(index: Index, labels: string[]): number[] {
  const own = scorerOf(index, undefined);
  const sure = own.columns["confidence"] ?? own.score;
  return labels.flatMap((label) => {
    let top = -1;
    index.neuron.forEach((_, row) => {
      if (labelAt(index, own.scorer, row) === label && (top < 0 || (sure[row] ?? -Infinity) > (sure[top] ?? -Infinity))) top = row;
    });
    return top < 0 ? [] : [top];
  });
}

/** The rows whose labels one should look at first: refuted ones, then those of the lowest confidence. */
export function doubtful(index: Index, most: number): number[] {
  const own = scorerOf(index, undefined);
  const sure = own.columns["confidence"];
  const rows = index.neuron.map((_, row) => row).filter((row) => labelAt(index, own.scorer, row) !== null);
  const doubt = (row: number) => (own.verified?.[row] === "refuted" ? -1 : (sure?.[row] ?? 2));
  return rows.filter((row) => doubt(row) < 0.9).sort((a, b) => doubt(a) - doubt(b) || a - b).slice(0, most);
}

/** The labels that a scorer gives most often, with how often; ties in alphabetical order. */
export function commonest(index: Index, scorer: string, most: number): [string, number][] {
  const counts = new Array<number>(index.labels.length).fill(0);
  for (const label of scorerOf(index, scorer).label) if (label >= 0) counts[label]! += 1;
  return counts
    .map((count, i): [string, number] => [index.labels[i]!, count])
    .filter(([, count]) => count > 0)
    .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
    .slice(0, most);
}

/** What an experiment on a label may come to. */
export const OUTCOMES = ["verified", "refuted", "untested"];

/** How many labels of a scorer experiments verified, refuted and left open. */
export function outcomeCounts(index: Index, scorer: string): number[] {
  const found = scorerOf(index, scorer).verified ?? [];
  return OUTCOMES.map((word) => found.filter((v) => v === word).length);
}

export const ALWAYS_ON = 0.8;

/** Rows of the index that pass, in order; rows without a value come last in either direction, ties by number. */
export function select(index: Index, wanted: Selection, notes: Map<number, Note[]> = new Map()): number[] {
  const own = scorerOf(index, wanted.scorer);
  const q = wanted.q.trim().toLowerCase();
  const tag = q.startsWith("#") ? q.slice(1) : null;
  const matches = index.labels.map((label) => q === "" || label.toLowerCase().includes(q));
  const status = index.statuses.indexOf(wanted.status);
  const rates = index.columns["firing_rate"];
  const limits = wordLimits(wanted.status);
  const sure = own.columns["confidence"];
  const bounds = Object.entries(wanted.ranges)
    .map(([name, range]) => ({ values: column(index, wanted.scorer, name), range }))
    .filter((l) => l.values !== null);
  const rows: number[] = [];
  for (let row = 0; row < index.neuron.length; row++) {
    if (wanted.only && !wanted.only.has(row)) continue;
    if (limits) {
      const value = sure?.[row] ?? null;
      if (value === null || value < limits[0] || value >= limits[1]) continue;
    } else if (OUTCOMES.includes(wanted.status)) {
      if (own.verified?.[row] !== wanted.status) continue;
    } else if (wanted.status === "always") {
      if (!((rates?.[row] ?? 0) > ALWAYS_ON)) continue;
    } else if (wanted.status === "noted") {
      if (!notes.has(index.neuron[row]!)) continue;
    } else if (wanted.status && index.status[row] !== status) continue;
    if (q !== "") {
      const mine = notes.get(index.neuron[row]!) ?? [];
      const found =
        tag !== null
          ? mine.some((n) => n.kind === "tag" && n.text.toLowerCase().includes(tag))
          : matches[own.label[row]!] ||
            index.name[row]!.toLowerCase().includes(q) ||
            mine.some((n) => n.kind === "label" && n.text.toLowerCase().includes(q));
      if (!found) continue;
    }
    if (!bounds.every(({ values, range }) => within(values![row] ?? null, range))) continue;
    rows.push(row);
  }
  return order(index, rows, wanted);
}

/** How many labels of a scorer are supported, uncertain and unsupported. */
export function wordCounts(index: Index, scorer: string): number[] {
  const sure = scorerOf(index, scorer).columns["confidence"] ?? [];
  return WORDS.map(([word]) => {
    const [from, below] = wordLimits(word)!;
    return sure.filter((v) => v !== null && v >= from && v < below).length;
  });
}

function within(value: number | null, [low, high]: Range): boolean {
  if (low === null && high === null) return true;
  return value !== null && (low === null || value >= low) && (high === null || value <= high);
}

function order(index: Index, rows: number[], wanted: Selection): number[] {
  const sign = wanted.descending ? -1 : 1;
  const values = column(index, wanted.scorer, wanted.sort);
  if (values) {
    return rows.sort((a, b) => {
      const x = values[a] ?? null;
      const y = values[b] ?? null;
      if (x === null || y === null) return x === y ? a - b : x === null ? 1 : -1;
      return sign * (x - y) || a - b;
    });
  }
  if (wanted.sort === "label") {
    const label = scorerOf(index, wanted.scorer).label;
    return rows.sort((a, b) => {
      const x = label[a]!;
      const y = label[b]!;
      if (x < 0 || y < 0) return x === y ? a - b : x < 0 ? 1 : -1;
      return sign * (x - y) || a - b;
    });
  }
  if (wanted.sort === "name") {
    const names = index.name;
    return rows.sort((a, b) => sign * (names[a]! < names[b]! ? -1 : names[a]! > names[b]! ? 1 : 0) || a - b);
  }
  return wanted.descending ? rows.reverse() : rows;
}

/** "score:0.2:,margin::0.1" to ranges and back: how filters stand in the URL. */
export function parseRanges(text: string | undefined): Record<string, Range> {
  const out: Record<string, Range> = {};
  for (const part of (text ?? "").split(",").filter(Boolean)) {
    const [name = "", low = "", high = ""] = part.split(":");
    const range: Range = [number(low), number(high)];
    if (name && (range[0] !== null || range[1] !== null)) out[name] = range;
  }
  return out;
}

export function formatRanges(ranges: Record<string, Range>): string {
  return Object.entries(ranges)
    .filter(([, [low, high]]) => low !== null || high !== null)
    .map(([name, [low, high]]) => `${name}:${low ?? ""}:${high ?? ""}`)
    .join(",");
}

function number(text: string): number | null {
  const value = Number(text);
  return text.trim() === "" || !Number.isFinite(value) ? null : value;
}

export interface Bins {
  low: number;
  high: number;
  counts: number[];
}

/** How often values fall into equal bins; null where there is nothing to count. */
export function bins(values: (number | null)[], rows: number[] | null, count = 24): Bins | null {
  let low = Infinity;
  let high = -Infinity;
  for (const v of values) {
    if (v === null) continue;
    if (v < low) low = v;
    if (v > high) high = v;
  }
  if (!(low < high)) return null;
  const counts = new Array<number>(count).fill(0);
  const add = (v: number | null | undefined) => {
    if (v === null || v === undefined) return;
    counts[Math.min(count - 1, Math.floor(((v - low) / (high - low)) * count))]! += 1;
  };
  if (rows) rows.forEach((r) => add(values[r]));
  else values.forEach(add);
  return { low, high, counts };
}

/** Few digits, enough to tell values apart. */
export function short(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000 || size < 0.001) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(size >= 1 ? 2 : 3);
}
