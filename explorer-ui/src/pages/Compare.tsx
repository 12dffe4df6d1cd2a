import { useEffect, useMemo, useState } from "react";
import { Changes } from "../parts/Changes";
import { Problem, Twin, Waiting, Words } from "../parts/Bits";
import { ABOUT, compare, KINDS, type Kind, openings } from "../logic/compare";
import { short } from "../logic/select";
import { source } from "../source";
import { indexOf, useLoaded, useParam, useRoute, useWorld } from "../state";
import type { Index, Matched, RunInfo } from "../types";

/** Two runs, or two scorers of one run, side by side: what changed, and why. */
export function Compare() {
  const { list, info, index } = useWorld();
  const runs = list.runs.filter((r) => r.problem === null);
  const choices = useMemo(() => openings(info, index, runs), [info, index, list]);
  const [skipped, setSkipped] = useState(0);
  const [first, second] = choices[Math.min(skipped, choices.length - 1)]!;
  const [a, setA] = useParam("a", first);
  const [b, setB] = useParam("b", second);
  const [all, setAll] = useParam("all");
  const [kind, setKind] = useParam("kind");
  const [q, setQ] = useParam("q");
  const { params } = useRoute();
  const left = useSide(a, runs);
  const right = useSide(b, runs);
  const matched = useMatched(left.run, right.run);
  const problem = matched.data?.problem ?? null;
  useEffect(() => {
    if (problem !== null && !params["a"] && !params["b"] && skipped < choices.length - 1) setSkipped(skipped + 1);
  }, [problem, params, skipped, choices]);
  const found = useMemo(
    () => (left.index && right.index && matched.ready ? compare(left.index, left.scorer, right.index, right.scorer, matched.data) : null),
    [left.index, left.scorer, right.index, right.scorer, matched.ready, matched.data],
  );
  const shown: Kind | null = all !== "" ? null : (KINDS.find((k) => k === kind) ?? (found && !found.counts.changed && found.pairs ? "same" : "changed"));
  const rows = useMemo(() => {
    const word = q.trim().toLowerCase();
    const words = (side: { label: string | null; row: number } | null, of: Index | null) => (side ? [side.label, of?.name[side.row]] : []);
    return (found?.rows ?? []).filter(
      (c) =>
        (shown === null || c.kind === shown) &&
        (word === "" || [...words(c.a, left.index), ...words(c.b, right.index)].some((t) => t?.toLowerCase().includes(word))),
    );
  }, [found, shown, q, left.index, right.index]);
  const choose = (wanted: Kind) => {
    setAll(shown === wanted ? "1" : "");
    setKind(wanted);
  };
  return (
    <div className="compare">
      <div className="title-line">
        <h1>Compare</h1>
        {left.run && right.run && <Twin path={twin(left, right, all !== "")} />}
      </div>
      <div className="toolbar">
        <SideChoice title="A" side={left} runs={runs} onChange={setA} />
        <span className="versus" aria-hidden="true">
          ↔
        </span>
        <SideChoice title="B" side={right} runs={runs} onChange={setB} />
        <input data-search type="search" className="find" placeholder="Label or name" aria-label="Filter by label or name" value={q} onChange={(e) => setQ(e.target.value)} />
      </div>
      {(left.error ?? right.error) && <Problem>{left.error ?? right.error}</Problem>}
      {!found && !left.error && !right.error && <Waiting>{matched.ready ? "Reading both sides…" : "Matching neurons…"}</Waiting>}
      {found && left.index && right.index && (
        <>
          <p className="verdict" role="status">
            <Verdict found={found} left={left} right={right} matched={matched.data} />
            {q !== "" && ` ${rows.length} shown.`}
          </p>
          {problem !== null && (
            <Problem title="Paired by number, which may be meaningless">
              {`${left.run?.key} and ${right.run?.key} are of different layers or networks, and their neurons cannot be matched: ${problem}`}
            </Problem>
          )}
          <div className="kinds" role="group" aria-label="Show">
            {KINDS.map((k) => found.counts[k] > 0 && (
              <button key={k} type="button" aria-pressed={shown === k} title={ABOUT[k]} onClick={() => choose(k)}>
                <b>{found.counts[k]}</b> {k}
              </button>
            ))}
            <span className="soft small">{shown === null ? "all neurons" : ABOUT[shown]}</span>
          </div>
          {matched.data?.notes.map((note) => (
            <p key={note} className="soft small">
              <Words>{note}</Words>
            </p>
          ))}
          <Changes rows={rows} a={left.index} b={right.index} scorerA={left.scorer} scorerB={right.scorer} sameImages={sameImages(left, right)} />
        </>
      )}
    </div>
  );
}

function Verdict({ found, left, right, matched }: { found: ReturnType<typeof compare>; left: Side; right: Side; matched: Matched | null }) {
  const { counts, pairs } = found;
  const share = pairs ? `${((100 * counts.same) / pairs).toFixed(1)} %` : "–";
  if (!matched || matched.by === "number")
    return (
      <>
        <strong>{share}</strong> the same label: {counts.same} of {pairs} neurons; {counts.changed} changed.
      </>
    );
  const where = matched.by === "activations" ? `activations on ${matched.images} shared images` : "their exemplars";
  return (
    <>
      <strong>{pairs}</strong> of {left.index!.neuron.length} neurons of {left.run!.key} are found again in {right.run!.key}, {counts.changed} with
      another label. Matched by {where}; a match is a correlation of at least {short(matched.threshold)}, which 95 % of null neurons do not reach.
    </>
  );
}

interface Side {
  run: RunInfo | null;
  scorer: string;
  index: Index | null;
  error: string | null;
}

function sameImages(a: Side, b: Side): boolean {
  const probe = a.run?.summary?.probe ?? null;
  return probe !== null && probe === b.run?.summary?.probe;
}

function twin(a: Side, b: Side, all: boolean): string {
  const query = new URLSearchParams({ a: a.run?.key ?? "", b: b.run?.key ?? "", scorer_a: a.scorer, scorer_b: b.scorer });
  if (all) query.set("changed", "false");
  return `api/compare?${query}`;
}

/** How the neurons of two runs pair; nothing is asked where both are one run. */
function useMatched(a: RunInfo | null, b: RunInfo | null): { ready: boolean; data: Matched | null } {
  const key = a && b && a.key !== b.key ? `${a.key} ${a.stamp} ${b.key} ${b.stamp}` : null;
  const { data, error } = useLoaded(key, () => source.match(a!.key, b!.key));
  return { ready: key === null || data !== null || error !== null, data };
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
