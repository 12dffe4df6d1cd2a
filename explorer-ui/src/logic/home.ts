// What the page over several runs shows, and in which order.

import type { RunInfo } from "../types";
import { samePlace } from "./compare";

/** Runs by network, in the order of the first of each; those that cannot be read are left out. */
export function networks(runs: RunInfo[]): [string, RunInfo[]][] {
  const out = new Map<string, RunInfo[]>();
  for (const run of runs) {
    if (run.problem !== null || !run.summary) continue;
    const name = run.summary.network;
    out.set(name, [...(out.get(name) ?? []), run]);
  }
  return [...out];
}

/** "4 runs of 3 networks: 264 neurons". */
export function total(runs: RunInfo[]): string {
  const known = runs.flatMap((r) => (r.summary ? [r.summary] : []));
  const nets = new Set(known.map((s) => s.network)).size;
  const neurons = known.reduce((sum, s) => sum + s.neurons, 0).toLocaleString("en");
  return `${runs.length} runs of ${nets === 1 ? "one network" : `${nets} networks`}, ${neurons} neurons`;
}

/** The two runs one would compare first: two of the same place, else two layers of one network, else the first two. */
export function openingPair(runs: RunInfo[]): [string, string] | null {
  const known = runs.filter((r) => r.problem === null && r.summary);
  const pairs = known.flatMap((a, i) => known.slice(i + 1).map((b): [RunInfo, RunInfo] => [a, b]));
  const [a, b] =
    pairs.find(([x, y]) => samePlace(x, y)) ?? pairs.find(([x, y]) => x.summary!.network === y.summary!.network) ?? pairs[0] ?? [];
  return a && b ? [a.key, b.key] : null;
}
