import { useDeferredValue, useEffect, useMemo, useState } from "react";
import { ScorerChoice, Twin, Words } from "../parts/Bits";
import { Grid } from "../parts/Grid";
import { RangeHistogram } from "../parts/Histogram";
import { inside, parseLasso } from "../logic/lasso";
import { format } from "../logic/route";
import {
  ALWAYS_ON, bins, column, columns, formatRanges, MEANING, OUTCOMES, outcomeCounts, parseRanges, scorerOf, select, titled, wordCounts,
} from "../logic/select"; // prettier-ignore
import { WORDS, wordLimits } from "../logic/confidence";
import { hash, setParams, useKeys, useParam, usePlane, useWorld } from "../state";

/** What the overview was last showing, for the way back from a neuron and its ← →. */
export const trail = { run: "", neurons: [] as number[], hash: "", scroll: 0, at: 0 };

export function Overview() {
  const { index, noted, info, list } = useWorld();
  const [scorerName, setScorer] = useParam("scorer", index.primary);
  const scorer = scorerOf(index, scorerName).scorer;
  const [q, setQ] = useParam("q");
  const [status, setStatus] = useParam("status");
  const [sort] = useParam("sort", "neuron");
  const [direction, setDirection] = useParam("dir", defaultDirection(sort));
  const [within, setWithin] = useParam("within");
  const [side, setSide] = useParam("side", "positives");
  const [panel, setPanel] = useParam("panel");
  const [lasso, setLasso] = useParam("lasso");
  const [open, setOpen] = useState(false); // what a phone has no room for at first
  const ranges = useMemo(() => parseRanges(within), [within]);
  const only = useLasso(lasso);
  const slow = useDeferredValue(q);
  const rows = useMemo(
    () =>
      select(
        index,
        { scorer, q: slow, status, sort, descending: direction === "down", ranges, ...(only ? { only } : {}) },
        noted,
      ),
    [index, scorer, slow, status, sort, direction, ranges, only, noted],
  );
  const start = useMemo(() => Math.max(0, back(info.key) ? rows.indexOf(index.neuron.indexOf(trail.at)) : 0), []);
  useEffect(() => {
    trail.run = info.key;
    trail.neurons = rows.map((r) => index.neuron[r]!);
    trail.hash = hash();
  });
  useEffect(() => {
    if (back(info.key)) window.scrollTo(0, trail.scroll);
    const keep = () => {
      trail.scroll = window.scrollY;
    };
    window.addEventListener("scroll", keep, { passive: true });
    return () => window.removeEventListener("scroll", keep);
  }, []);
  useKeys((e) => {
    if (e.key === "c") setSide(side === "positives" ? "contrasts" : "positives");
  });

  const filtered = q !== "" || status !== "" || within !== "" || lasso !== "";
  const counts = useMemo(() => statusCounts(index.status, index.statuses.length), [index]);
  const sure = useMemo(() => wordCounts(index, scorer), [index, scorer]);
  const tested = useMemo(() => outcomeCounts(index, scorer), [index, scorer]);
  const rate = index.columns["firing_rate"];
  const always = useMemo(() => rate?.filter((v) => v !== null && v > ALWAYS_ON).length ?? 0, [rate]);
  return (
    <div className="overview">
      <h1 className="hidden">Neurons of {info.title}</h1>
      <div className={open ? "toolbar open" : "toolbar"} role="search">
        <input
          data-search
          type="search"
          className="find"
          placeholder="Label, neuron name or #tag"
          aria-label="Filter by label, neuron name or #tag"
          value={q}
          onChange={(e) => setQ(e.target.value)}
        />
        <button type="button" className="only-narrow" aria-expanded={open} onClick={() => setOpen(!open)}>
          Sort, filter
        </button>
        <ScorerChoice scorer={scorer} onChoose={setScorer} />
        <label>
          Sort{" "}
          <select value={sort} onChange={(e) => setParams({ sort: e.target.value === "neuron" ? "" : e.target.value, dir: "" })}>
            {["neuron", "name", "label", ...columns(index)].map((c) => (
              <option key={c} value={c}>
                {titled(c)}
              </option>
            ))}
          </select>
        </label>
        <button
          type="button"
          className="icon"
          onClick={() => setDirection(direction === "down" ? "up" : "down")}
          aria-label={direction === "down" ? "Falling; sort rising" : "Rising; sort falling"}
        >
          {direction === "down" ? "↓" : "↑"}
        </button>
        <label>
          Show{" "}
          <select value={status} onChange={(e) => setStatus(e.target.value)}>
            <option value="">all {index.neuron.length}</option>
            {index.statuses.map((s, i) => (
              <option key={s} value={s}>
                {s} ({counts[i]})
              </option>
            ))}
            {WORDS.map(([word], i) => sure[i]! > 0 && <option key={word} value={word}>{word} labels ({sure[i]})</option>)}
            {OUTCOMES.map((word, i) => tested[i]! > 0 && <option key={word} value={word}>{word} by experiment ({tested[i]})</option>)}
            {always > 0 && <option value="always">always on ({always})</option>}
            {noted.size > 0 && <option value="noted">with notes ({noted.size})</option>}
          </select>
        </label>
        <span className="pair-switch" role="group" aria-label="Pictures">
          <button type="button" className="pos" aria-pressed={side === "positives"} onClick={() => setSide("positives")}>
            Positives
          </button>
          <button type="button" className="con" aria-pressed={side === "contrasts"} onClick={() => setSide("contrasts")}>
            Contrasts
          </button>
        </span>
      </div>
      <div className="count">
      <span role="status">
        {filtered ? (
          <>
            {rows.length} of {index.neuron.length} neurons{" "}
            {lasso !== "" && <span className="badge">lasso</span>}{" "}
            <button
              type="button"
              className="plain"
              onClick={() => {
                setLasso("");
                setParams({ q: "", status: "", within: "", lasso: "", by: "" });
              }}
            >
              show all
            </button>
          </>
        ) : (
          <>
            {index.neuron.length} neurons, labels by {scorer}
            {list.runs.length > 1 ? ` in ${info.key}` : ""}
          </>
        )}
      </span>
        <span className="actions">
          <Twin path={twin(info.key, { scorer, q, status, sort, direction, within })} />
          <button type="button" aria-expanded={panel === "open"} onClick={() => setPanel(panel === "open" ? "" : "open")}>
            Distributions
          </button>
        </span>
      </div>
      {info.remarks.length > 0 && (
        <p className="soft remark">
          <Words>{info.remarks[0]!}</Words>
          {info.remarks.length > 1 && (
            <>
              {" "}
              <a href={format({ run: info.key, page: "about" })}>{info.remarks.length - 1} more to know</a>
            </>
          )}
        </p>
      )}
      {panel === "open" && (
        <div className="ranges" role="group" aria-label="Distributions" tabIndex={0}>
          {columns(index).map((name) => {
            const values = column(index, scorer, name)!;
            const all = bins(values, null);
            if (!all) return null;
            return (
              <RangeHistogram
                key={name}
                title={titled(name)}
                about={MEANING[name]}
                all={all}
                shown={filtered ? sameBins(values, rows, all.low, all.high, all.counts.length) : null}
                range={ranges[name] ?? [null, null]}
                onRange={(range) => setWithin(formatRanges({ ...ranges, [name]: range }))}
              />
            );
          })}
        </div>
      )}
      {rows.length === 0 && <p className="empty">No neuron matches. {q && "Search by meaning is on the Search page."}</p>}
      <Grid
        index={index}
        rows={rows}
        scorer={scorer}
        side={side === "contrasts" ? "contrasts" : "positives"}
        notes={noted}
        label="Neurons"
        start={start}
      />
    </div>
  );
}

