// The JSON of each page. Written by scripts/make_ui_types.py from /openapi.json: change
// src/contralens/explorer/shapes.py and run it again.

/** Which neurons stand for expected and spurious concepts, what they do to the classes, and what pruning does. */
export interface Audit {
  run: string;
  /** audit.json: the list of concepts, the rule of the verdicts, seeds, how well the measures agree. */
  manifest: Record<string, unknown>;
  /** What follows from the numbers, in one line. */
  conclusion: string | null;
  /** What the conclusion does not say by itself. */
  explanation: string[];
  warnings: string[];
  neuron: number[];
  verdict: string[];
  /** The concept that each neuron stands out in most, also of unexplained ones. */
  best: (string | null)[];
  side: (string | null)[];
  /** Why each neuron has no verdict for a side. */
  reason: (string | null)[];
  /** What experiments say of the verdicts. */
  experiment: (string | null)[];
  /** score, empty, z, expected, spurious, noise, p, fdr, confidence, clarity, redundancy, polysemanticity, margin. */
  columns: Record<string, (number | null)[]>;
  /** Those that neurons move most, in the network's order. */
  classes: string[];
  /** Classes beyond these in influence.parquet. */
  left_out: number;
  /** ablation, gradient, head: a value per neuron and class, one neuron after the other; empty where not measured. */
  influence: Record<string, (number | null)[]>;
  pruning: Pruned[];
  /** Accuracy on held-out images with a new head; empty where none was fitted. */
  new_head: NewHead[];
}

/** That a run was audited, in one line. */
export interface Audited {
  /** Title of the list of concepts. */
  concepts: string;
  /** Verdict -> neurons. */
  counts: Record<string, number>;
}

export interface Change {
  name: string;
  a: Row | null;
  b: Row | null;
  /** Of the two neurons, where they were matched. */
  correlation: number | null;
}

export interface Comparison {
  a: string;
  b: string;
  /** "number", "activations" or "exemplars". */
  matched_by: string;
  /** Why neurons of different layers or networks could not be matched. */
  problem: string | null;
  both: number;
  same: number;
  changes: Change[];
}

export interface Concept {
  concept: string;
  score: number | null;
  source: string | null;
}

/** All about one neuron. */
export interface Detail {
  run: string;
  neuron: number;
  name: string;
  status: string;
  previous: number | null;
  next: number | null;
  figures: Record<string, number | null>;
  labels: ScorerLabels[];
  /** The label without contrast, where contrast made the primary scorer say another one. */
  before: string | null;
  /** Null but on output layers whose neurons have the names of classes. */
  true_class: TrueClass | null;
  exemplars: Pair[];
  gamma: Gamma | null;
  histogram: Histogram | null;
  neighbours: Neighbour[] | null;
  evaluation: Evaluated | null;
  candidates: Plain[] | null;
  /** Those that it speaks for first, those that it speaks against last. */
  classes: Fed[] | null;
  maps: Map[] | null;
  audit: Verdict | null;
  /** Null where no label of the run was tested. */
  experiments: Experiment[] | null;
  missing: Missing[];
}

/** A picture that an experiment changed, and what the neuron did. */
export interface Edited {
  /** "remove": the concept was taken out; "insert": it was put in. */
  kind: string;
  /** The picture, as a data: address. */
  before: string;
  after: string;
  /** The neuron's activation before. */
  was: number | null;
  became: number | null;
}

export interface Evaluated {
  values: Measured[];
  /** By scorer: p, fdr, beats_chance; label_set with set_shares over resampled probe images; meanings. */
  verdicts: (Record<string, Value | Value[]>)[];
}

/** A label, or another phrase, that was tested on this neuron. */
export interface Experiment {
  label: string;
  /** "verified", "refuted" or "untested". */
  outcome: string;
  reason: string;
  editor: string;
  /** The refuted label in whose place it was tested (`--refine`). */
  instead_of: string | null;
  /** Share of the neuron's excess that is lost where the concept is taken out. */
  removal: number | null;
  removal_images: number;
  /** Share of the gap that is closed where it is put in. */
  insertion: number | null;
  insertion_images: number;
  edited: Edited[];
}

