import { describe, expect, it } from "vitest";
import { compare, openings, reasons, telling } from "../src/logic/compare";
import { rounded, wordLimits, wordOf } from "../src/logic/confidence";
import { csv, detailCsv, detailMarkdown, field, notesMarkdown } from "../src/logic/formats";
import { colours, placed } from "../src/logic/heat";
import { networks, openingPair, total } from "../src/logic/home";
import { fitting, pictured } from "../src/logic/names";
import { rescored, scores, turns } from "../src/logic/gamma";
import { formatLasso, inside, parseLasso, type Point, thinned } from "../src/logic/lasso";
import { format, parse } from "../src/logic/route";
import { best, bins, columns, doubtful, commonest, formatRanges, labelAt, outcomeCounts, parseRanges, select, type Selection, short, wordCounts, wordFor } from "../src/logic/select";
import { Frame, MOST_ZOOM, WHOLE } from "../src/logic/view";
import { layout, step, visible } from "../src/logic/virtual";
import type { Detail, Gamma, Index, Matched, Note, RunInfo, Summary } from "../src/types";

const index: Index = {
  key: "run",
  stamp: "1",
  primary: "csp",
  neuron: [0, 1, 2, 5],
  name: ["layer/0", "layer/1", "layer/2", "layer/5"],
  statuses: ["ok", "dead"],
  status: [0, 0, 1, 0],
  labels: ["blue ring", "Dog"],
  scorers: [
    { scorer: "csp", label: [1, 0, -1, 1], score: [0.3, 0.5, null, 0.3], margin: [0.1, 0.2, null, 0.05], gamma: 1, verified: ["verified", "refuted", null, "verified"], columns: { fdr: [0.01, 0.2, null, 0.04], confidence: [0.9, 0.899, null, 0.1] } },
    { scorer: "semanticlens", label: [0, 0, -1, 1], score: [0.6, 0.2, null, 0.1], margin: [0, 0, null, 0], gamma: null, verified: null, columns: { fdr: [0.5, 0.5, null, 0.5] } },
  ],
  columns: { firing_rate: [0.9, 0.1, 0, 0.5] },
  shown: 1,
  positives: [3, 4, -1, 5],
  contrasts: [6, 7, -1, 8],
};

const run = (key: string, layer: string, more: Partial<Summary> = {}) =>
  ({ key, problem: null, summary: { network: "net", place: `net ${layer}`, fingerprint: key, neurons: 4, encoder: "eyes", probe: "p", ...more } }) as unknown as RunInfo;

const all: Selection = { scorer: "csp", q: "", status: "", sort: "neuron", descending: false, ranges: {} };

describe("what pages open on", () => {
  it("names the surest row of each label, and the most doubtful labels", () => {
    expect(best(index, ["Dog", "blue ring", "nobody"])).toEqual([0, 1]);
    expect(doubtful(index, 5)).toEqual([1, 3]);
  });

  it("compares the same place of two runs, then runs that can be matched, then what contrast changed", () => {
    const own = run("run", "relu");
    const contrast = ["run~semanticlens", "run~csp"];
    const again = run("again", "relu");
    expect(openings(own, index, [own, run("late", "head"), again])).toEqual([["run~csp", "again~"], ["run~csp", "late~"], contrast]);
    expect(openings(own, index, [own, run("far", "relu", { network: "other", place: "far", encoder: "clip", probe: "other" })])).toEqual([contrast]);
    expect(openingPair([own, run("late", "head"), again])).toEqual(["run", "again"]);
    expect(openingPair([own, { ...again, summary: null, problem: "broken" }])).toBeNull();
  });

  it("sorts runs by network and counts them", () => {
    const other = run("late", "head", { network: "other" });
    const known = [run("run", "relu"), other, run("again", "relu")];
    expect(networks(known).map(([name, runs]) => [name, runs.map((r) => r.key)])).toEqual([["net", ["run", "again"]], ["other", ["late"]]]);
    expect(total(known)).toBe("3 runs of 2 networks, 12 neurons");
  });

  it("has words for figures", () => {
    expect([0.95, 0.4, 0.1, 0.001].map((v) => wordFor("firing_rate", v))).toEqual([
      "almost always active", "often active", "selective", "rarely active",
    ]);
    expect([wordFor("agreement", 1), wordFor("clarity", 0.1), wordFor("score", 1)]).toEqual(["all scorers agree", "no common theme", ""]);
  });
});

