// The JSON of each page: mirrors src/contralens/explorer/shapes.py.

export interface Missing {
  what: string;
  why: string;
}
export interface RunInfo {
  key: string;
  title: string;
  stamp: string;
  problem: string | null;
  manifest: Record<string, unknown> | null;
  missing: Missing[];
  remarks: string[];
  notes: number;
  evaluation: Plain[];
  audit: { concepts: string; counts: Record<string, number> } | null;
}
export interface RunList {
  version: string;
  runs: RunInfo[];
  writable: boolean;
  encoder: string | null;
}
export interface ScorerColumns {
  scorer: string;
  label: number[];
  score: (number | null)[];
  margin: (number | null)[];
  columns: Record<string, (number | null)[]>;
}
export interface Index {
  key: string;
  stamp: string;
  primary: string;
  neuron: number[];
  name: string[];
  statuses: string[];
  status: number[];
  labels: string[];
  scorers: ScorerColumns[];
  columns: Record<string, (number | null)[]>;
  shown: number;
  positives: number[];
  contrasts: number[];
}
export interface Concept {
  concept: string;
  score: number | null;
  source: string | null;
}
export interface ScorerLabels {
  scorer: string;
  status: string;
  label: string | null;
  score: number | null;
  /** How likely the label is right, 0 to 1. */
  confidence: number | null;
  reasons: string[];
  p: number | null;
  /** False-discovery rate of the null test; null unless it was asked for. */
  fdr: number | null;
  concepts: Concept[];
}
export interface PictureInfo {
  image: number;
  id: string;
  label: string | null;
}
export interface Pair {
  rank: number;
  activation: number | null;
  positive: PictureInfo | null;
  contrast: PictureInfo | null;
  contrast_activation: number | null;
  similarity: number | null;
}
export interface Gamma {
  concepts: string[];
  sources: (string | null)[];
  first: number[];
  second: number[];
  norms: number[];
}
export interface HistogramData {
  edges: number[];
  counts: number[];
}
export interface Neighbour {
  neuron: number;
  name: string;
  label: string | null;
  similarity: number;
  pictures: number[];
}
export interface ActivationMap {
  image: number;
  box: number[];
  aspect: number;
  height: number;
  width: number;
  values: number[];
}
export type Plain = Record<string, string | number | boolean | null>;
export interface Measured {
  scorer: string;
  metric: string;
  value: number | null;
  mean: number | null;
  low: number | null;
  high: number | null;
}
export interface Fed {
  name: string;
  weight: number | null;
  adds: number | null;
}
export interface Evaluated {
  values: Measured[];
  verdicts: Record<string, Plain[string] | Plain[string][]>[];
}
export interface Detail {
  run: string;
  neuron: number;
  name: string;
  status: string;
  previous: number | null;
  next: number | null;
  figures: Record<string, number | null>;
  labels: ScorerLabels[];
  exemplars: Pair[];
  gamma: Gamma | null;
  histogram: HistogramData | null;
  neighbours: Neighbour[] | null;
  evaluation: Evaluated | null;
  candidates: Plain[] | null;
  classes: Fed[] | null;
  maps: ActivationMap[] | null;
  audit: Verdict | null;
  missing: Missing[];
}
/** What a neuron adds to the score of a class, measured three ways. */
export interface Influenced {
  ablation: number | null;
  gradient: number | null;
  head: number | null;
}
export interface Verdict {
  verdict: string;
  best: string | null;
  side: string | null;
  /** Why there is no verdict for a side; null where there is one. */
  reason: string | null;
  figures: Record<string, number | null>;
  influence: (Influenced & { name: string })[];
}
export interface Pruned {
  group: string;
  mode: string;
  images: number | null;
  before: number | null;
  after: number | null;
  difference: number | null;
  low: number | null;
  high: number | null;
}
/** Accuracy on held-out images: the network, pruned, with a new head, with one on all neurons. */
export interface NewHead {
  group: string;
  images: number | null;
  before: number | null;
  pruned: number | null;
  after: number | null;
  all_neurons: number | null;
  difference: number | null;
  low: number | null;
  high: number | null;
}
export interface Audit {
  run: string;
  manifest: Record<string, unknown>;
  /** What follows from the numbers, in one line. */
  conclusion: string | null;
  explanation: string[];
  warnings: string[];
  neuron: number[];
  verdict: string[];
  best: (string | null)[];
  side: (string | null)[];
  reason: (string | null)[];
  columns: Record<string, (number | null)[]>;
  classes: string[];
  left_out: number;
  /** A value per neuron and class, one neuron after the other; empty where not measured. */
  influence: Record<string, (number | null)[]>;
  pruning: Pruned[];
  new_head: NewHead[];
}
export interface Plane {
  method: string;
  methods: string[];
  gamma: number;
  explained: number[] | null;
  neuron: number[];
  x: number[];
  y: number[];
}
export interface Hit {
  neuron: number;
  name: string;
  label: string | null;
  similarity: number;
}
export interface Hits {
  query: string;
  gamma: number;
  note: string | null;
  hits: Hit[];
}
export type NoteKind = "note" | "tag" | "label";
export interface Note {
  id: string;
  time: string;
  neuron: number;
  name: string;
  kind: NoteKind;
  text: string;
}
export interface Notes {
  file: string;
  writable: boolean;
  notes: Note[];
  problems: string[];
}
