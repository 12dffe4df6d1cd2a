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