describe("confidence", () => {
  it("has the words of the command line, and is never rounded up to one", () => {
    expect([0.9, 0.899, 0.5, 0.499, 0].map(wordOf)).toEqual(["supported", "uncertain", "uncertain", "unsupported", "unsupported"]);
    expect([0.9, 0.8999, 0.999].map(rounded)).toEqual(["0.90", "0.89", "0.99"]);
    expect(wordCounts(index, "csp")).toEqual([1, 1, 1]);
    expect(wordLimits("dead")).toBeNull();
  });
});

describe("experiments", () => {
  it("are counted and chosen by their outcome", () => {
    expect(outcomeCounts(index, "csp")).toEqual([2, 1, 0]);
    expect(outcomeCounts(index, "semanticlens")).toEqual([0, 0, 0]);
    expect(select(index, { ...all, status: "verified" })).toEqual([0, 3]);
    expect(select(index, { ...all, status: "refuted" })).toEqual([1]);
    expect(select(index, { ...all, scorer: "semanticlens", status: "verified" })).toEqual([]);
  });
});

describe("select", () => {
  it("sorts with ties by number and empty values last, in both directions", () => {
    expect(select(index, { ...all, sort: "score" })).toEqual([0, 3, 1, 2]);
    expect(select(index, { ...all, sort: "score", descending: true })).toEqual([1, 0, 3, 2]);
    expect(select(index, { ...all, sort: "label", descending: true })).toEqual([0, 3, 1, 2]);
    expect(select(index, { ...all, sort: "neuron", descending: true })).toEqual([3, 2, 1, 0]);
  });

  it("finds labels of the scorer, names, own labels and tags", () => {
    const note = (neuron: number, kind: Note["kind"], text: string): Note => ({ id: text, time: "", neuron, name: "", kind, text });
    const notes = new Map([
      [2, [note(2, "label", "a cat")]],
      [5, [note(5, "tag", "polysemantic")]],
    ]);
    expect(select(index, { ...all, q: "DOG" })).toEqual([0, 3]);
    expect(select(index, { ...all, scorer: "semanticlens", q: "dog" })).toEqual([3]);
    expect(select(index, { ...all, q: "layer/1" })).toEqual([1]);
    expect(select(index, { ...all, q: "cat" }, notes)).toEqual([2]);
    expect(select(index, { ...all, q: "#poly" }, notes)).toEqual([3]);
    expect(select(index, { ...all, status: "noted" }, notes)).toEqual([2, 3]);
  });

  it("filters by status, by ranges of any figure and by a set", () => {
    expect(select(index, { ...all, status: "dead" })).toEqual([2]);
    expect(select(index, { ...all, status: "always" })).toEqual([0]);
    expect(select(index, { ...all, status: "supported" })).toEqual([0]);
    expect(select(index, { ...all, status: "uncertain" })).toEqual([1]);
    expect(select(index, { ...all, scorer: "semanticlens", status: "supported" })).toEqual([]);
    expect(select(index, { ...all, ranges: { score: [0.4, null] } })).toEqual([1]);
    expect(select(index, { ...all, ranges: { fdr: [null, 0.05] } })).toEqual([0, 3]);
    expect(select(index, { ...all, only: new Set([3]) })).toEqual([3]);
  });

  it("knows figures of scorers and of neurons", () => {
    expect(columns(index)).toEqual(["score", "margin", "fdr", "confidence", "firing_rate"]);
    expect(labelAt(index, "csp", 2)).toBeNull();
    expect(labelAt(index, "no such scorer", 0)).toBe("Dog");
  });

  it("writes ranges into a URL and reads them back", () => {
    const ranges = { score: [0.2, null], fdr: [null, 0.05] } as const;
    expect(parseRanges(formatRanges(ranges as never))).toEqual(ranges);
    expect(parseRanges("rubbish,score:x:y,:1:2")).toEqual({});
  });

  it("counts bins up to the largest value", () => {
    expect(bins([0, 1, 2, null], null, 2)).toEqual({ low: 0, high: 2, counts: [1, 2] });
    expect(bins([1, 1], null)).toBeNull();
  });

  it("shortens numbers", () => {
    expect([short(null), short(0), short(0.12345), short(12.345), short(1e-5)]).toEqual(["–", "0", "0.123", "12.3", "1.0e-5"]);
  });
});

