import { useState } from "react";
import { groups, signed } from "../logic/audit";
import type { Audit, Pruned } from "../types";

const FIRST = 14;
const percent = (value: number | null) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
const points = (value: number | null) => signed(value === null ? null : 100 * value, 1);
const share = (value: number) => `${(100 * Math.max(0, Math.min(1, value))).toFixed(2)}%`;

/** Accuracy of each group before and after pruning, with the interval of the change, and pruning at random beside it. */
export function Pruning({ audit }: { audit: Audit }) {
  const [all, setAll] = useState(false);
  const rows = groups(audit);
  const labeled = (audit.manifest["labeled"] ?? {}) as Record<string, unknown>;
  const mode = rows[0]?.pruned.mode === "soft" ? "attenuated" : "ablated";
  if (!rows.length) return null;
  return (
    <section className="panel pruning" aria-labelledby="pruning-title">
      <h2 id="pruning-title">Effect of pruning</h2>
      <p className="soft">
        Accuracy on labeled images with the spurious neurons {mode}
        {typeof labeled["images"] === "number" && <>: {labeled["images"]} of {<span className="mono">{String(labeled["name"])}</span>}</>}
        {typeof labeled["probe_images"] === "number" && labeled["probe_images"] > 0 && <>, {labeled["probe_images"]} of them were used for the verdicts</>}
        . Before (ring) and after (dot), with the 95 % interval of the change in percentage points.
      </p>
      <ol className="prunings">
        <li className="scale" aria-hidden="true">
          <span />
          <span>
            <span>0 %</span>
            <span>50 %</span>
            <span>100 %</span>
          </span>
        </li>
        {rows.slice(0, all ? undefined : FIRST).map(({ group, pruned, random }) => (
          <li key={group}>
            <span className="group">
              <b>{group === "all" ? "all images" : group === "balanced" ? "mean of the classes" : group.replace("=", ": ")}</b>{" "}
              <span className="soft small">{pruned.images ?? "?"} images</span>
            </span>
            <span className="lanes" aria-hidden="true">
              <Lane row={pruned} />
              {random && <Lane row={random} random />}
            </span>
            <span className="numbers">
              <span>
                {percent(pruned.before)} → {percent(pruned.after)}
              </span>{" "}
              <Change row={pruned} />
              {random && (
                <span className="soft small">
                  {" "}
                  at random <Change row={random} />
                </span>
              )}
            </span>
          </li>
        ))}
      </ol>
      {rows.length > FIRST && (
        <button type="button" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? "Show the first groups only" : `Show all ${rows.length} groups`}
        </button>
      )}
    </section>
  );
}

function Change({ row }: { row: Pruned }) {
  return (
    <span className="change">
      {points(row.difference)} <span className="hidden">percentage points, 95 % interval </span>[{points(row.low)}, {points(row.high)}]
    </span>
  );
}

function Lane({ row, random = false }: { row: Pruned; random?: boolean }) {
  const { before, after, low, high } = row;
  if (before === null || after === null) return <span className="dots lane" />;
  const [left, right] = [Math.min(before, after), Math.max(before, after)];
  return (
    <span className={random ? "dots lane random" : `dots lane ${after < before ? "worse" : after > before ? "better" : ""}`}>
      {!random && <i className="between" style={{ left: share(left), width: share(right - left) }} />}
      {low !== null && high !== null && (
        <i className="whisker" style={{ left: share(before + low), width: share(Math.min(1, before + high) - Math.max(0, before + low)) }} />
      )}
      {!random && <i className="mark hollow" style={{ left: share(before) }} />}
      <i className={random ? "mark random" : "mark ablation"} style={{ left: share(after) }} />
    </span>
  );
}
