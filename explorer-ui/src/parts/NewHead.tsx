import { signed } from "../logic/audit";
import type { Audit } from "../types";

const percent = (value: number | null) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
const points = (value: number | null) => signed(value === null ? null : 100 * value, 1);

/** Accuracy on held-out images of the network, pruned, with a new head, and with a new head on all neurons. */
export function NewHeadTable({ audit }: { audit: Audit }) {
  const about = (audit.manifest["new_head"] ?? {}) as Record<string, unknown>;
  if (!audit.new_head.length) return null;
  return (
    <section className="panel" aria-labelledby="new-head-title">
      <h2 id="new-head-title">Effect of a new head</h2>
      <p className="soft">
        A linear head without the {String(about["left_out"] ?? "?")} spurious neurons, fitted on {String(about["fitted_on"] ?? "?")} labeled images and
        measured on {String(about["held_out"] ?? "?")} others.
      </p>
      <div className="scroll">
        <table>
          <thead>
            <tr>
              <th>group</th>
              {["images", "before", "pruned", "new head", "on all neurons", "new head − before, points"].map((name) => (
                <th key={name} className="number">{name}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {audit.new_head.map((row) => (
              <tr key={row.group}>
                <td>{row.group}</td>
                <td className="number">{row.images ?? "?"}</td>
                {([row.before, row.pruned, row.after, row.all_neurons] as const).map((value, i) => (
                  <td key={i} className="number">{percent(value)}</td>
                ))}
                <td className="number">
                  {points(row.difference)} [{points(row.low)}, {points(row.high)}]
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
