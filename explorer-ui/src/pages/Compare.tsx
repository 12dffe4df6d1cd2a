import { useEffect, useMemo, useRef, useState } from "react";
import { Picture } from "../parts/Picture";
import { Confidence, Problem, Twin, useNeuronLink, Waiting } from "../parts/Bits";
import { compare, opening } from "../logic/compare";
import { short } from "../logic/select";
import { visible } from "../logic/virtual";
import { indexOf, useLoaded, useParam, useWorld } from "../state";
import type { Index, RunInfo } from "../types";

const PITCH = 92;

/** Two runs, or two scorers of one run, side by side. */
export function Compare() {
  const { list, info, index } = useWorld();
  const runs = list.runs.filter((r) => r.problem === null);
  const [first, second] = useMemo(() => opening(info, index, runs), [info, index, list]);
  const [a, setA] = useParam("a", first);
  const [b, setB] = useParam("b", second);
  const [all, setAll] = useParam("all");
  const [q, setQ] = useParam("q");
  const left = useSide(a, runs);
  const right = useSide(b, runs);
  const found = useMemo(
    () => (left.index && right.index ? compare(left.index, left.scorer, right.index, right.scorer) : null),
    [left.index, left.scorer, right.index, right.scorer],
  );
  const rows = useMemo(() => {
    const word = q.trim().toLowerCase();
    return (found?.both ?? []).filter(
      (c) =>
        (all !== "" || c.labelA !== c.labelB) &&
        (word === "" || [c.labelA, c.labelB, c.name].some((t) => t?.toLowerCase().includes(word))),
    );
  }, [found, all, q]);
  return (
    <div className="compare">
      <h1>Compare</h1>
      <div className="toolbar">
        <SideChoice title="A" side={left} runs={runs} onChange={setA} />
        <span className="versus" aria-hidden="true">
          ↔
        </span>
        <SideChoice title="B" side={right} runs={runs} onChange={setB} />
        <input data-search type="search" className="find" placeholder="Label or name" aria-label="Filter by label or name" value={q} onChange={(e) => setQ(e.target.value)} />
        <label>
          <input type="checkbox" checked={all === ""} onChange={(e) => setAll(e.target.checked ? "" : "1")} /> only changed labels
        </label>
      </div>
      {(left.error ?? right.error) && <Problem>{left.error ?? right.error}</Problem>}
      {!found && !left.error && !right.error && <Waiting>Reading both sides…</Waiting>}
      {found && (
        <>
          <p className="verdict" role="status">
            <strong>{found.both.length ? `${((100 * found.same) / found.both.length).toFixed(1)} %` : "–"}</strong> the same label:{" "}
            {found.same} of {found.both.length} neurons matched by {found.matchedBy}; {found.both.length - found.same} changed
            {q !== "" && `, ${rows.length} shown`}.{" "}
            <Twin path={twin(left, right, all !== "")} />
          </p>
          {left.index && right.index && <Changes rows={rows} a={left.index} b={right.index} />}
        </>
      )}
    </div>
  );
}

interface Side {
  run: RunInfo | null;
  scorer: string;
  index: Index | null;
  error: string | null;
}

function twin(a: Side, b: Side, all: boolean): string {
  const query = new URLSearchParams({ a: a.run?.key ?? "", b: b.run?.key ?? "", scorer_a: a.scorer, scorer_b: b.scorer });
  if (all) query.set("changed", "false");
  return `api/compare?${query}`;
}

function useSide(text: string, runs: RunInfo[]): Side {
  const [key = "", wanted = ""] = text.split("~");
  const run = runs.find((r) => r.key === key) ?? null;
  const { data, error } = useLoaded(run ? `${run.key} ${run.stamp}` : null, () => indexOf(run!));
  const scorer = data ? (data.scorers.find((s) => s.scorer === wanted)?.scorer ?? data.primary) : wanted;
  return { run, scorer, index: data, error: run ? error : `There is no readable run ${key}.` };
}

function SideChoice({ title, side, runs, onChange }: { title: string; side: Side; runs: RunInfo[]; onChange: (text: string) => void }) {
  return (
    <span className="side-choice" role="group" aria-label={`Side ${title}`}>
      <b>{title}</b>
      {runs.length > 1 && (
        <select aria-label={`Run ${title}`} value={side.run?.key ?? ""} onChange={(e) => onChange(`${e.target.value}~`)}>
          {runs.map((r) => (
            <option key={r.key}>{r.key}</option>
          ))}
        </select>
      )}
      <select aria-label={`Scorer ${title}`} value={side.scorer} onChange={(e) => onChange(`${side.run?.key ?? ""}~${e.target.value}`)}>
        {side.index?.scorers.map((s) => <option key={s.scorer}>{s.scorer}</option>) ?? <option>{side.scorer}</option>}
      </select>
    </span>
  );
}

function Changes({ rows, a, b }: { rows: ReturnType<typeof compare>["both"]; a: Index; b: Index }) {
  const box = useRef<HTMLOListElement>(null);
  const [range, setRange] = useState<[number, number]>([0, 14]);
  const link = useNeuronLink();
  useEffect(() => {
    const look = () => {
      const top = -(box.current?.getBoundingClientRect().top ?? 0);
      setRange(visible({ columns: 1, rows: rows.length, pitch: PITCH }, top, window.innerHeight, 1));
    };
    look();
    window.addEventListener("scroll", look, { passive: true });
    window.addEventListener("resize", look);
    return () => {
      window.removeEventListener("scroll", look);
      window.removeEventListener("resize", look);
    };
  }, [rows.length]);
  if (!rows.length) return <p className="empty">No neuron to show.</p>;
  return (
    <ol ref={box} className="changes" style={{ height: rows.length * PITCH }}>
      {rows.slice(range[0], range[1]).map((c, i) => (
        <li key={`${c.a} ${c.b}`} style={{ transform: `translateY(${(range[0] + i) * PITCH}px)`, height: PITCH }}>
          {(
            [
              [a, c.a, c.labelA, c.scoreA, c.confidenceA],
              [b, c.b, c.labelB, c.scoreB, c.confidenceB],
            ] as const
          ).map(([index, row, label, score, confidence], k) => (
            <a key={k} className="change-side" href={link(index.neuron[row]!, index.key)}>
              <span className="strip">
                {index.positives.slice(row * index.shown, row * index.shown + 3).map((image, j) =>
                  image >= 0 ? <Picture key={j} image={image} alt="" run={index} /> : null,
                )}
              </span>
              <span className="change-words">
                <b>{label ?? "no label"}</b>
                <span className="soft">
                  <span className="mono">{index.name[row]}</span>
                  {confidence === null && ` · ${short(score)}`}
                </span>
                {confidence !== null && label !== null && <Confidence value={confidence} />}
              </span>
            </a>
          ))}
        </li>
      ))}
    </ol>
  );
}