describe("commonest", () => {
  it("counts a scorer's labels, ties in alphabetical order, none for no label", () => {
    expect(commonest(index, "csp", 5)).toEqual([["Dog", 2], ["blue ring", 1]]);
    expect(commonest(index, "csp", 1)).toEqual([["Dog", 2]]);
  });
});

describe("heat", () => {
  it("fills the square where the network saw all of a square image", () => {
    expect(placed({ box: [0, 0, 1, 1], aspect: 1 })).toEqual({ left: 0, top: 0, width: 1, height: 1 });
  });
  it("lies where the crop lay, in the middle square of a wide or a high image", () => {
    // 200 x 100 px; the network saw the middle 100 x 100 px, which is just what the square shows.
    expect(placed({ box: [0.25, 0, 0.75, 1], aspect: 2 })).toEqual({ left: 0, top: 0, width: 1, height: 1 });
    // 100 x 200 px, squashed: the network saw all of it, of which the square shows the middle half.
    expect(placed({ box: [0, 0, 1, 1], aspect: 0.5 })).toEqual({ left: 0, top: -0.5, width: 1, height: 2 });
  });
  it("dims what is cold and leaves what is hot", () => {
    const alpha = [0, 64, 120, 255].map((v) => colours([v])[3]!);
    expect(alpha[0]).toBeGreaterThan(alpha[1]!);
    expect(alpha[1]).toBeGreaterThan(alpha[2]!);
    expect(colours([0, 255])).toHaveLength(8);
  });
});

describe("names on the map", () => {
  const wide = (text: string) => 6 * text.length;
  it("keeps the more important one where two would overlap, and none off the canvas", () => {
    const spots = [{ x: 50, y: 50, text: "dog" }, { x: 55, y: 52, text: "cat" }, { x: 50, y: 90, text: "ant" }, { x: 1, y: 90, text: "bee" }];
    expect(fitting(spots, wide, 100, 100).map((s) => s.text)).toEqual(["dog", "ant"]);
  });
  it("says the same label again only far away, and not too many", () => {
    const spots = [0, 100, 600].map((x) => ({ x: 50 + x, y: 50, text: "dog" }));
    expect(fitting(spots, wide, 1000, 100).map((s) => s.x)).toEqual([50, 650]);
    expect(fitting(spots, wide, 1000, 100, [], 1)).toHaveLength(1);
  });
  it("covers no picture but may touch its own", () => {
    const box = { left: 30, right: 70, top: 10, bottom: 46 };
    expect(fitting([{ x: 50, y: 50, text: "dog", own: box }, { x: 60, y: 12, text: "cat" }], wide, 100, 100, [box]).map((s) => s.text)).toEqual(["dog"]);
  });
  it("shows pictures where they cover no other, the more important first, and more of them when there is room", () => {
    const dots = [[50, 50], [60, 50], [200, 50], [2, 50]].map(([x, y]) => ({ x: x!, y: y! }));
    expect(pictured(dots, 40, 400, 100).map((p) => p.x)).toEqual([50, 200]);
    expect(pictured(dots, 8, 400, 100).map((p) => p.x)).toEqual([50, 200]);
    expect(pictured(dots, 4, 400, 100).map((p) => p.x)).toEqual([50, 60, 200]);
    expect(pictured(dots, 40, 400, 100, 1)).toHaveLength(1);
  });
});

describe("the view of the map", () => {
  const tall = [{ x: 0, y: 0 }, { x: 1, y: 10 }];
  it("lays the long side of the points along that of the canvas, and goes back to the plane", () => {
    for (const [width, height] of [[800, 300], [300, 800]] as const) {
      const frame = new Frame(tall, width, height);
      const [[ax, ay], [bx, by]] = tall.map((p) => frame.toScreen(WHOLE, p.x, p.y)) as [Point, Point];
      expect(Math.abs(ax - bx) > Math.abs(ay - by)).toBe(width > height);
      for (const p of [ax, ay, bx, by]) expect(p).toBeGreaterThanOrEqual(0);
      const view = frame.moved(frame.zoomed(WHOLE, 3, [20, 30]), 5, -7);
      const back = frame.toPlane(view, frame.toScreen(view, 0.4, 3));
      expect(back[0]).toBeCloseTo(0.4, 9);
      expect(back[1]).toBeCloseTo(3, 9);
    }
  });
  it("zooms about a place, and shows all again at one", () => {
    const frame = new Frame(tall, 800, 300);
    const at = frame.toPlane(WHOLE, [100, 200]);
    const near = frame.zoomed(WHOLE, 4, [100, 200]);
    expect(frame.toScreen(near, ...at).map(Math.round)).toEqual([100, 200]);
    expect(frame.zoomed(near, 0.1)).toBe(WHOLE);
    expect(frame.zoomed(WHOLE, 1e9).zoom).toBe(MOST_ZOOM);
    expect(new Frame([], 10, 10).toScreen(WHOLE, 0, 0)).toEqual([5, 5]);
  });
});

