import { useEffect, useLayoutEffect, useRef } from "react";
import { Bar, Confidence, Problem, STATUS, Status, Twin, useNeuronLink, Waiting, Words } from "../parts/Bits";
import { Candidates } from "../parts/Candidates";
import { Classes } from "../parts/Classes";
import { CopyMenu, ShareCard } from "../parts/Copy";
import { Experiments, Outcome } from "../parts/Experiments";
import { ActivationHistogram, Evaluation, NeuronFigures } from "../parts/Figures";
import { Meanings } from "../parts/Meanings";
import { GammaPanel } from "../parts/GammaPanel";
import { NotePanel } from "../parts/NoteList";
import { Pairs } from "../parts/Pairs";
import { Picture } from "../parts/Picture";
import { InfluencePanel, VerdictLine } from "../parts/Verdict";
import { short } from "../logic/select";
import { format, parse } from "../logic/route";
import { source } from "../source";
import { go, useKeys, useLoaded, useRoute, useWorld, visit } from "../state";
import type { Detail, ScorerLabels } from "../types";
import { trail } from "./Overview";

/** One neuron with its evidence. */
export function Neuron() {
  const route = useRoute();
  const { info, noted } = useWorld();
  const neuron = route.neuron ?? 0;
  const own = noted.get(neuron)?.findLast((n) => n.kind === "label")?.text; // a correction changes what is answered
  const { data, error, again } = useLoaded(`${info.key} ${info.stamp} ${neuron} ${own ?? ""}`, () => source.detail(info.key, neuron));
  const last = useRef<Detail | null>(null); // stands until the next one is there, so that the page doesn't flicker
  if (data) last.current = data;
  useLayoutEffect(() => {
    window.scrollTo(0, 0);
  }, [neuron]);
  if (error)
    return (
      <Problem>
        <Words>{error}</Words> <button type="button" onClick={again}>Try again</button>
      </Problem>
    );
  const shown = data ?? last.current;
  if (!shown) return <Waiting>Fetching the evidence…</Waiting>;
  return <Evidence detail={shown} />;
}