/** A class that the neuron feeds through a linear head. */
export interface Fed {
  name: string;
  /** What one unit of activation adds to the class score. */
  weight: number | null;
  /** The same at the mean activation of the neuron's exemplars. */
  adds: number | null;
}

/** CSP at any gamma: score = (first - gamma second) / sqrt(norms[0] - 2 gamma norms[1] + gamma^2 norms[2]). Holds each concept that is among the best ten for some gamma in [0, 1]. */
export interface Gamma {
  concepts: string[];
  sources: (string | null)[];
  first: number[];
  second: number[];
  norms: number[];
}

export interface Gone {
  error: string;
}

/** One of the few neurons that stand for a run. */
export interface Highlight {
  neuron: number;
  name: string;
  label: string;
  /** The label without contrast; null where contrast did not change it. */
  before: string | null;
  confidence: number | null;
  pictures: number[];
}

export interface Histogram {
  edges: number[];
  counts: number[];
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
  /** What a reader should know of how the search was done. */
  note: string | null;
  hits: Hit[];
}

/** All neurons of a run in columns, enough to draw, sort and filter the overview. */
export interface Index {
  key: string;
  stamp: string;
  primary: string;
  neuron: number[];
  name: string[];
  statuses: string[];
  /** Place in `statuses`. */
  status: number[];
  labels: string[];
  scorers: ScorerColumns[];
  /** mean, maximum, firing_rate, agreement, and whatever else the run measured per neuron. */
  columns: Record<string, (number | null)[]>;
  /** Pictures per neuron in `positives` and `contrasts`. */
  shown: number;
  positives: number[];
  /** `shown` image numbers per neuron, one neuron after the other, -1 for none. */
  contrasts: number[];
}

/** What one neuron adds to the score of one class, measured three ways; null where one was not computed. */
export interface Influenced {
  name: string;
  head: number | null;
  gradient: number | null;
  ablation: number | null;
}

/** An experiment that was asked for on the page. */
export interface Job {
  neuron: number;
  label: string;
  /** "running", "done" or "failed". */
  state: string;
  /** What is being done, or why it failed. */
  stage: string;
  done: number;
  total: number;
}

/** A label, and in which layers it occurs. */
export interface LayerConcept {
  concept: string;
  neurons: number;
  first: string;
  first_sure: string | null;
  most: string;
  /** Neurons by layer. */
  counts: number[];
  run: string;
  neuron: number;
  /** Of the neuron with the most confident such label. */
  picture: number;
}

/** Matches in other layers and edges between neurons, in columns. */
export interface LayerRelations {
  /** (R): place among the neurons of all layers: of an edge, the neuron that feeds. */
  one: number[];
  /** (R): likewise: the match, or the neuron that is fed. */
  other: number[];
  /** (R): "match", or an edge by "weights" or "ablation". */
  kind: string[];
  /** (R): correlation of a match, effect of an edge. */
  value: (number | null)[];
  /** (R): threshold from null neurons, or from null edges. */
  null: (number | null)[];
  /** (R): of edges. */
  p: (number | null)[];
  /** (R): whether it is beyond the null. */
  holds: boolean[];
}

/** One layer of the network that several runs are of. */
export interface LayerRow {
  run: string;
  layer: string;
  depth: number | null;
  neurons: number;
  silent: number;
  labeled: number;
  supported: number | null;
  sure: number | null;
  verified: number | null;
  refuted: number | null;
  confounded: number | null;
  concepts: number;
  /** Concepts that no layer before has. */
  new: number;
}

/** All neurons of all layers, in columns. */
export interface Layers {
  title: string;
  layers: LayerRow[];
  concepts: LayerConcept[];
  notes: string[];
  labels: string[];
  /** (N): place in `layers`. */
  layer: number[];
  neuron: number[];
  name: string[];
  /** (N): place in `labels`, -1 for none. */
  label: number[];
  confidence: (number | null)[];
  verified: (string | null)[];
  /** (N): the image that activates the neuron most, -1 for none. */
  picture: number[];
  relations: LayerRelations;
}

/** Where in an image the neuron was active: row-major values, 255 the strongest place among the neuron's maps. */
export interface Map {
  image: number;
  /** Left, top, right, bottom of what the network saw, as shares of the image. */
  box: number[];
  /** Width / height of the image. */
  aspect: number;
  height: number;
  width: number;
  values: number[];
}