const RISING = ["neuron", "name", "label", "fdr"];

function defaultDirection(sort: string): string {
  return RISING.includes(sort) ? "up" : "down";
}

/** The same neurons as JSON; notes and the lasso are the page's own. */
function twin(run: string, s: Record<"scorer" | "q" | "status" | "sort" | "direction" | "within", string>): string {
  const limits = wordLimits(s.status);
  const query = new URLSearchParams({ scorer: s.scorer, sort: s.sort });
  if (s.direction === "down") query.set("descending", "true");
  if (s.q && !s.q.startsWith("#")) query.set("q", s.q);
  for (const range of s.within.split(",").filter(Boolean)) query.append("within", range);
  if (s.status === "always") query.append("within", `firing_rate:${ALWAYS_ON}:`);
  else if (OUTCOMES.includes(s.status)) query.set("verified", s.status);
  else if (limits) query.append("within", `confidence:${limits[0]}:${limits[1] === Infinity ? "" : limits[1] - 1e-9}`);
  else if (s.status && s.status !== "noted") query.set("status", s.status);
  return `api/runs/${encodeURIComponent(run)}/neurons?${query}`;
}

function back(run: string): boolean {
  return trail.run === run && trail.hash === hash();
}

function statusCounts(status: number[], kinds: number): number[] {
  const out = new Array<number>(kinds).fill(0);
  for (const s of status) out[s]! += 1;
  return out;
}

function sameBins(values: (number | null)[], rows: number[], low: number, high: number, count: number) {
  const counts = new Array<number>(count).fill(0);
  for (const r of rows) {
    const v = values[r];
    if (v === null || v === undefined) continue;
    counts[Math.min(count - 1, Math.floor(((v - low) / (high - low)) * count))]! += 1;
  }
  return { low, high, counts };
}

/** Rows of the index whose point lies in the lasso of the URL; null while there is none. */
function useLasso(text: string): Set<number> | null {
  const { index } = useWorld();
  const plane = usePlane(text !== "");
  return useMemo(() => {
    const polygon = parseLasso(text);
    if (!polygon.length || !plane.data) return null;
    const row = new Map(index.neuron.map((n, i) => [n, i]));
    const { x, y, neuron } = plane.data;
    const kept = neuron.filter((_, i) => inside([x[i]!, y[i]!], polygon)).map((n) => row.get(n)!);
    return new Set(kept);
  }, [text, plane.data, index]);
}