function Evidence({ detail }: { detail: Detail }) {
  const { info, index, noted } = useWorld();
  const { params } = useRoute();
  const link = useNeuronLink();
  const listed = trail.run === info.key ? trail.neurons : index.neuron;
  const at = listed.indexOf(detail.neuron);
  const previous = at < 0 ? detail.previous : (listed[at - 1] ?? null);
  const next = at < 0 ? detail.next : (listed[at + 1] ?? null);
  const up = trail.run === info.key && trail.hash ? trail.hash : format({ run: info.key, page: "neurons" });
  const primary = detail.labels.find((l) => l.scorer === index.primary) ?? detail.labels[detail.labels.length - 1];
  const own = noted.get(detail.neuron)?.findLast((n) => n.kind === "label")?.text;
  // The left column is the higher one where the run has more to say there.
  const tall = detail.labels.length > 4 || detail.evaluation !== null || (detail.candidates?.length ?? 0) > 3;
  const chosen = new Set(detail.labels.flatMap((l) => (l.label === null ? [] : [l.label.toLowerCase()])));
  useEffect(() => {
    trail.at = detail.neuron;
  }, [detail.neuron]);

  useKeys((e) => {
    const move = (n: number | null) => n !== null && go({ run: info.key, page: "neuron", neuron: n, params: kept(params) });
    if (e.key === "ArrowLeft") move(previous);
    else if (e.key === "ArrowRight") move(next);
    else if (e.key === "Escape") visit(up);
    else if (e.key === "g" || e.key === "n") {
      e.preventDefault();
      document.querySelector<HTMLElement>(e.key === "g" ? "[data-gamma]" : "[data-note]")?.focus();
    }
  });
  // What → and ← lead to is fetched before it is asked for.
  useEffect(() => {
    for (const n of [next, previous]) if (n !== null) source.detail(info.key, n).catch(() => {});
  }, [next, previous, info.key]);

  return (
    <article className="neuron">
      <header className="neuron-head">
        <nav aria-label="Neurons around">
          <a href={up}>{parse(up).page === "audit" ? "↑ audit" : "↑ all neurons"}</a>
          {previous !== null && <a href={link(previous, undefined, kept(params))} rel="prev">← before</a>}
          {next !== null && <a href={link(next, undefined, kept(params))} rel="next">next →</a>}
        </nav>
        <p className="mono name">
          {detail.name} <Status status={detail.status} />
        </p>
        {detail.true_class && <TrueClass found={detail.true_class} corrected={own !== undefined} />}
        <h1>{own === undefined && detail.before !== null && primary?.label != null && (
          <>
            <del title="the label without contrast">{detail.before}</del> <span className="arrow" aria-hidden="true">→</span>{" "}
          </>
        )}{own ?? primary?.label ?? (primary?.status === "chance" ? STATUS["chance"] : "no label")}</h1>
        {own === undefined && primary?.status === "chance" && (
          <p className="soft">
            The null test rejected “{primary.best}” of {primary.scorer}: false-discovery rate {short(primary.fdr)}
          </p>
        )}
        {own === undefined && primary?.label === null && primary.status !== "chance" && primary.status !== detail.status && (
          <p className="soft">{STATUS[primary.status] ?? primary.status}</p>
        )}
        {own === undefined && primary?.label != null && primary.confidence !== null && (
          <p className="confidence-line">
            <Confidence value={primary.confidence} /> <span className="soft">{primary.reasons.join("; ")}</span>
          </p>
        )}
        {primary?.verified != null && (
          <p className="verdict-line">
            <Outcome outcome={primary.verified} /> <span className="soft">{primary.experiment}</span>
          </p>
        )}
        {own !== undefined && <p className="soft">corrected; {primary?.scorer} labels it {primary?.best ?? "nothing"}</p>}
        {detail.audit && <VerdictLine audit={detail.audit} />}
        <div className="head-line">
          <NeuronFigures figures={{ score: primary?.score ?? null, ...detail.figures }} scorers={detail.labels.length} confident={primary?.confidence != null} />
          <span className="actions">
            <ShareCard detail={detail} />
            <CopyMenu detail={detail} />
            <Twin path={`api/runs/${encodeURIComponent(info.key)}/neurons/${detail.neuron}`} />
          </span>
        </div>
      </header>
      <Pairs detail={detail} />
      <div className="panels">
        <div>
          <LabelsPanel labels={detail.labels} primary={index.primary} />
          {primary && <Meanings found={primary} />}
          <Experiments neuron={detail.neuron} label={own ?? primary?.label ?? null} found={detail.experiments ?? []} />
          {detail.evaluation && <Evaluation data={detail.evaluation} primary={index.primary} />}
          {detail.candidates && <Candidates rows={detail.candidates} labels={chosen} />}
          {!tall && <NotePanel neuron={detail.neuron} />}
        </div>
        <div>
          {detail.gamma && <GammaPanel data={detail.gamma} scorer={primary?.scorer ?? ""} />}
          {detail.histogram && <ActivationHistogram data={detail.histogram} mean={detail.figures["mean"] ?? null} />}
          {detail.audit && <InfluencePanel audit={detail.audit} />}
          {detail.classes && detail.classes.length > 0 && <Classes classes={detail.classes} />}
          {tall && <NotePanel neuron={detail.neuron} />}
        </div>
      </div>
      {detail.neighbours && detail.neighbours.length > 0 && (
        <section aria-labelledby="neighbours-title">
          <h2 id="neighbours-title">Most similar neurons</h2>
          <ul className="neighbours">
            {detail.neighbours.map((n) => (
              <li key={n.neuron}>
                <a href={link(n.neuron)}>
                  <span className="strip">
                    {n.pictures.slice(0, 3).map((image) => (
                      <Picture key={image} image={image} alt="" />
                    ))}
                  </span>
                  <b>{n.label ?? "no label"}</b>
                  <span className="soft">
                    <span className="mono">{n.name}</span> · {n.similarity.toFixed(2)}
                  </span>
                </a>
              </li>
            ))}
          </ul>
        </section>
      )}
      {detail.missing.length > 0 && (
        <details className="missing">
          <summary>Not shown here ({detail.missing.length})</summary>
          <ul>
            {detail.missing.map((m) => (
              <li key={m.what}>
                {m.what}: <Words>{m.why}</Words>
              </li>
            ))}
          </ul>
        </details>
      )}
    </article>
  );
}

