// CSP at any gamma, exactly as the scorer computes it, from the pieces that a page carries.

import type { Gamma } from "../types";

export interface Scored {
  concept: string;
  source: string | null;
  score: number;
  rank: number;
  /** Rank at gamma 0, among the concepts carried. */
  before: number;
}

/** score[c] = (first[c] - gamma second[c]) / |m+ - gamma m-| */
export function scores(data: Gamma, gamma: number): number[] {
  const [pp = 0, pm = 0, mm = 0] = data.norms;
  const length = Math.sqrt(Math.max(pp - 2 * gamma * pm + gamma * gamma * mm, 0));
  return data.first.map((a, c) => (length > 0 ? (a - gamma * data.second[c]!) / length : 0));
}

function ranks(values: number[]): number[] {
  const order = values.map((_, c) => c).sort((a, b) => values[b]! - values[a]! || a - b);
  const out = new Array<number>(values.length);
  order.forEach((c, r) => (out[c] = r));
  return out;
}

/** The best concepts at a gamma, with their rank at gamma 0. */
export function rescored(data: Gamma, gamma: number, top = 10): Scored[] {
  const values = scores(data, gamma);
  const now = ranks(values);
  const before = ranks(scores(data, 0));
  return values
    .map((score, c) => ({
      concept: data.concepts[c]!,
      source: data.sources[c] ?? null,
      score,
      rank: now[c]!,
      before: before[c]!,
    }))
    .sort((a, b) => a.rank - b.rank)
    .slice(0, top);
}

/** Gammas at which the best concept changes, found on a grid of hundredths. */
export function turns(data: Gamma): { gamma: number; from: string; to: string }[] {
  const out: { gamma: number; from: string; to: string }[] = [];
  let last: string | undefined;
  for (let step = 0; step <= 100; step++) {
    const best = rescored(data, step / 100, 1)[0]?.concept;
    if (best !== undefined && last !== undefined && best !== last) out.push({ gamma: step / 100, from: last, to: best });
    last = best;
  }
  return out;
}
