import { describe, expect, test } from "vitest";
import { found, named, parts, ramp } from "../src/logic/layers";
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
});