/** The class that an output neuron stands for, and whether the label names it. */
function TrueClass({ found, corrected }: { found: NonNullable<Detail["true_class"]>; corrected: boolean }) {
  const differs = found.named === false && !corrected;
  return (
    <p className={differs ? "true-class differs" : "true-class"}>
      true class <b>{found.name}</b>
      {!corrected && found.named !== null && (differs ? ": the label does not match" : ": the label matches")}
    </p>
  );
}

/** What stays as it is from one neuron to the next. */
function kept({ maps = "", pairs = "" }: Record<string, string>): Record<string, string> {
  return { maps, pairs };
}

function LabelsPanel({ labels, primary }: { labels: ScorerLabels[]; primary: string }) {
  if (!labels.length)
    return (
      <section className="panel">
        <h2>Labels</h2>
        <p className="soft">This neuron was not labeled.</p>
      </section>
    );
  const ordered = [...labels].sort((a, b) => Number(b.scorer === primary) - Number(a.scorer === primary));
  const agreed = new Set(labels.map((l) => l.label)).size === 1 && labels.length > 1;
  return (
    <section className="panel labels" aria-labelledby="labels-title">
      <h2 id="labels-title">
        Labels by scorer {agreed && <span className="badge ok">all agree</span>}
      </h2>
      <div className="label-columns">
        {ordered.map((l) => {
          const most = Math.max(1e-9, ...l.concepts.map((c) => c.score ?? 0));
          const least = Math.min(0, ...l.concepts.map((c) => c.score ?? 0));
          return (
            <div key={l.scorer}>
              <h3>
                <span className="mono">{l.scorer}</span> {l.scorer === primary && <span className="badge">primary</span>}
              </h3>
              {l.label === null && <p className={l.status === "chance" ? "answer" : "soft"}>{STATUS[l.status] ?? l.status}</p>}
              {l.confidence !== null && (
                <p className="small" title={l.reasons.join("; ")}>
                  <Confidence value={l.confidence} />
                </p>
              )}
              {l.verified !== null && (
                <p className="soft small" title={l.experiment ?? undefined}>
                  experiment: <Outcome outcome={l.verified} />
                </p>
              )}
              {l.fdr !== null && (
                <p className="soft small" title={`p ${short(l.p)} against null neurons; not how likely the label is wrong`}>
                  null test: {l.status === "chance" ? "rejected" : "passed"}, false-discovery rate {short(l.fdr)}
                </p>
              )}
              <ol className={l.label === null ? "concepts none" : "concepts"}>
                {l.concepts.slice(0, labels.length > 4 && l.scorer !== primary ? 4 : 6).map((c, i) => (
                  <li key={`${i} ${c.concept}`} title={c.source ? `from ${c.source}` : undefined}>
                    <span className="concept">
                      {c.concept} {c.source === "proposed" && <span className="badge" title="proposed for some neuron, not in the vocabulary">proposed</span>}
                    </span>
                    <Bar value={c.score === null ? null : c.score - least} most={most - least} tone={l.scorer === primary ? "pos" : "ink"} />
                    <span className="number">{short(c.score)}</span>
                  </li>
                ))}
              </ol>
            </div>
          );
        })}
      </div>
      <Sources labels={labels} />
    </section>
  );
}

function Sources({ labels }: { labels: ScorerLabels[] }) {
  const found = [...new Set(labels.flatMap((l) => l.concepts.map((c) => c.source)).filter((s) => s !== null))];
  if (!found.length) return null;
  return <p className="soft small">Concepts from {found.join("; ")}.</p>;
}
