import { short } from "../logic/select";
import type { Fed } from "../types";
import { Bar } from "./Bits";

/** What the neuron does to the network's classes through its linear head: those it raises, those it lowers. */
export function Classes({ classes }: { classes: Fed[] }) {
  const most = Math.max(1e-9, ...classes.map((c) => Math.abs(c.weight ?? 0)));
  const sides = [
    ["Raises", "pos", classes.filter((c) => (c.weight ?? 0) > 0)],
    ["Lowers", "con", classes.filter((c) => (c.weight ?? 0) < 0).reverse()],
  ] as const;
  return (
    <section className="panel" aria-labelledby="classes-title">
      <h2 id="classes-title">Classes it feeds</h2>
      <div className="label-columns">
        {sides.map(([title, tone, rows]) => (
          <div key={title}>
            <h3>{title}</h3>
            {rows.length === 0 && <p className="soft">none</p>}
            <ol className="concepts">
              {rows.map((c, i) => (
                <li key={`${i} ${c.name}`} title={c.adds === null ? undefined : `${short(c.adds)} to the class score on its exemplars`}>
                  <span className="concept">{c.name}</span>
                  <Bar value={Math.abs(c.weight ?? 0)} most={most} tone={tone} />
                  <span className="number">{short(c.weight)}</span>
                </li>
              ))}
            </ol>
          </div>
        ))}
      </div>
      <p className="soft small">Weights of the linear layer from the neurons to the classes.</p>
    </section>
  );
}
