import { Title, Words } from "../parts/Bits";
import { Table } from "../parts/Figures";
import { Tree } from "../parts/Tree";
import { VERDICTS } from "../logic/audit";
import { format } from "../logic/route";
import { titled } from "../logic/select";
import { source } from "../source";
import { useLoaded, useWorld } from "../state";

interface OpenApi {
  paths: Record<string, Record<string, { summary?: string }>>;
}

/** What the run was made with, what it lacks, and the JSON behind the pages. */
export function About() {
  const { info, list, index } = useWorld();
  const why = source.live ? list.encoder : "this is an export";
  return (
    <div className="about">
      <Title twin="api/runs">{info.title}</Title>
      <p className="lead">
        {index.neuron.length} neurons, labels by {index.scorers.map((s) => s.scorer).join(", ")}. Shown by contralens {list.version}.
      </p>
      {(info.missing.length > 0 || why) && (
        <section>
          <h2>What is missing</h2>
          <ul>
            {why && (
              <li>
                <b>search by words or by a picture</b>: <Words>{why}</Words>
              </li>
            )}
            {info.missing.map((m) => (
              <li key={m.what}>
                <b>{m.what}</b>: <Words>{m.why}</Words>
              </li>
            ))}
          </ul>
        </section>
      )}
      {info.remarks.length > 0 && (
        <section>
          <h2>What to know</h2>
          <ul>
            {info.remarks.map((remark) => (
              <li key={remark}>
                <Words>{remark}</Words>
              </li>
            ))}
          </ul>
        </section>
      )}
      {info.evaluation.length > 0 && (
        <section className="panel">
          <h2>Evaluation: means over the neurons</h2>
          <Table
            rows={info.evaluation}
            columns={Object.keys(info.evaluation[0]!).map((key) => [key, TITLES[key] ?? titled(key)])}
            label="Evaluation: means over the neurons"
          />
        </section>
      )}
      {info.audit && (
        <section>
          <h2>Audit</h2>
          <p>
            Audited against {info.audit.concepts}: {VERDICTS.map((v) => `${info.audit!.counts[v] ?? 0} ${v}`).join(", ")} neurons.{" "}
            <a href={format({ run: info.key, page: "audit" })}>To the audit</a>
          </p>
        </section>
      )}
      <section>
        <h2>How the labels were made</h2>
        <Tree value={info.manifest ?? {}} />
      </section>
      {source.live && <Api run={info.key} />}
    </div>
  );
}

const TITLES: Record<string, string> = { mean: "Mean", low: "95 % from", high: "to" };

function Api({ run }: { run: string }) {
  const api = useLoaded("openapi", async () => (await (await fetch("openapi.json")).json()) as OpenApi);
  if (!api.data) return null;
  return (
    <section>
      <h2>The same as JSON</h2>
      <p>
        Every page has a JSON twin; <a href="openapi.json">openapi.json</a> describes them all.
      </p>
      <dl className="api">
        {Object.entries(api.data.paths).flatMap(([path, methods]) =>
          Object.entries(methods).map(([method, about]) => {
            const filled = path.replace("{run}", encodeURIComponent(run));
            return (
              <div key={`${method} ${path}`}>
                <dt>
                  <code>{method.toUpperCase()}</code>{" "}
                  {method === "get" && !filled.includes("{") && !/search|compare|pictures/.test(filled) ? (
                    <a href={filled.slice(1)}>{filled}</a>
                  ) : (
                    <code>{filled}</code>
                  )}
                </dt>
                <dd>{about.summary}</dd>
              </div>
            );
          }),
        )}
      </dl>
    </section>
  );
}
