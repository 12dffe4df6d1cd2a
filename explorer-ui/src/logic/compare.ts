// Two runs, or two scorers of one, neuron by neuron.

import type { Detail, Index, Matched, RunInfo, ScorerLabels } from "../types";
import { labelAt, scorerOf, short } from "./select";

/** "changed" and "same": pairs; the others as `contralens match` has them. */
export const KINDS = ["changed", "same", "split", "merged", "new", "gone"] as const;
export type Kind = (typeof KINDS)[number];

export const ABOUT: Record<Kind, string> = {
  changed: "the same neuron, another label",
  same: "the same neuron with the same label",
  split: "a further neuron of B whose best match in A is already taken",
  merged: "a further neuron of A whose best match in B is already taken",
  new: "a neuron of B without a match in A",
  gone: "a neuron of A without a match in B",
};

export interface Side {
  /** Row of the index. */
  row: number;
  label: string | null;
  score: number | null;
  confidence: number | null;
}

export interface Change {
  kind: Kind;
  a: Side | null;
  b: Side | null;
  correlation: number | null;
}

export interface Comparison {
  rows: Change[];
  counts: Record<Kind, number>;
  pairs: number;
}

/** Rows of two indexes as `matched` pairs their neurons (by number without it), the surest labels first. */
export function compare(a: Index, scorerA: string, b: Index, scorerB: string, matched: Matched | null): Comparison {
  const [inA, inB] = [a, b].map((index) => new Map(index.neuron.map((n, row) => [n, row]))) as [Map<number, number>, Map<number, number>];
  const rows: Change[] = [];
  const add = (status: string, i: number | null, j: number | null, correlation: number | null) => {
    const one = sideOf(a, scorerA, i === null ? undefined : inA.get(i));
    const other = sideOf(b, scorerB, j === null ? undefined : inB.get(j));
    if (status === "pair" ? !one || !other : !one && !other) return;
    rows.push({ kind: status === "pair" ? (one!.label === other!.label ? "same" : "changed") : (status as Kind), a: one, b: other, correlation });
  };
  if (matched) matched.status.forEach((status, at) => add(status, matched.a[at] ?? null, matched.b[at] ?? null, matched.correlation[at] ?? null));
  else a.neuron.forEach((n) => inB.has(n) && add("pair", n, n, null));
  const counts = Object.fromEntries(KINDS.map((kind) => [kind, rows.filter((r) => r.kind === kind).length])) as Record<Kind, number>;
  const sure = (c: Change) => (c.b ?? c.a)!.confidence ?? -1;
  rows.sort((x, y) => sure(y) - sure(x) || (y.correlation ?? 0) - (x.correlation ?? 0) || (x.a ?? x.b)!.row - (y.a ?? y.b)!.row);
  return { rows, counts, pairs: counts.changed + counts.same };
}

function sideOf(index: Index, scorer: string, row: number | undefined): Side | null {
  if (row === undefined) return null;
  const own = scorerOf(index, scorer);
  return { row, label: labelAt(index, scorer, row), score: own.score[row] ?? null, confidence: own.columns["confidence"]?.[row] ?? null };
}

/** Whether the neurons of two runs pair by number: one layer of one network, whatever its weights. */
export function samePlace(a: RunInfo, b: RunInfo): boolean {
  const [x, y] = [a.summary, b.summary];
  return a.key === b.key || (x !== null && y !== null && (x.place === y.place || (x.fingerprint !== null && x.fingerprint === y.fingerprint)));
}

/** What the page may open on, the best first: a run of the same place, one whose neurons can be matched, what contrast
 * changed, two scorers; as RUN~SCORER. */
export function openings(info: RunInfo, index: Index, runs: RunInfo[]): [string, string][] {
  const own = `${info.key}~${index.primary}`;
  const others = runs.filter((r) => r.key !== info.key && r.summary !== null);
  const alike = (key: "network" | "probe" | "encoder") => (r: RunInfo) => info.summary?.[key] != null && r.summary![key] === info.summary[key];
  const close = (r: RunInfo) => (samePlace(r, info) ? 0 : alike("network")(r) ? 1 : alike("probe")(r) ? 2 : alike("encoder")(r) ? 3 : 4);
  const out = others.filter((r) => close(r) < 4).sort((x, y) => close(x) - close(y)).map((r): [string, string] => [own, `${r.key}~`]);
  const names = index.scorers.filter((s) => s.scorer !== index.primary);
  const plain = names.find((s) => s.gamma === 0) ?? names.find((s) => s.scorer === "semanticlens");
  return [...out, plain ? [`${info.key}~${plain.scorer}`, own] : [own, `${info.key}~${names[0]?.scorer ?? ""}`]];
}

/** Why two labels differ: where each one's label stands on the other side, and which images both saw. */
export function reasons(a: Detail, scorerA: string, b: Detail, scorerB: string, sameImages: boolean): string[] {
  const [one, other] = [labelsOf(a, scorerA), labelsOf(b, scorerB)];
  const out: string[] = [];
  if (one?.label && other?.label && one.label !== other.label) {
    out.push(standing(one.label, other, "B"));
    out.push(standing(other.label, one, "A"));
  }
  if (a.run !== b.run && sameImages) {
    const seen = new Set(b.exemplars.map((e) => e.positive?.id));
    const shared = a.exemplars.filter((e) => e.positive && seen.has(e.positive.id)).length;
    out.push(`${shared} of ${a.exemplars.length} top images are the same`);
  }
  return out;
}

function labelsOf(detail: Detail, scorer: string): ScorerLabels | undefined {
  return detail.labels.find((l) => l.scorer === scorer);
}

function standing(label: string, on: ScorerLabels, side: string): string {
  const at = on.concepts.findIndex((c) => c.concept === label);
  if (at < 0) return `“${label}” is not among the best ${on.concepts.length} of ${side}`;
  const [best, own] = [on.concepts[0]!.score, on.concepts[at]!.score];
  const behind = best !== null && own !== null && at > 0 ? `, ${short(best - own)} behind` : "";
  return `“${label}” comes ${ORDINALS[at] ?? `${at + 1}th`} in ${side}${behind}`;
}

const ORDINALS = ["first", "second", "third"];

/** The pair that says most of what contrast does: alike to the encoder, unlike to the neuron. */
export function telling(detail: Detail): Detail["exemplars"][number] | null {
  let best: Detail["exemplars"][number] | null = null;
  let most = -Infinity;
  for (const pair of detail.exemplars) {
    if (!pair.positive || !pair.contrast || pair.contrast.image === pair.positive.image) continue;
    const value = ((pair.activation ?? 0) - (pair.contrast_activation ?? 0)) * (pair.similarity ?? 0);
    if (value > most) [best, most] = [pair, value];
  }
  return best;
}
