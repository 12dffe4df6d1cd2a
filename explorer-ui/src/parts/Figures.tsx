import { MEANING, short, titled } from "../logic/select";
import type { Detail, HistogramData, Plain } from "../types";

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
          <dd>{name === "firing_rate" && value !== null ? `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %` : short(value)}</dd>
        </div>
      ))}
    </dl>
  );
}

/** Evaluation figures: a value and, where there is one, its interval. */
export function Evaluation({ rows }: { rows: Plain[] }) {
  return (
    <section className="panel" aria-labelledby="evaluation-title">
      <h2 id="evaluation-title">Evaluation</h2>
      <table>
        <thead>
          <tr>
            <th>Scorer</th>
            <th>Metric</th>
            <th>Value</th>
            <th>Interval</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((r, i) => (
            <tr key={i}>
              <td>{r["scorer"]}</td>
              <td>{r["metric"]}</td>
              <td className="number">{number(r["value"])}</td>
              <td className="number soft">
                {typeof r["low"] === "number" && typeof r["high"] === "number" ? `${short(r["low"])} – ${short(r["high"])}` : "–"}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** A table of whatever the run recorded: candidates with their sources, classes that the neuron feeds. */
export function Records({ title, rows, empty }: { title: string; rows: Plain[]; empty: string }) {
  const columns = Object.keys(rows[0] ?? {});
  return (
    <section className="panel">
      <h2>{title}</h2>
      {rows.length === 0 ? (
        <p className="soft">{empty}</p>
      ) : (
        <div className="scroll" tabIndex={0} role="group" aria-label={title}>
          <table>
            <thead>
              <tr>
                {columns.map((c) => (
                  <th key={c}>{titled(c)}</th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows.map((r, i) => (
                <tr key={i}>
                  {columns.map((c) => (
                    <td key={c} className={typeof r[c] === "number" ? "number" : ""}>
                      {number(r[c])}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function number(value: Plain[string] | undefined): string {
  if (typeof value === "number") return short(value);
  return value === null || value === undefined ? "–" : String(value);
}
