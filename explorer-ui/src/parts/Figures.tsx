import { MEANING, short, titled, wordFor } from "../logic/select";
import type { Detail, Evaluated, Histogram as HistogramData, Plain } from "../types";

/** How often each activation occurs, with the mean: contrasts come from the left of it. */
export function ActivationHistogram({ data, mean }: { data: HistogramData; mean: number | null }) {
  const W = 520;
  const H = 110;
  const low = data.edges[0]!;
  const high = data.edges[data.edges.length - 1]!;
  const most = Math.log1p(Math.max(...data.counts, 1));
  const w = W / data.counts.length;
  const at = mean === null || high <= low ? null : ((mean - low) / (high - low)) * W;
  const total = data.counts.reduce((a, b) => a + b, 0);
  return (
    <section className="panel" aria-labelledby="histogram-title">
      <h2 id="histogram-title">Activations</h2>
      <svg className="histogram" viewBox={`0 0 ${W} ${H}`} preserveAspectRatio="none" role="img" aria-label={`Activations of ${total} images from ${short(low)} to ${short(high)}, mean ${short(mean)}`}>
        {data.counts.map((count, i) => {
          const h = (Math.log1p(count) / most) * (H - 6);
          const below = at !== null && (i + 0.5) * w < at;
          return <rect key={i} x={i * w + 0.6} width={w - 1.2} y={H - h} height={h} className={below ? "below" : "above"} />;
        })}
        {at !== null && <line className="mean" x1={at} x2={at} y1={0} y2={H} />}
      </svg>
      <p className="axis">
        <span>{short(low)}</span>
        <span>mean {short(mean)}: contrasts lie below</span>
        <span>{short(high)}</span>
      </p>
      <p className="soft small">{total} images; heights are logarithmic.</p>
    </section>
  );
}

export function FigureList({ figures }: { figures: Detail["figures"] }) {
  return (
    <dl className="figures">
      {Object.entries(figures).map(([name, value]) => (
        <div key={name} title={MEANING[name]}>
          <dt>{titled(name)}</dt>
          <dd>{short(value)}</dd>
        </div>
      ))}
    </dl>
  );
}

/** The figures that matter first, each with a word for it; the others folded away. The axis of the histogram has the activations. */
export function NeuronFigures({ figures, scorers, confident }: { figures: Detail["figures"]; scorers: number; confident: boolean }) {
  const known = Object.entries(figures).filter(([name, value]) => value !== null && !ELSEWHERE.has(name) && !(confident && name === "score"));
  const first = known.filter(([name]) => name === "firing_rate" || name === "clarity" || name === "agreement" || name === "score");
  const rest = known.filter((entry) => !first.includes(entry));
  return (
    <div className="weighed">
      <dl className="figures">
        {first.map(([name, value]) => (
          <div key={name} title={MEANING[name]}>
            <dt>{titled(name)}</dt>
            <dd>
              {figure(name, value!, scorers)} <span className="word">{wordFor(name, value!)}</span>
            </dd>
          </div>
        ))}
      </dl>
      {rest.length > 0 && (
        <details className="more-figures">
          <summary>
            {rest.length} more {rest.length === 1 ? "figure" : "figures"}
          </summary>
          <dl className="figures small">
            {rest.map(([name, value]) => (
              <div key={name} title={MEANING[name]}>
                <dt>{titled(name)}</dt>
                <dd>{short(value)}</dd>
              </div>
            ))}
          </dl>
        </details>
      )}
    </div>
  );
}

/** Shown by the histogram, the confidence line, the null test and the experiments; the score by the labels. */
const ELSEWHERE = new Set(["minimum", "maximum", "mean", "confidence", "fdr", "removal", "insertion"]);

function figure(name: string, value: number, scorers: number): string {
  if (name === "firing_rate") return `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;
  if (name === "agreement" && scorers > 1) return `${Math.round(value * scorers)} of ${scorers}`;
  return short(value);
}

/** What an evaluation measured of each label, beside the mean of all labels of that scorer and its interval. */
export function Evaluation({ data, primary }: { data: Evaluated; primary: string }) {
  const first = (a: unknown, b: unknown) => Number(b === primary) - Number(a === primary);
  const verdicts = data.verdicts
    .filter((v) => verdict(v))
    .sort((a, b) => first(a["scorer"], b["scorer"]));
  const values = data.values;
  const others = [...new Set(values.map((r) => r.scorer))].filter((scorer) => scorer !== primary);
  return (
    <section className="panel" aria-labelledby="evaluation-title">
      <h2 id="evaluation-title">Evaluation</h2>
      {verdicts.map((v, i) => (
        <p key={i}>
          <span className="mono">{String(v["scorer"])}</span>: {verdict(v)}
        </p>
      ))}
      {values.length > 0 && <Measures rows={values.filter((r) => r.scorer === primary)} />}
      {others.length > 0 && (
        <details className="other-scorers">
          <summary>The labels of {others.length} other {others.length === 1 ? "scorer" : "scorers"}</summary>
          {others.map((scorer) => (
            <div key={scorer}>
              <h3 className="mono">{scorer}</h3>
              <Measures rows={values.filter((r) => r.scorer === scorer)} />
            </div>
          ))}
        </details>
      )}
    </section>
  );
}

/** A label's own values, each beside the mean of all labels of its scorer. */
function Measures({ rows }: { rows: Evaluated["values"] }) {
  if (!rows.length) return null;
  return (
    <table className="measures">
      <thead>
        <tr>
          <th>Metric</th>
          <th className="number">This label</th>
          <th className="number">Mean of all [95 %]</th>
        </tr>
      </thead>
      <tbody>
        {rows.map((r) => (
          <tr key={r.metric}>
            <td title={MEANING[r.metric]}>{titled(r.metric)}</td>
            <td className="number">{short(r.value)}</td>
            <td className="number soft">{r.mean === null ? "–" : `${short(r.mean)} [${short(r.low)}, ${short(r.high)}]`}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** What the labels panel doesn't say of it already. */
function verdict(v: Evaluated["verdicts"][number]): string {
  const out: string[] = [];
  if (Array.isArray(v["label_set"]) && v["label_set"].length > 0) {
    const shares = Array.isArray(v["set_shares"]) ? v["set_shares"] : [];
    const each = v["label_set"].map((l, i) => `${l}${typeof shares[i] === "number" ? ` ${Math.round(100 * shares[i])} %` : ""}`);
    out.push(`on resampled images ${each.slice(0, 5).join(", ")}`);
  }
  return out.join("; ");
}

/** Rows of what a run recorded, in a box that scrolls. */
export function Table({ rows, columns, label, strong }: TableProps) {
  return (
    <div className="scroll" tabIndex={0} role="group" aria-label={label}>
      <table>
        <thead>
          <tr>
            {columns.map(([key, title]) => (
              <th key={key} className={typeof rows[0]?.[key] === "number" ? "number" : ""}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((r, i) => (
            <tr key={i} className={strong?.(r) ? "strong" : undefined}>
              {columns.map(([key]) => (
                <td key={key} className={typeof r[key] === "number" ? "number" : ""}>
                  {number(r[key])}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

interface TableProps {
  rows: Plain[];
  /** Key and title of each. */
  columns: [string, string][];
  label: string;
  strong?: (row: Plain) => boolean;
}

function number(value: Plain[string] | undefined): string {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : short(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return value === null || value === undefined ? "–" : String(value);
}
