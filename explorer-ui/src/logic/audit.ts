// Which audited neurons are shown, in which order, and which class each moves most.

import type { Audit, Influenced as Named } from "../types";

/** What a neuron adds to the score of a class, measured three ways. */
export type Influenced = Omit<Named, "name">;

export const VERDICTS = ["spurious", "expected", "undecided", "unexplained"] as const;
export type VerdictName = (typeof VERDICTS)[number];

/** The surest first: what happens in the network, its first order, and what the linear head says. */
export const MEASURES = ["ablation", "gradient", "head"] as const;
export type Measure = (typeof MEASURES)[number];

/** The measure that counts, of those that were computed. */
export function surest(values: Influenced): { by: Measure; value: number } | null {
  for (const by of MEASURES) {
    const value = values[by];
    if (value !== null) return { by, value };
  }
  return null;
}

export interface Moved {
  /** Place of the class. */
  at: number;
  values: Influenced;
  by: Measure;
  value: number;
}

/** What a neuron does to a class, or to the one that it moves most; null where nothing was measured. */
export function moved(audit: Audit, row: number, only: number | null = null): Moved | null {
  let best: Moved | null = null;
  const [first, last] = only === null ? [0, audit.classes.length] : [only, only + 1];
  for (let at = first; at < last; at++) {
    const values = influenced(audit, row, at);
    const found = surest(values);
    if (found && (best === null || Math.abs(found.value) > Math.abs(best.value))) best = { at, values, ...found };
  }
  return best;
}

function influenced(audit: Audit, row: number, at: number): Influenced {
  const place = row * audit.classes.length + at;
  const of = (name: Measure) => audit.influence[name]?.[place] ?? null;
  return { ablation: of("ablation"), gradient: of("gradient"), head: of("head") };
}

export interface Choice {
  concept: string;
  /** Name of a class; empty for that which each neuron moves most. */
  moves: string;
  sort: string;
}

/** Ways to sort, with whether the largest comes first. */
export const SORTS: Record<string, [string, boolean]> = {
  influence: ["influence", true],
  margin: ["margin", true],
  confidence: ["confidence", true],
  z: ["z against random images", true],
  score: ["score", true],
  fdr: ["false-discovery rate", false],
  clarity: ["clarity", true],
  polysemanticity: ["polysemanticity", true],
  neuron: ["number", false],
};

/** Rows of one verdict that pass the filter, in order; what has no value comes last, ties by number. */
export function chosen(audit: Audit, verdict: VerdictName, wanted: Choice): number[] {
  const rows: number[] = [];
  for (let row = 0; row < audit.neuron.length; row++) {
    if (audit.verdict[row] !== verdict) continue;
    if (wanted.concept !== "" && audit.best[row] !== wanted.concept) continue;
    rows.push(row);
  }
  const only = place(audit, wanted.moves);
  const value = (row: number): number | null => {
    if (wanted.sort === "neuron") return audit.neuron[row]!;
    if (wanted.sort !== "influence") return audit.columns[wanted.sort]?.[row] ?? null;
    const found = moved(audit, row, only);
    return found && Math.abs(found.value);
  };
  const sign = SORTS[wanted.sort]?.[1] ? -1 : 1;
  const keyed = rows.map((row): [number, number | null] => [row, value(row)]);
  keyed.sort(([a, x], [b, y]) => {
    if (x === null || y === null) return x === y ? a - b : x === null ? 1 : -1;
    return sign * (x - y) || a - b;
  });
  return keyed.map(([row]) => row);
}

/** Place of a class by name; null for any. */
export function place(audit: Audit, name: string): number | null {
  const at = audit.classes.indexOf(name);
  return at < 0 ? null : at;
}

/** The concepts that neurons stand out in, with the side of the list and how many neurons, the commonest first. */
export function concepts(audit: Audit): { name: string; side: string; count: number }[] {
  const found = new Map<string, { name: string; side: string; count: number }>();
  audit.best.forEach((name, row) => {
    if (name === null) return;
    const known = found.get(name) ?? { name, side: audit.side[row] ?? "", count: 0 };
    known.count += 1;
    found.set(name, known);
  });
  return [...found.values()].sort((a, b) => b.count - a.count || (a.name < b.name ? -1 : 1));
}

/** Largest size among numbers, at least a little. */
export function largest(values: Iterable<number | null | undefined>): number {
  let most = 1e-9;
  for (const v of values) if (v !== null && v !== undefined && Math.abs(v) > most) most = Math.abs(v);
  return most;
}

/** With its sign, as a change is told; without `digits`, one too small for two of them keeps its size. */
export function signed(value: number | null, digits?: number): string {
  if (value === null) return "–";
  const size = Math.abs(value);
  const text = digits === undefined && size !== 0 && size < 0.005 ? size.toExponential(0) : size.toFixed(digits ?? 2);
  return Number(text) === 0 ? "0" : `${value < 0 ? "−" : "+"}${text}`;
}

/** Groups of a labeled set: all, then named groups, then classes by how much they change; each with its control. */
export function groups(audit: Audit): { group: string; pruned: Audit["pruning"][number]; random: Audit["pruning"][number] | null }[] {
  const random = new Map(audit.pruning.filter((p) => p.mode === "random").map((p) => [p.group, p]));
  const rank = (group: string) => (group === "all" ? 0 : group === "balanced" ? 1 : group.startsWith("class=") ? 3 : 2);
  return audit.pruning
    .filter((p) => p.mode !== "random")
    .map((pruned, i) => ({ group: pruned.group, pruned, random: random.get(pruned.group) ?? null, i }))
    .sort((a, b) => {
      const by = rank(a.group) - rank(b.group);
      if (by !== 0 || rank(a.group) < 3) return by || a.i - b.i;
      return Math.abs(b.pruned.difference ?? 0) - Math.abs(a.pruned.difference ?? 0) || a.i - b.i;
    });
}
