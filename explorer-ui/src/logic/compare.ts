// Two runs, or two scorers of one, neuron by neuron.

import type { Index, RunInfo } from "../types";
import { labelAt, scorerOf } from "./select";

export interface Change {
  name: string;
  a: number;
  b: number;
  labelA: string | null;
  labelB: string | null;
  scoreA: number | null;
  scoreB: number | null;
  confidenceA: number | null;
  confidenceB: number | null;
}

export interface Comparison {
  matchedBy: "name" | "number";
  both: Change[];
  same: number;
}

/** Matched by name where names are unique and shared, else by number: as /api/compare does. */
export function compare(a: Index, scorerA: string, b: Index, scorerB: string): Comparison {
  const unique = (x: Index) => new Set(x.name).size === x.name.length;
  const names = new Set(b.name);
  const byName = unique(a) && unique(b) && a.name.some((n) => names.has(n));
  const keyOf = (x: Index, row: number) => (byName ? x.name[row]! : String(x.neuron[row]!));
  const rows = new Map(b.neuron.map((_, row) => [keyOf(b, row), row]));
  const both: Change[] = [];
  let same = 0;
  for (let row = 0; row < a.neuron.length; row++) {
    const other = rows.get(keyOf(a, row));
    if (other === undefined) continue;
    const change: Change = {
      name: a.name[row]!,
      a: row,
      b: other,
      labelA: labelAt(a, scorerA, row),
      labelB: labelAt(b, scorerB, other),
      scoreA: scorerOf(a, scorerA).score[row] ?? null,
      scoreB: scorerOf(b, scorerB).score[other] ?? null,
      confidenceA: scorerOf(a, scorerA).columns["confidence"]?.[row] ?? null,
      confidenceB: scorerOf(b, scorerB).columns["confidence"]?.[other] ?? null,
    };
    if (change.labelA === change.labelB) same += 1;
    both.push(change);
  }
  return { matchedBy: byName ? "name" : "number", both, same };
}

/** What the page opens on: another run of the same layer; else what contrast changed; else two scorers, as RUN~SCORER. */
export function opening(info: RunInfo, index: Index, runs: RunInfo[]): [string, string] {
  const own = `${info.key}~${index.primary}`;
  const layer = (run: RunInfo) => {
    const target = run.manifest?.["target"] as Record<string, unknown> | undefined;
    return JSON.stringify([target?.["layer"], target?.["neurons"]]);
  };
  const other = runs.find((r) => r.key !== info.key && layer(r) === layer(info));
  if (other) return [own, `${other.key}~`];
  const names = index.scorers.filter((s) => s.scorer !== index.primary);
  const plain = names.find((s) => s.gamma === 0) ?? names.find((s) => s.scorer === "semanticlens");
  if (plain) return [`${info.key}~${plain.scorer}`, own];
  return [own, `${info.key}~${names[0]?.scorer ?? ""}`];
}
