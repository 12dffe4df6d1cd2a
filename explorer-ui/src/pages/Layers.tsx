import { useEffect, useMemo, useRef, useState } from "react";
import { Confidence, Problem, Twin, useNeuronLink, Waiting } from "../parts/Bits";
import { Picture } from "../parts/Picture";
import { between, found, named, parts, ramp, said, type Related, type Sort } from "../logic/layers";
import { format } from "../logic/route";
import { source } from "../source";
import { useLoaded, useParam, useWorld } from "../state";
import type { LayerConcept, LayerRow, Layers } from "../types";

const CONCEPTS = 12;
const NEURONS = 24;
const SORTS: [Sort, string][] = [
  ["confidence", "surest first"],
  ["depth", "by layer"],
  ["label", "by label"],
];

/** All layers of a network: how much of each is labeled, where concepts first appear, and a search over all neurons. */
export function LayersPage() {
  const { list } = useWorld();
  const stamps = list.runs.map((r) => `${r.key} ${r.stamp}`).join();
  const { data, error } = useLoaded(`layers ${stamps}`, source.layers);
  const [q, setQ] = useParam("q");
  const [layer, setLayer] = useParam("layer");
  const [sort, setSort] = useParam("sort", "confidence");
  const [neuron, setNeuron] = useParam("of");
  if (error) return <Problem>{error}</Problem>;
  if (!data) return <Waiting>Reading all layers…</Waiting>;
  if (data.layers.length === 0) return <Problem title="No layers">{data.notes.join(" ")}</Problem>;
  const chosen = data.layers.findIndex((l) => l.layer === layer);
  const opened = neuron === "" ? -1 : data.neuron.findIndex((_, i) => idOf(data, i) === neuron);
  const open = (at: number) => setNeuron(idOf(data, at));
  return (
    <div className="layers">
      <h1>Layers of {data.title}</h1>
      <p className="verdict">
        <strong>{data.neuron.length.toLocaleString("en")}</strong> neurons in {data.layers.length === 1 ? "1 layer" : `${data.layers.length} layers`},{" "}
        {data.concepts.length.toLocaleString("en")} concepts. <Twin path="api/layers" />
      </p>
      {data.notes.map((note) => (
        <p key={note} className="soft">
          {note}
        </p>
      ))}
      <LayerList layers={data.layers} />
      <div className="toolbar">
        <input data-search type="search" className="find" placeholder="Concept or neuron, in all layers" aria-label="Search all layers" value={q} onChange={(e) => setQ(e.target.value)} />
        <select aria-label="Layer" value={layer} onChange={(e) => setLayer(e.target.value)}>
          <option value="">all layers</option>
          {data.layers.map((l) => (
            <option key={l.layer} value={l.layer}>
              {title(l)}
            </option>
          ))}
        </select>
        <select aria-label="Order of neurons" value={sort} onChange={(e) => setSort(e.target.value)}>
          {SORTS.map(([key, text]) => (
            <option key={key} value={key}>
              {text}
            </option>
          ))}
        </select>
      </div>
      {opened >= 0 && data.relations.kind.length > 0 && <Neighbours data={data} at={opened} onOpen={open} onClose={() => setNeuron("")} />}
      <Concepts data={data} q={q} onChoose={setQ} />
      <Found data={data} q={q} layer={chosen < 0 ? null : chosen} sort={sort as Sort} onOpen={data.relations.kind.length > 0 ? open : null} />
    </div>
  );
}

function idOf(data: Layers, at: number): string {
  return `${data.layers[data.layer[at]!]!.layer} ${data.neuron[at]}`;
}

function titled(data: Layers, at: number): string {
  return data.label[at]! < 0 ? "no label" : data.labels[data.label[at]!]!;
}