describe("gamma", () => {
  // Two concepts along the axes; the positives' mean lies near x, and contrast takes x away.
  const data: Gamma = { concepts: ["x", "y"], sources: [null, "list"], first: [0.9, 0.5], second: [0.8, 0], norms: [0.9 ** 2 + 0.5 ** 2, 0.72, 0.64] };

  it("scores as the scorer does: cosine of first - gamma second", () => {
    for (const g of [0, 0.3, 1]) {
      const v = [0.9 - 0.8 * g, 0.5];
      const length = Math.hypot(v[0]!, v[1]!);
      expect(scores(data, g)[0]).toBeCloseTo(v[0]! / length, 12);
      expect(scores(data, g)[1]).toBeCloseTo(v[1]! / length, 12);
    }
  });

  it("tells where the best concept changes, and ranks against gamma 0", () => {
    expect(turns(data)).toEqual([{ gamma: 0.51, from: "x", to: "y" }]);
    expect(rescored(data, 1, 1)[0]).toMatchObject({ concept: "y", rank: 0, before: 1, source: "list" });
  });

  it("gives 0 for a vector of no length", () => {
    expect(scores({ ...data, norms: [0, 0, 0] }, 1)).toEqual([0, 0]);
  });
});

describe("lasso", () => {
  const square: Point[] = [[0, 0], [2, 0], [2, 2], [0, 2]];
  it("knows inside from outside, also in a dent", () => {
    expect(inside([1, 1], square)).toBe(true);
    expect(inside([3, 1], square)).toBe(false);
    const dent: Point[] = [[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]];
    expect(inside([2, 2], dent)).toBe(false);
    expect(inside([3, 2], dent)).toBe(true);
  });
  it("goes into a URL and back; what is no area is none", () => {
    expect(parseLasso(formatLasso(square))).toEqual(square);
    expect(parseLasso("1,2_3,4")).toEqual([]);
    expect(parseLasso("a,b_c,d_e,f_1,2,3")).toEqual([]);
    expect(thinned([[0, 0], [0.1, 0], [5, 0]], 1)).toEqual([[0, 0], [5, 0]]);
  });
});

describe("route", () => {
  it("goes round", () => {
    for (const hash of ["#/demo/neurons", "#/demo/n/12?gamma=0.5", "#/a%20b/map?lasso=1%2C2", "#/demo/search?text=red+%26+blue"])
      expect(format(parse(hash))).toBe(hash);
  });
  it("is at home without a run", () => {
    for (const hash of ["", "#", "#/"]) expect(parse(hash)).toMatchObject({ run: null, page: "home" });
    expect(format({ run: null, page: "home" })).toBe("#/");
  });
  it("makes the overview of nonsense", () => {
    for (const hash of ["#/x/y/z", "#/x/n/abc", "#/%E0%A4%A/n/99999999999"]) expect(parse(hash).page).toBe("neurons");
  });
  it("keeps the page of an address without a run", () => {
    expect(parse(format({ run: null, page: "map", params: { lasso: "x" } }))).toMatchObject({ run: null, page: "map", params: { lasso: "x" } });
  });
  it("drops empty parameters", () => {
    expect(format({ run: "r", page: "neurons", params: { q: "", sort: "score" } })).toBe("#/r/neurons?sort=score");
  });
});

describe("virtual", () => {
  it("draws what is near the screen only", () => {
    const shape = layout(1000, 10_000, 180, 14, 270);
    expect(shape.columns).toBe(5);
    const [first, last] = visible(shape, 100_000, 900);
    expect(first * shape.pitch).toBeLessThan(100_000 - 900);
    expect(last * shape.pitch).toBeGreaterThan(100_900 + 900);
    expect(last - first).toBeLessThan(20);
    expect(visible(shape, -500, 900)[0]).toBe(0);
    expect(visible(shape, 1e9, 900)).toEqual([shape.rows, shape.rows]);
  });
  it("moves by keys and stays inside", () => {
    expect(step("ArrowDown", 3, 5, 20)).toBe(8);
    expect(step("ArrowUp", 3, 5, 20)).toBe(3);
    expect(step("End", 0, 5, 20)).toBe(19);
    expect(step("PageDown", 18, 5, 20)).toBe(19);
    expect(step("x", 0, 5, 20)).toBeNull();
  });
});

