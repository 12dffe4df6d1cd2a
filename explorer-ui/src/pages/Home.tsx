import { Confidence, Words } from "../parts/Bits";
import { Picture } from "../parts/Picture";
import { VERDICTS } from "../logic/audit";
import { networks, openingPair, total } from "../logic/home";
import { format } from "../logic/route";
import { WORDS } from "../logic/confidence";
import { OUTCOMES } from "../logic/select";
import type { Highlight, RunInfo, RunList, Summary } from "../types";

/** Several runs at a glance: by network, each with a few neurons, how sure its labels are and what was found. */
export function Home({ list }: { list: RunList }) {
  const groups = networks(list.runs);
  const broken = list.runs.filter((r) => r.problem !== null);
  const pair = openingPair(list.runs);
  return (
    <div className="home">
      <h1>{total(list.runs)}</h1>
      <p className="lead">
        Open a run to see what its neurons respond to.
        {pair && (
          <>
            {" "}
            <a href={format({ run: pair[0], page: "compare", params: { a: `${pair[0]}~`, b: `${pair[1]}~` } })}>
              Compare {pair[0]} with {pair[1]}
            </a>
            , or <a href={format({ run: pair[0], page: "layers" })}>search all of them at once</a>.
          </>
        )}
      </p>
      {groups.map(([network, runs]) => (
        <section key={network} aria-label={network}>
          <h2>
            {network} <span className="soft small">{runs.length === 1 ? "one run" : `${runs.length} runs`}</span>
          </h2>
          <ul className="runs">
            {runs.map((run) => (
              <RunCard key={run.key} run={run} summary={run.summary!} />
            ))}
          </ul>
        </section>
      ))}
      {broken.length > 0 && (
        <section aria-label="Runs that cannot be read">
          <h2>Cannot be read now</h2>
          <ul>
            {broken.map((run) => (
              <li key={run.key}>
                <a href={format({ run: run.key, page: "neurons" })}>{run.key}</a>: <Words>{run.problem ?? ""}</Words>
              </li>
            ))}
          </ul>
        </section>
      )}
    </div>
  );
}

function RunCard({ run, summary }: { run: RunInfo; summary: Summary }) {
  return (
    <li className="run-card">
      <div className="run-head">
        <h3>
          <a href={format({ run: run.key, page: "neurons", ...(Object.keys(summary.words).length ? { params: { sort: "confidence" } } : {}) })}>
            {summary.layer ?? run.title}
          </a>
        </h3>
        <span className="soft">
          <span className="mono">{run.key}</span> · {summary.neurons.toLocaleString("en")} neurons
          {summary.images !== null && <>, {summary.images.toLocaleString("en")} images</>}
        </span>
      </div>
      <ul className="highlights">
        {summary.highlights.map((h) => (
          <Tile key={h.neuron} run={run} neuron={h} />
        ))}
      </ul>
      <Sure words={summary.words} labeled={summary.labeled} />
      <p className="run-facts">
        {summary.changed !== null && (
          <span>
            contrast changed <b>{summary.changed}</b> of {summary.labeled} labels
          </span>
        )}
        {OUTCOMES.some((word) => summary.verified[word]) && (
          <span>
            experiments: <b>{summary.verified["verified"] ?? 0}</b> verified, {summary.verified["refuted"] ?? 0} refuted
          </span>
        )}
        {run.audit && (
          <a href={format({ run: run.key, page: "audit" })}>
            audit: {VERDICTS.slice(0, 2).map((v) => `${run.audit!.counts[v] ?? 0} ${v}`).join(", ")}
          </a>
        )}
        <a href={format({ run: run.key, page: "map" })}>map</a>
        {run.notes > 0 && <a href={format({ run: run.key, page: "notes" })}>{run.notes === 1 ? "one note" : `${run.notes} notes`}</a>}
      </p>
    </li>
  );
}

function Tile({ run, neuron }: { run: RunInfo; neuron: Highlight }) {
  return (
    <li>
      <a href={format({ run: run.key, page: "neuron", neuron: neuron.neuron })}>
        <span className="tile-pictures">
          {neuron.pictures.map((image, i) => (
            <Picture key={`${i} ${image}`} image={image} alt="" run={run} />
          ))}
        </span>
        {neuron.before !== null && (
          <>
            <s className="soft small">{neuron.before}</s>{" "}
          </>
        )}
        <b>{neuron.label}</b>
        {neuron.confidence !== null && <Confidence value={neuron.confidence} />}
      </a>
    </li>
  );
}

/** How many labels are supported, uncertain and unsupported, as one bar. */
function Sure({ words, labeled }: { words: Record<string, number>; labeled: number }) {
  if (!Object.keys(words).length || !labeled) return <p className="soft small">{labeled} labels, without confidence</p>;
  return (
    <p className="sure">
      <span className="sure-bar" aria-hidden="true">
        {WORDS.map(([word]) => (
          <i key={word} className={word} style={{ flexGrow: words[word] ?? 0 }} />
        ))}
      </span>
      <span className="small">
        {WORDS.map(([word], i) => (
          <span key={word} className={`key-${word}`}>
            {i > 0 && " "}
            <b>{words[word] ?? 0}</b> {word}
          </span>
        ))}
      </span>
    </p>
  );
}