/** One neuron between its layers: its best match in each, what feeds it and what it feeds, each with its null. */
function Neighbours({ data, at, onOpen, onClose }: { data: Layers; at: number; onOpen: (at: number) => void; onClose: () => void }) {
  const link = useNeuronLink();
  const section = useRef<HTMLElement>(null);
  const { matches, fedBy, feeds } = useMemo(() => between(data, at), [data, at]);
  useEffect(() => {
    const box = section.current?.getBoundingClientRect();
    if (box && (box.top < 90 || box.bottom > innerHeight)) section.current?.scrollIntoView({ block: "start" });
    section.current?.focus({ preventScroll: true });
  }, [at]);
  const row = data.layers[data.layer[at]!]!;
  return (
    <section className="related" aria-labelledby="related" ref={section} tabIndex={-1}>
      <div className="related-head">
        <h2 id="related">
          {titled(data, at)}{" "}
          <small>
            {title(row)} · {data.name[at]}
          </small>
        </h2>
        <span>
          <a href={link(data.neuron[at]!, row.run)}>Evidence</a>{" "}
          <button type="button" onClick={onClose}>
            Close
          </button>
        </span>
      </div>
      <div className="related-sides">
        <RelatedList title="Fed by" none="No edge into this neuron was found." rows={fedBy} data={data} onOpen={onOpen} />
        <RelatedList title="Best match in other layers" none="No match was looked for (--links)." rows={matches} data={data} onOpen={onOpen} />
        <RelatedList title="Feeds" none="No edge from this neuron was found." rows={feeds} data={data} onOpen={onOpen} />
      </div>
      <p className="soft">
        Faded: within the null. The null of a match is the threshold from null neurons; that of an edge, from reordered weights or other neurons switched off.
      </p>
    </section>
  );
}

function RelatedList({ title: heading, none, rows, data, onOpen }: { title: string; none: string; rows: Related[]; data: Layers; onOpen: (at: number) => void }) {
  const { list } = useWorld();
  return (
    <div>
      <h3>{heading}</h3>
      {rows.length === 0 && <p className="soft">{none}</p>}
      <ul>
        {rows.map((one) => {
          const row = data.layers[data.layer[one.at]!]!;
          const run = list.runs.find((r) => r.key === row.run);
          return (
            <li key={`${one.by} ${one.at}`} className={one.holds ? "holds" : "within"}>
              {run && <Picture image={data.picture[one.at]!} alt="" run={run} />}
              <div>
                <button type="button" className="plain" onClick={() => onOpen(one.at)}>
                  {titled(data, one.at)}
                </button>
                <span className="numbers">
                  {title(row)} · {data.name[one.at]}
                </span>
                <span className="numbers">
                  {said(one)}
                  {!one.holds && " · within the null"}
                </span>
              </div>
            </li>
          );
        })}
      </ul>
    </div>
  );
}

function title(row: LayerRow): string {
  return row.layer === "." ? "output" : row.layer;
}