/** Which neuron of one run is which of another: a row for each pair and for each neuron that is in none. */
export interface Matched {
  /** "number": one place of a network; else "activations" or "exemplars", as `contralens match` does it. */
  by: string;
  /** Why neurons of different layers or networks could not be matched; they are paired by number then. */
  problem: string | null;
  /** Shared images that activations were compared on. */
  images: number | null;
  /** Correlation from which two neurons match; null by number. */
  threshold: number | null;
  notes: string[];
  /** "pair", "split", "merged", "new" or "gone", as `contralens match` has them. */
  status: string[];
  /** Neuron of the one run; null of a new one. */
  a: (number | null)[];
  /** Neuron of the other; null of one that is gone. */
  b: (number | null)[];
  /** Null by number. */
  correlation: (number | null)[];
}

/** One of several meanings of a neuron. */
export interface Meaning {
  label: string;
  /** Part of the activation above the neuron's mean that it has. */
  share: number | null;
  /** How likely its label is right; null where that is unknown. */
  confidence: number | null;
  /** Image numbers of its strongest images; those with a thumbnail. */
  positives: number[];
  /** Image numbers of their contrasts; those with a thumbnail. */
  contrasts: number[];
}

/** A figure of one label, and the mean of all labels of its scorer with the interval of that mean. */
export interface Measured {
  scorer: string;
  metric: string;
  value: number | null;
  mean: number | null;
  low: number | null;
  high: number | null;
}

/** Something a page could show if the run, or this machine, had it. */
export interface Missing {
  what: string;
  why: string;
}

export interface Neighbour {
  neuron: number;
  name: string;
  label: string | null;
  similarity: number;
  pictures: number[];
}

/** Accuracy on held-out images of one group: the network, pruned, with a new head, with one on all neurons. */
export interface NewHead {
  group: string;
  images: number | null;
  before: number | null;
  pruned: number | null;
  after: number | null;
  all_neurons: number | null;
  difference: number | null;
  /** 95 % interval of after - before. */
  low: number | null;
  high: number | null;
}

/** What a person said of a neuron. */
export interface Note {
  id: string;
  time: string;
  neuron: number;
  name: string;
  kind: NoteKind;
  text: string;
}

export type NoteKind = "note" | "tag" | "label";

/** The notes of a run that stand, oldest first. */
export interface Notes {
  file: string;
  writable: boolean;
  notes: Note[];
  problems: string[];
}

export interface Pair {
  rank: number;
  activation: number | null;
  positive: Picture | null;
  contrast: Picture | null;
  contrast_activation: number | null;
  similarity: number | null;
}

export interface Picture {
  image: number;
  id: string;
  label: string | null;
}

export type Plain = Record<string, Value>;

/** Neurons as points: those with similar concept vectors lie close together. */
export interface Plane {
  /** "umap" or "pca". */
  method: string;
  /** All that the run has. */
  methods: string[];
  gamma: number;
  /** PCA: share of the variance on each axis. */
  explained: number[] | null;
  neuron: number[];
  x: number[];
  y: number[];
}

/** Accuracy on some labeled images before and after pruning. */
export interface Pruned {
  /** "all", "balanced", "class=NAME" or "COLUMN=VALUE". */
  group: string;
  /** "hard" or "soft", or "random": the same factors given to neurons drawn at random. */
  mode: string;
  images: number | null;
  before: number | null;
  after: number | null;
  difference: number | null;
  /** 95 % interval of the difference. */
  low: number | null;
  high: number | null;
}

export interface Row {
  neuron: number;
  name: string;
  status: string;
  label: string | null;
  /** What an experiment on the label came to; null without one. */
  verified: string | null;
  score: number | null;
  margin: number | null;
  figures: Record<string, number | null>;
}

export interface Rows {
  scorer: string;
  /** Neurons that pass the filter. */
  total: number;
  rows: Row[];
}

