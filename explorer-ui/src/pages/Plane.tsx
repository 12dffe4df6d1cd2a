import { useMemo } from "react";
import { Grid } from "../parts/Grid";
import { Problem, ScorerChoice, Title, Waiting } from "../parts/Bits";
import { Scatter } from "../parts/Scatter";
import { formatLasso, inside, parseLasso } from "../logic/lasso";
import { format } from "../logic/route";
import { column, columns, scorerOf, titled } from "../logic/select";
import { setParams, useParam, usePlane, useWorld } from "../state";

/** Neurons as points: those with similar concept vectors lie close together. */
export function Plane() {
  const { info, index, noted } = useWorld();
  const plane = usePlane(true);
  const [by] = useParam("by");
  const [scorerName, setScorer] = useParam("scorer", index.primary);
  const scorer = scorerOf(index, scorerName).scorer;
  const [tone, setTone] = useParam("colour", "score");
  const [lasso, setLasso] = useParam("lasso");
  const polygon = useMemo(() => parseLasso(lasso), [lasso]);
  const rowOf = useMemo(() => new Map(index.neuron.map((n, i) => [n, i])), [index]);
  const points = useMemo(
    () => plane.data?.neuron.map((n, i) => ({ row: rowOf.get(n) ?? -1, x: plane.data!.x[i]!, y: plane.data!.y[i]! })).filter((p) => p.row >= 0) ?? [],
    [plane.data, rowOf],
  );
  const chosen = useMemo(
    () => (polygon.length ? points.filter((p) => inside([p.x, p.y], polygon)).map((p) => p.row) : []),
    [points, polygon],
  );
  if (plane.error) return <Problem title="This run has no map">{plane.error}</Problem>;
  if (!plane.data) return <Waiting>Drawing the map…</Waiting>;
  const values = column(index, scorer, tone) ?? scorerOf(index, scorer).score;
  const { method, methods, gamma, explained } = plane.data;
  return (
    <div className="plane">
      <Title twin={`api/runs/${encodeURIComponent(info.key)}/map`}>Map of concept vectors</Title>
      <p className="lead">
        {about(method, gamma, explained)}. Zoom in for more pictures; draw a line around points to see their neurons below.
      </p>
      <div className="toolbar">
        {methods.length > 1 && (
          <label>
            Laid out by{" "}
            <select value={method} onChange={(e) => setParams({ by: e.target.value === methods[0] ? "" : e.target.value, lasso: "" })}>
              {methods.map((m) => (
                <option key={m} value={m}>
                  {m.toUpperCase()}
                </option>
              ))}
            </select>
          </label>
        )}
        <label>
          Colour{" "}
          <select value={tone} onChange={(e) => setTone(e.target.value)}>
            {columns(index).map((c) => (
              <option key={c} value={c}>
                {titled(c)}
              </option>
            ))}
          </select>
        </label>
        <ScorerChoice scorer={scorer} onChoose={setScorer} />
        {polygon.length > 0 && (
          <>
            <button type="button" onClick={() => setLasso("")}>
              Clear the lasso
            </button>
            <a className="button" href={format({ run: info.key, page: "neurons", params: { lasso, by } })}>
              Open {chosen.length} in the grid
            </a>
          </>
        )}
      </div>
      <Scatter points={points} values={values} polygon={polygon} scorer={scorer} name={titled(tone)} onLasso={(p) => setLasso(formatLasso(p))} />
      {polygon.length > 0 && (
        <section>
          <h2>
            {chosen.length} neuron{chosen.length === 1 ? "" : "s"} in the lasso
          </h2>
          <Grid index={index} rows={chosen} scorer={scorer} side="positives" notes={noted} label="Neurons in the lasso" />
        </section>
      )}
    </div>
  );
}

function about(method: string, gamma: number, explained: number[] | null): string {
  const what = `concept vectors at gamma ${gamma}`;
  if (method === "umap") return `UMAP of ${what}: close neurons are similar; distances between groups mean little`;
  const share = (explained ?? []).map((e) => `${(100 * e).toFixed(0)} %`).join(" and ");
  return `The two main components of ${what} explain ${share} of the variance`;
}
