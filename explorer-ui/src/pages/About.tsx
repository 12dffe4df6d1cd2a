import { Title, Words } from "../parts/Bits";
import { Table } from "../parts/Figures";
import { Tree } from "../parts/Tree";
import { facts, made } from "../logic/about";
import { VERDICTS } from "../logic/audit";
import { format } from "../logic/route";
import { titled } from "../logic/select";
import { source } from "../source";
import { useLoaded, useWorld } from "../state";
import type { RunInfo } from "../types";

interface OpenApi {
  paths: Record<string, Record<string, { summary?: string }>>;
}

/** What the run is made of, what is known of it, what it lacks, and the JSON behind the pages. */
export function About() {
  const { info, list, index } = useWorld();
  const why = source.live ? list.encoder : "this is an export";
  const missing = [...(why ? [{ what: "search by words or by a picture", why }] : []), ...info.missing];
  return (
    <div className="about">
      <Title twin="api/runs">{info.title}</Title>
      <p className="lead">{made(info, index.neuron.length)}</p>
      <Facts info={info} scorers={index.scorers.map((s) => s.scorer)} primary={index.primary} />
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
      {info.audit && (
        <section>
          <h2>Audit</h2>
          <p>
            Audited against {info.audit.concepts}: {VERDICTS.map((v) => `${info.audit!.counts[v] ?? 0} ${v}`).join(", ")} neurons.{" "}
            <a href={format({ run: info.key, page: "audit" })}>To the audit</a>
          </p>
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
      {missing.length > 0 && (
        <section>
          <h2>What you can add</h2>
          <ul>
            {missing.map((m) => (
              <li key={m.what}>
                <b>{m.what}</b>: <Words>{m.why}</Words>
              </li>
            ))}
          </ul>
        </section>
      )}
      <details className="provenance">
        <summary>The complete manifest</summary>
        <Tree value={info.manifest ?? {}} />
      </details>
      {source.live && <Api run={info.key} />}
      <p className="soft small">Shown by contralens {list.version}.</p>
    </div>
  );
}

/** What the labels were made of, a line each. */
function Facts({ info, scorers, primary }: { info: RunInfo; scorers: string[]; primary: string }) {
  const others = scorers.filter((s) => s !== primary);
  return (
    <section aria-labelledby="made-title">
      <h2 id="made-title">How the labels were made</h2>
      <dl className="facts">
        {facts(info.manifest ?? {}).map(([name, value, more]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              <b>{value}</b>
              {more && <span className="soft"> {more}</span>}
            </dd>
          </div>
        ))}
        <div>
          <dt>Scorer</dt>
          <dd>
            <b>{primary}</b>
            {others.length > 0 && <span className="soft"> next to {others.join(", ")}</span>}
          </dd>
        </div>
      </dl>
    </section>
  );
}

const TITLES: Record<string, string> = { mean: "Mean", low: "95 % from", high: "to" };

function Api({ run }: { run: string }) {
  const api = useLoaded("openapi", async () => (await (await fetch("openapi.json")).json()) as OpenApi);
  if (!api.data) return null;
  return (
    <details className="provenance">
      <summary>The same as JSON, for programs</summary>
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
    </details>
  );
}