function LayerList({ layers }: { layers: LayerRow[] }) {
  return (
    <section aria-labelledby="by-layer">
      <h2 id="by-layer">Labels by layer</h2>
      <p className="key">
        <i className="sure" /> labels of confidence 0.5 and more <i className="labeled" /> other labels <i className="unlabeled" /> no label{" "}
        <i className="silent" /> silent
      </p>
      <ol className="layer-list">
        {layers.map((row) => (
          <li key={row.layer}>
            <a href={format({ run: row.run, page: "neurons" })}>{title(row)}</a>
            <svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label={parts(row).map((p) => `${p.count} ${p.name}`).join(", ")}>
              {parts(row).map((part, i, all) => (
                <rect key={part.name} className={part.name} x={all.slice(0, i).reduce((sum, p) => sum + p.share, 0)} y="0" width={part.share} height="10" />
              ))}
            </svg>
            <span className="numbers">{numbers(row)}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

function numbers(row: LayerRow): string {
  const said = [`${row.neurons.toLocaleString("en")} neurons`, `${row.concepts} concepts, ${row.new} new`];
  for (const name of ["supported", "verified", "refuted", "confounded"] as const) {
    if (row[name] !== null) said.push(`${row[name]} ${name}`);
  }
  return said.join(" · ");
}

function Concepts({ data, q, onChoose }: { data: Layers; q: string; onChoose: (text: string) => void }) {
  const [all, setAll] = useState(false);
  const rows = useMemo(() => named(data.concepts, q), [data, q]);
  return (
    <section aria-labelledby="concepts">
      <h2 id="concepts">Where concepts appear</h2>
      {rows.length === 0 && <p className="soft">No label holds “{q}”.</p>}
      <ul className="concept-list">
        {rows.slice(0, all ? rows.length : CONCEPTS).map((c) => (
          <Concept key={c.concept} concept={c} layers={data.layers} onChoose={onChoose} />
        ))}
      </ul>
      {rows.length > CONCEPTS && (
        <button type="button" onClick={() => setAll(!all)}>
          {all ? "Fewer" : `All ${rows.length}`}
        </button>
      )}
    </section>
  );
}

function Concept({ concept, layers, onChoose }: { concept: LayerConcept; layers: LayerRow[]; onChoose: (text: string) => void }) {
  const { list } = useWorld();
  const link = useNeuronLink();
  const run = list.runs.find((r) => r.key === concept.run);
  const name = (layer: string) => (layer === "." ? "output" : layer);
  return (
    <li>
      <a href={link(concept.neuron, concept.run)} aria-label={`The most confident neuron labeled ${concept.concept}`}>
        {run && <Picture image={concept.picture} alt="" run={run} />}
      </a>
      <div>
        <button type="button" className="plain" onClick={() => onChoose(concept.concept)}>
          {concept.concept}
        </button>
        <span className="numbers">
          {concept.neurons} neurons ·{" "}
          {concept.first_sure === null ? "never with confidence 0.5" : `with confidence 0.5 from ${name(concept.first_sure)} on`}
          {concept.first_sure !== concept.first && `; any label from ${name(concept.first)} on`}
        </span>
        <span className="strip" role="img" aria-label={layers.map((l, i) => `${title(l)}: ${concept.counts[i]}`).join(", ")}>
          {layers.map((l, i) => {
            const step = ramp(concept, i, layers);
            return <i key={l.layer} className={step === null ? "none" : `ramp-${step}`} title={`${title(l)}: ${concept.counts[i]} of ${l.labeled}`} />;
          })}
        </span>
      </div>
    </li>
  );
}

function Found({ data, q, layer, sort, onOpen }: { data: Layers; q: string; layer: number | null; sort: Sort; onOpen: ((at: number) => void) | null }) {
  const [most, setMost] = useState(NEURONS);
  const { list } = useWorld();
  const link = useNeuronLink();
  const places = useMemo(() => found(data, q, layer, sort), [data, q, layer, sort]);
  return (
    <section aria-labelledby="found">
      <h2 id="found">
        Neurons <small role="status">{places.length.toLocaleString("en")}</small>
      </h2>
      <ul className="layer-neurons">
        {places.slice(0, most).map((i) => {
          const row = data.layers[data.layer[i]!]!;
          const run = list.runs.find((r) => r.key === row.run);
          const sure = data.confidence[i];
          return (
            <li key={`${row.layer} ${data.neuron[i]}`}>
              <a
                href={link(data.neuron[i]!, row.run)}
                onClick={(e) => {
                  if (onOpen === null || e.metaKey || e.ctrlKey || e.shiftKey) return;
                  e.preventDefault();
                  onOpen(i);
                }}
              >
                {run && <Picture image={data.picture[i]!} alt="" run={run} />}
                <strong>{titled(data, i)}</strong>
                <span className="numbers">
                  {title(row)} · {data.name[i]}
                  {data.verified[i] && ` · ${data.verified[i]}`}
                </span>
                {sure !== null && sure !== undefined && <Confidence value={sure} />}
              </a>
            </li>
          );
        })}
      </ul>
      {places.length > most && (
        <button type="button" onClick={() => setMost(most + 4 * NEURONS)}>
          More
        </button>
      )}
    </section>
  );
}
