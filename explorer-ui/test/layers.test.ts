import { describe, expect, test } from "vitest";
import { between, found, named, parts, ramp, said } from "../src/logic/layers";
import type { LayerConcept, LayerRow, Layers } from "../src/types";

const row: LayerRow = {
  run: "a", layer: "blocks.0", depth: 0.5, neurons: 10, silent: 2, labeled: 6, supported: null, sure: 4, verified: null, refuted: null,
  confounded: null, concepts: 2, new: 2,
};
const dog: LayerConcept = {
  concept: "dog", neurons: 3, first: "blocks.1", first_sure: null, most: "blocks.1", counts: [0, 3], run: "b", neuron: 1, picture: 4,
};
const data: Layers = {
  title: "net", layers: [row, { ...row, run: "b", layer: "blocks.1" }], concepts: [dog], notes: [], labels: ["cat", "dog"],
  layer: [0, 0, 1], neuron: [0, 1, 1], name: ["blocks.0/0", "blocks.0/1", "blocks.1/1"], label: [0, -1, 1],
  confidence: [0.2, null, 0.9], verified: [null, null, "verified"], picture: [3, -1, 4],
  relations: {
    one: [0, 2, 0, 1, 0], other: [2, 0, 2, 2, 1], kind: ["match", "match", "ablation", "ablation", "weights"], value: [0.8, 0.8, 0.2, -0.5, 0.001],
    null: [0.4, 0.4, 0.1, 0.6, 0.01], p: [null, null, 0.0002, 0.3, 0.5], holds: [true, true, true, false, false],
  },
};

describe("the page of all layers", () => {
  test("bars add up to all neurons", () => {
    expect(parts(row).map((p) => p.count)).toEqual([4, 2, 2, 2]);
    expect(parts(row).reduce((sum, p) => sum + p.share, 0)).toBeCloseTo(100);
  });
  test("neurons are found in all layers, the surest first, unlabeled ones by name only", () => {
    expect(found(data, "", null, "confidence")).toEqual([2, 0]);
    expect(found(data, "blocks.0/1", null, "confidence")).toEqual([1]);
    expect(found(data, "DOG", null, "depth")).toEqual([2]);
    expect(found(data, "", 0, "depth")).toEqual([0]);
  });
  test("concepts by name, and how deep they lie", () => {
    expect(named([dog], "o")).toEqual([dog]);
    expect(named([dog], "cat")).toEqual([]);
    expect([0, 1].map((at) => ramp(dog, at, data.layers))).toEqual([null, 4]);
  });
  test("a neuron's matches, and its edges in both directions, those beyond the null first", () => {
    const last = between(data, 2);
    expect(last.matches.map((r) => r.at)).toEqual([0]);
    expect(last.fedBy.map((r) => [r.at, r.holds])).toEqual([[0, true], [1, false]]);
    expect(last.feeds).toEqual([]);
    expect(between(data, 0).feeds.map((r) => r.at)).toEqual([2, 1]);
    expect(last.matches.map(said)).toEqual(["correlation 0.80, null 0.40"]);
    expect(last.fedBy.map(said)).toEqual(["effect 0.20, null 0.10, p < .001", "effect -0.50, null 0.60, p .300"]);
  });
});
