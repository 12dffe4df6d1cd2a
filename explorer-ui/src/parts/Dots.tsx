import { largest, MEASURES, signed, surest } from "../logic/audit";
import { short } from "../logic/select";
import type { Influenced } from "../logic/audit";

const share = (value: number) => `${(100 * Math.max(0, Math.min(1, value))).toFixed(2)}%`;

/** What a neuron adds to a class score, on a line with 0 in its middle: a mark for each way that it was measured. */
export function InfluenceDots({ values, most }: { values: Influenced; most: number }) {
  return (
    <span className="dots" aria-hidden="true">
      <i className="zero" />
      {[...MEASURES].reverse().map((by) => {
        const value = values[by];
        return value === null ? null : <i key={by} className={`mark ${by}`} style={{ left: share(0.5 + value / most / 2) }} />;
      })}
    </span>
  );
}

/** The same in words, for those who do not see the marks and for those who want the numbers. */
export function told(values: Influenced): string {
  return MEASURES.filter((by) => values[by] !== null)
    .map((by) => `${by} ${signed(values[by])}`)
    .join(", ");
}

/** What the marks mean. */
export function InfluenceKey() {
  return (
    <span className="dots-key">
      {MEASURES.map((by) => (
        <span key={by}>
          <span className="dots" aria-hidden="true">
            <i className={`mark ${by}`} />
          </span>
          {by === "head" ? "linear head" : by}
        </span>
      ))}
    </span>
  );
}

/** A score and that of a template with nothing in it, joined on one line. */
export function ScoreDots({ score, empty, low, high }: { score: number | null; empty: number | null; low: number; high: number }) {
  const at = (value: number) => (value - low) / (high - low);
  const both = score !== null && empty !== null;
  return (
    <span className="dots scored" aria-hidden="true">
      {both && (
        <i className="between" style={{ left: share(at(Math.min(score, empty))), width: share(at(Math.max(score, empty)) - at(Math.min(score, empty))) }} />
      )}
      {empty !== null && <i className="mark hollow" style={{ left: share(at(empty)) }} />}
      {score !== null && <i className="mark ablation" style={{ left: share(at(score)) }} />}
    </span>
  );
}

/** Influence on several classes, one line each. */
export function InfluenceList({ rows }: { rows: (Influenced & { name: string })[] }) {
  const most = largest(rows.flatMap((r) => MEASURES.map((by) => r[by])));
  return (
    <ol className="influences">
      {rows.map((r, i) => (
        <li key={`${i} ${r.name}`} title={told(r)}>
          <span className="concept">{r.name}</span>
          <InfluenceDots values={r} most={most} />
          <span className="number">{signed(surest(r)?.value ?? null)}</span>
          <span className="hidden">({told(r) || "not measured"})</span>
        </li>
      ))}
    </ol>
  );
}

/** "score .54, .24 for an empty template, false-discovery rate 4e-5, margin +2.1". */
export function evidence(figures: Record<string, number | null>): string {
  return `score ${short(figures["score"])}, ${short(figures["empty"])} with an empty template; false-discovery rate ${short(figures["fdr"])}, margin ${signed(figures["margin"] ?? null, 1)}`;
}
