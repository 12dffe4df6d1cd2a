// The page of all layers: which rows are shown, and the shares of its bars.

import type { LayerConcept, LayerRow, Layers } from "../types";

export interface Part {
  name: string;
  count: number;
  share: number;
}

/** A layer's neurons in parts that add up to all of them, the surest first. */
export function parts(row: LayerRow): Part[] {
  const sure = Math.min(row.sure ?? 0, row.labeled);
  const counts: [string, number][] = [
    ["sure", sure],
    ["labeled", row.labeled - sure],
    ["unlabeled", Math.max(0, row.neurons - row.labeled - row.silent)],
    ["silent", row.silent],
  ];
  return counts.map(([name, count]) => ({ name, count, share: row.neurons ? (100 * count) / row.neurons : 0 }));
}

export type Sort = "confidence" | "depth" | "label";

/** Places of the neurons that are shown: a part of the label or name, of one layer or all, sorted. */
export function found(data: Layers, text: string, layer: number | null, sort: Sort): number[] {
  const word = text.trim().toLowerCase();
  const labels = data.labels.map((l) => l.toLowerCase());
  const out: number[] = [];
  data.neuron.forEach((_, i) => {
    if (layer !== null && data.layer[i] !== layer) return;
    const label = data.label[i]! < 0 ? "" : labels[data.label[i]!]!;
    if (word === "" ? label !== "" : label.includes(word) || data.name[i]!.toLowerCase().includes(word)) out.push(i);
  });
  const sure = (i: number) => data.confidence[i] ?? -1;
  if (sort === "confidence") out.sort((a, b) => sure(b) - sure(a));
  else if (sort === "label") out.sort((a, b) => data.label[a]! - data.label[b]! || sure(b) - sure(a));
  else out.sort((a, b) => data.layer[a]! - data.layer[b]! || sure(b) - sure(a));
  return out;
}

/** One neuron that another is related to. */
export interface Related {
  /** Place of the other among all neurons. */
  at: number;
  value: number | null;
  null: number | null;
  p: number | null;
  holds: boolean;
  by: string;
}

export interface Between {
  /** Those that correlate most in the layers before and after. */
  matches: Related[];
  /** Neurons of the layer before whose edges lead here, and of the next layer that are fed. */
  fedBy: Related[];
  feeds: Related[];
}

/** What a neuron has to do with neurons of other layers: what is beyond the null first, then the largest. */
export function between(data: Layers, at: number): Between {
  const out: Between = { matches: [], fedBy: [], feeds: [] };
  const r = data.relations;
  r.kind.forEach((by, i) => {
    const related = (place: number): Related => ({ at: place, value: r.value[i] ?? null, null: r.null[i] ?? null, p: r.p[i] ?? null, holds: r.holds[i]!, by });
    if (by === "match") {
      if (r.one[i] === at) out.matches.push(related(r.other[i]!));
    } else if (r.other[i] === at) out.fedBy.push(related(r.one[i]!));
    else if (r.one[i] === at) out.feeds.push(related(r.other[i]!));
  });
  const first = (a: Related, b: Related) => Number(b.holds) - Number(a.holds) || Math.abs(b.value ?? 0) - Math.abs(a.value ?? 0);
  out.matches.sort((a, b) => data.layer[a.at]! - data.layer[b.at]!);
  out.fedBy.sort(first);
  out.feeds.sort(first);
  return out;
}

/** Value and null of a relation in words. */
export function said(one: Related): string {
  const number = (value: number | null) => (value === null ? "unknown" : Math.abs(value) < 0.005 && value !== 0 ? value.toExponential(1) : value.toFixed(2));
  if (one.by === "match") return `correlation ${number(one.value)}, null ${number(one.null)}`;
  return `effect ${number(one.value)}, null ${number(one.null)}, p ${one.p === null ? "unknown" : one.p < 0.001 ? "< .001" : one.p.toFixed(3).replace(/^0/, "")}`;
}

/** Concepts whose name holds a text. */
export function named(concepts: LayerConcept[], text: string): LayerConcept[] {
  const word = text.trim().toLowerCase();
  return word === "" ? concepts : concepts.filter((c) => c.concept.toLowerCase().includes(word));
}

/** 0 to 4: how large a part of a layer's neurons a concept has, against the largest part that it has anywhere. */
export function ramp(concept: LayerConcept, at: number, layers: LayerRow[]): number | null {
  const share = (i: number) => (concept.counts[i] ?? 0) / Math.max(1, layers[i]!.labeled);
  if (!concept.counts[at]) return null;
  const most = Math.max(...layers.map((_, i) => share(i)));
  return Math.min(4, Math.floor((5 * share(at)) / (most || 1)));
}