describe("formats", () => {
  it("quotes CSV and disarms formulas", () => {
    expect(field("=1+1")).toBe("'=1+1");
    expect(csv([["a,b", 'say "x"', null, -1.5]])).toBe('"a,b","say ""x""",,-1.5\r\n');
  });
  const detail = {
    name: "layer/0",
    labels: [{ scorer: "csp", status: "ok", label: "<b>x|y</b>", score: 0.5, concepts: [] }],
    exemplars: [{ rank: 0, activation: 2, positive: { image: 1, id: "@cmd.png", label: null }, contrast: null, contrast_activation: null, similarity: null }],
  } as unknown as Detail;
  it("shows hostile labels as text", () => {
    expect(detailMarkdown(detail)).toContain("\\<b\\>x\\|y\\</b\\>");
    expect(detailCsv(detail)).toContain("'@cmd.png");
    expect(notesMarkdown([{ id: "1", time: "t", neuron: 1, name: "n", kind: "note", text: "# x\n[a](javascript:1)" }])).toContain("\\# x \\[a\\]\\(javascript:1\\)");
  });
});

describe("compare", () => {
  it("counts pairs with the same label and puts the surest change first", () => {
    const found = compare(index, "csp", index, "semanticlens", null);
    expect([found.pairs, found.counts.same, found.counts.changed]).toEqual([4, 3, 1]);
    expect(found.rows.find((r) => r.kind === "changed")).toMatchObject({ a: { row: 0, label: "Dog", confidence: 0.9 }, b: { label: "blue ring" } });
    expect(compare(index, "semanticlens", index, "csp", null).rows[0]).toMatchObject({ kind: "changed", b: { confidence: 0.9 } });
  });

  it("pairs neurons as they were matched", () => {
    const other = { ...index, key: "late", neuron: [7, 8, 9, 10] };
    const matched: Matched = {
      by: "activations", problem: null, images: 60, threshold: 0.4, notes: [],
      status: ["pair", "pair", "split", "new", "gone", "pair"], a: [0, 1, 1, null, 5, 99], b: [7, 7, 8, 9, null, 7],
      correlation: [0.9, 0.8, 0.7, null, null, 0.5],
    };
    const found = compare(index, "csp", other, "csp", matched);
    expect(found.counts).toEqual({ changed: 1, same: 1, split: 1, merged: 0, new: 1, gone: 1 });
    expect(found.rows.map((r) => [r.kind, r.a?.row, r.b?.row]).sort()).toEqual([
      ["changed", 1, 0], ["gone", 3, undefined], ["new", undefined, 2], ["same", 0, 0], ["split", 1, 1],
    ]);
    expect(compare(index, "csp", other, "csp", null).pairs).toBe(0);
  });

  it("says where each label stands on the other side, and how many images are shared", () => {
    const image = (id: string) => ({ image: 0, id, label: null });
    const pair = (id: string, contrast: string, similarity: number) => ({
      rank: 0, activation: 2, positive: image(id), contrast: { ...image(contrast), image: 1 }, contrast_activation: 0, similarity,
    });
    const said = (run: string, label: string, concepts: [string, number][], exemplars: Detail["exemplars"]) =>
      ({ run, exemplars, labels: [{ scorer: "csp", label, concepts: concepts.map(([concept, score]) => ({ concept, score, source: null })) }] }) as unknown as Detail;
    const one = said("a", "dog", [["dog", 0.5], ["cat", 0.4]], [pair("1", "x", 0.2), pair("2", "y", 0.9)]);
    const other = said("b", "cat", [["cat", 0.6]], [pair("2", "x", 0.2)]);
    expect(reasons(one, "csp", other, "csp", true)).toEqual([
      "“dog” is not among the best 1 of B", "“cat” comes second in A, 0.100 behind", "1 of 2 top images are the same",
    ]);
    expect(telling(one)?.positive?.id).toBe("2");
  });
});