/** One run folder that was opened, or the reason why it could not be. */
export interface RunInfo {
  /** Name in URLs. */
  key: string;
  title: string;
  /** Changes when the run is written again. */
  stamp: string;
  problem: string | null;
  /** Null where the run cannot be read. */
  summary: Summary | null;
  /** How the labels were made; of long lists, how many entries they have. */
  manifest: Record<string, unknown> | null;
  missing: Missing[];
  /** What a reader of the labels should know: of the network, the encoder, the exemplars and the null test. */
  remarks: string[];
  notes: number;
  /** Means of an evaluation over the neurons: scorer, metric, mean, low, high...; empty without one. */
  evaluation: Plain[];
  /** Null where there is none, or none that can be read: then `missing` says why. */
  audit: Audited | null;
}

export interface RunList {
  version: string;
  runs: RunInfo[];
  /** Whether notes can be written, and labels tested. */
  writable: boolean;
  /** Why there is no search by words or pictures; null where there is. */
  encoder: string | null;
}

export interface ScorerColumns {
  scorer: string;
  /** Place in `labels`, -1 for none. */
  label: number[];
  score: (number | null)[];
  /** Best minus second best score. */
  margin: (number | null)[];
  /** Of CSP; null for another scorer. */
  gamma: number | null;
  /** What experiments on the labels came to: "verified", "refuted", "untested", null without one. Null as a whole where no label was tested. */
  verified: (string | null)[] | null;
  /** Of this scorer's labels: confidence and fdr by the run; fdr, stability and metrics by an evaluation; removal and insertion by experiments. */
  columns: Record<string, (number | null)[]>;
}

export interface ScorerLabels {
  scorer: string;
  /** "chance" where the null test of the run or of its evaluation (`--fdr`) turned the label down, "corrected" where label corrected by a person. */
  status: string;
  /** As finally judged. */
  label: string | null;
  /** What the scorer said, also where it was rejected or corrected. */
  best: string | null;
  /** What turned the label down or corrected it; null if nothing did. */
  why: string | null;
  /** What an experiment on the label came to: "verified", "refuted" or "untested"; null without one. */
  verified: string | null;
  /** The same in words, with the editor. */
  experiment: string | null;
  score: number | null;
  /** How likely the label is right, 0 to 1; null without a label, or where the run has no confidence. */
  confidence: number | null;
  /** What speaks for the label, and what against it. */
  reasons: string[];
  p: number | null;
  /** False-discovery rate of the null test, of the run or of its evaluation; null unless it was asked for. */
  fdr: number | null;
  concepts: Concept[];
  /** By falling share, of a neuron with several; else empty. */
  meanings: Meaning[];
}

/** A run in a few lines, for the page over several runs. */
export interface Summary {
  network: string;
  layer: string | null;
  /** Neurons of runs of one place, or of one fingerprint, pair by number. */
  place: string;
  fingerprint: string | null;
  neurons: number;
  labeled: number;
  images: number | null;
  /** Fingerprint of the images. */
  probe: string | null;
  encoder: string | null;
  /** "supported", "uncertain", "unsupported": labels; empty where the run has no confidence. */
  words: Record<string, number>;
  /** "verified", "refuted", "untested": labels; empty without an experiment. */
  verified: Record<string, number>;
  /** Labels that contrast changed; null where the run cannot tell. */
  changed: number | null;
  highlights: Highlight[];
}

/** The experiment that was asked for last on the page of a run. */
export interface Testing {
  job: Job | null;
}

/** The class of an output neuron. */
export interface TrueClass {
  name: string;
  /** Whether the label names it, in its words or a synonym; null without a label. */
  named: boolean | null;
}

export type Value = string | number | boolean | null;

/** What an audit says of one neuron. */
export interface Verdict {
  /** "expected", "spurious", "undecided" or "unexplained". */
  verdict: string;
  /** The concept of the list that it stands out in most; not believed where the neuron is unexplained. */
  best: string | null;
  /** Side of the list that this concept is from. */
  side: string | null;
  /** Why there is no verdict for a side; null where there is one. */
  reason: string | null;
  /** What an experiment says of the verdict; null without one on this neuron and concept. */
  experiment: string | null;
  /** score, empty, z, expected, spurious, noise, p, fdr, confidence, clarity, redundancy, polysemanticity, margin. */
  figures: Record<string, number | null>;
  /** The classes that it moves most first. */
  influence: Influenced[];
}
