import { describe, expect, it } from "vitest";
import { type Choice, chosen, concepts, groups, largest, moved, place, signed, surest } from "../src/logic/audit";
import type { Audit, Pruned } from "../src/types";

const pruned = (group: string, mode: string, difference: number | null): Pruned => ({
  group, mode, images: 10, before: 0.5, after: 0.5, difference, low: null, high: null,
});

const audit: Audit = {
  run: "run",
  manifest: {},
  conclusion: null,
  explanation: [],
  warnings: [],
  neuron: [0, 2, 5, 9],
  verdict: ["spurious", "spurious", "expected", "spurious"],
  best: ["ruler", "ruler", "streaks", null],
  side: ["spurious", "spurious", "expected", null],
  reason: [null, null, null, null],
  experiment: [null, null, null, null],
  columns: { z: [2, 3, 1, null], fdr: [0.01, 0.001, 0.02, null] },
  classes: ["benign", "melanoma"],
  left_out: 0,
  influence: {
    ablation: [0.1, -0.4, null, null, 0.2, 0, null, null],
    gradient: [0.9, 0.9, null, null, 0.2, 0, null, null],
    head: [0.1, -0.4, 0.6, 0.3, 0.2, 0, null, null],
  },
  pruning: [
    pruned("all", "soft", 0), pruned("balanced", "soft", 0), pruned("class=benign", "soft", 0.01),
    pruned("class=melanoma", "soft", -0.2), pruned("site=back", "soft", 0.1), pruned("all", "random", 0.02),
  ],
  new_head: [],
};
const all: Choice = { concept: "", moves: "", sort: "influence" };

describe("an audit", () => {
  it("takes the surest measure that there is", () => {
    expect(surest({ ablation: null, gradient: 0, head: 3 })).toEqual({ by: "gradient", value: 0 });
    expect(surest({ ablation: null, gradient: null, head: null })).toBeNull();
    expect(moved(audit, 0)).toMatchObject({ at: 1, by: "ablation", value: -0.4 });
    expect(moved(audit, 0, 0)).toMatchObject({ at: 0, value: 0.1 });
    expect(moved(audit, 1)).toMatchObject({ at: 0, by: "head", value: 0.6 });
    expect(moved(audit, 3)).toBeNull();
    expect(moved({ ...audit, classes: [], influence: {} }, 0)).toBeNull();
  });

  it("shows the neurons of one verdict, the most influential first, those without a value last", () => {
    expect(chosen(audit, "spurious", all)).toEqual([1, 0, 3]);
    expect(chosen(audit, "spurious", { ...all, moves: "melanoma" })).toEqual([0, 1, 3]);
    expect(chosen(audit, "spurious", { ...all, moves: "no such class" })).toEqual([1, 0, 3]);
    expect(chosen(audit, "spurious", { ...all, sort: "z" })).toEqual([1, 0, 3]);
    expect(chosen(audit, "spurious", { ...all, sort: "fdr" })).toEqual([1, 0, 3]);
    expect(chosen(audit, "spurious", { ...all, sort: "neuron" })).toEqual([0, 1, 3]);
    expect(chosen(audit, "spurious", { ...all, sort: "nonsense" })).toEqual([0, 1, 3]);
    expect(chosen(audit, "spurious", { ...all, concept: "ruler" })).toEqual([1, 0]);
    expect(chosen(audit, "unexplained", all)).toEqual([]);
    expect(chosen({ ...audit, verdict: ["undecided", "spurious", "expected", "undecided"] }, "undecided", all)).toEqual([0, 3]);
  });

  it("counts concepts and finds classes", () => {
    expect(concepts(audit)).toEqual([
      { name: "ruler", side: "spurious", count: 2 },
      { name: "streaks", side: "expected", count: 1 },
    ]);
    expect([place(audit, "melanoma"), place(audit, "")]).toEqual([1, null]);
  });

  it("puts all images first, then groups, then the classes that change most, each with its control", () => {
    const found = groups(audit);
    expect(found.map((g) => g.group)).toEqual(["all", "balanced", "site=back", "class=melanoma", "class=benign"]);
    expect(found.map((g) => g.random?.difference)).toEqual([0.02, undefined, undefined, undefined, undefined]);
  });

  it("tells changes with their sign", () => {
    expect([0.5, -0.256, 0, 1e-9, null].map((v) => signed(v))).toEqual(["+0.50", "−0.26", "0", "+1e-9", "–"]);
    expect(signed(-0.04, 1)).toBe("0");
    expect(largest([null, -3, undefined, 2])).toBe(3);
  });
});
