import { useEffect, useMemo } from "react";
import { Problem, Title, useNeuronLink, Waiting, Words } from "../parts/Bits";
import { InfluenceDots, ScoreDots, told } from "../parts/Dots";
import { FigureList } from "../parts/Figures";
import { NewHeadTable } from "../parts/NewHead";
import { Picture } from "../parts/Picture";
import { Pruning } from "../parts/Pruning";
import { Tree } from "../parts/Tree";
import { VerdictBadge } from "../parts/Verdict";
import { chosen, concepts, largest, MEASURES, moved, place, signed, SORTS, VERDICTS, type VerdictName } from "../logic/audit";
import { labelAt, short } from "../logic/select";
import { source } from "../source";
import { hash, setParams, useLoaded, useNarrow, useParam, useWorld } from "../state";
import type { Audit } from "../types";
import { trail } from "./Overview";

/** Rows of each verdict while all stand on the page, and while one does. */
const FEW = 6;
const MANY = 40;

const MEANS: Record<VerdictName, string> = {
  spurious: "They represent concepts that the classifier should not use.",
  expected: "They represent concepts that the classifier should use.",
  undecided: "An expected and a spurious concept tie within noise; the mask keeps these neurons.",
  unexplained: "No expected or spurious concept of the list is supported; the nearest one is shown, with the reason.",
};

/** Which neurons stand for expected and for spurious concepts, what they do to the classes, what pruning does. */
export function AuditPage() {
  const { info } = useWorld();
  const { data, error, again } = useLoaded(info.audit ? `${info.key} ${info.stamp}` : null, () => source.audit(info.key));
  if (!info.audit) return <None />;
  if (error)
    return (
      <Problem>
        <Words>{error}</Words> <button type="button" onClick={again}>Try again</button>
      </Problem>
    );
  if (!data) return <Waiting>Reading the audit…</Waiting>;
  return <Found audit={data} />;
}

function None() {
  const { info } = useWorld();
  const why = info.missing.find((m) => m.what === "the audit")?.why ?? "not audited yet";
  return (
    <div className="audit">
      <h1>Audit</h1>
      <p className="lead">
        An audit shows which neurons represent concepts that the classifier should use and which it should not,
        how each affects the classes, and how ablating the spurious ones changes accuracy.
      </p>
      <p className="problem">
        <Words>{why}</Words>
      </p>
    </div>
  );
}

function Found({ audit }: { audit: Audit }) {
  const { info } = useWorld();
  const [verdict, setVerdict] = useParam("verdict");
  const [concept, setConcept] = useParam("concept");
  const [moves, setMoves] = useParam("class");
  const measured = MEASURES.some((m) => audit.influence[m]?.length);
  const [sort, setSort] = useParam("sort", measured ? "influence" : "margin");
  const [rows, setRows] = useParam("rows");
  const only = place(audit, moves);
  const sections = useMemo(
    () => VERDICTS.map((name) => ({ name, all: chosen(audit, name, { concept, moves, sort }) })),
    [audit, concept, moves, sort],
  );
  const known = useMemo(() => concepts(audit), [audit]);
  const single = VERDICTS.find((v) => v === verdict);
  const most = Number(rows) || (single ? MANY : FEW);
  const shown = sections.filter((s) => !single || s.name === single);
  const range = useMemo(() => ranges(audit), [audit]);
  useEffect(() => {
    const back = trail.run === info.key && trail.hash === hash();
    if (back) document.querySelector(`[data-neuron="${trail.at}"]`)?.scrollIntoView({ block: "center" });
  }, []);
  useEffect(() => {
    trail.run = info.key;
    trail.neurons = shown.flatMap((s) => s.all.map((row) => audit.neuron[row]!));
    trail.hash = hash();
  });
  const cautions = audit.explanation.length + audit.warnings.length;
  const set = (change: (value: string) => void) => (e: { target: { value: string } }) => change(e.target.value);
  return (
    <div className="audit">
      <Title twin={`api/runs/${encodeURIComponent(info.key)}/audit`}>Audit</Title>
      {audit.conclusion && <p className="conclusion">{audit.conclusion}</p>}
      {cautions > 0 && (
        <p className="soft">
          <button type="button" className="plain" onClick={() => document.getElementById("caution-title")?.scrollIntoView({ block: "center" })}>
            {cautions === 1 ? "One caveat" : `${cautions} caveats`}
          </button>
        </p>
      )}
      <div className="toolbar" role="search" aria-label="Audited neurons">
        <span className="verdicts" role="group" aria-label="Verdict">
          {VERDICTS.map((name) => (
            <button
              key={name}
              type="button"
              className={`verdict-${name}`}
              aria-pressed={single === name}
              onClick={() => setParams({ verdict: single === name ? "" : name, rows: "" })}
            >
              <b>{sections.find((s) => s.name === name)!.all.length}</b> {name}
            </button>
          ))}
        </span>
        <label>
          Concept{" "}
          <select data-search value={concept} onChange={set(setConcept)}>
            <option value="">all</option>
            {["spurious", "expected", "other"].map((side) => {
              const own = known.filter((c) => (side === "other" ? c.side !== "spurious" && c.side !== "expected" : c.side === side));
              return own.length > 0 && (
                <optgroup key={side} label={side}>
                  {own.map((c) => (
                    <option key={c.name} value={c.name}>
                      {c.name} ({c.count})
                    </option>
                  ))}
                </optgroup>
              );
            })}
          </select>
        </label>
        {measured && (
          <label>
            Class{" "}
            <select value={moves} onChange={set(setMoves)}>
              <option value="">moved most</option>
              {audit.classes.map((c) => (
                <option key={c}>{c}</option>
              ))}
            </select>
          </label>
        )}
        <label>
          Sort by{" "}
          <select value={sort} onChange={set(setSort)}>
            {Object.entries(SORTS).map(([key, [title]]) => (measured || key !== "influence") && <option key={key} value={key}>{title}</option>)}
          </select>
        </label>
        {(single || concept || moves) && (
          <button type="button" className="plain" onClick={() => setParams({ verdict: "", concept: "", class: "", rows: "" })}>
            show all
          </button>
        )}
      </div>
      <Legend measured={measured} pruned={audit.pruning.length > 0} />
      {audit.left_out > 0 && <p className="soft small">The {audit.classes.length} classes that neurons change most; {audit.left_out} more are in influence.parquet.</p>}
      {shown.map(({ name, all }) => (
        <section key={name} className="verdict-group" aria-labelledby={`verdict-${name}`}>
          <h2 id={`verdict-${name}`}>
            <VerdictBadge verdict={name} /> {all.length} {all.length === 1 ? "neuron" : "neurons"}
          </h2>
          <p className="soft">{MEANS[name]}</p>
          <ol className="audited">
            {all.slice(0, most).map((row) => (
              <Row key={row} audit={audit} row={row} only={only} range={range} />
            ))}
          </ol>
          {all.length > most && (
            <button type="button" onClick={() => (single ? setRows(String(most + MANY)) : setVerdict(name))}>
              {single ? `Show ${Math.min(MANY, all.length - most)} more` : `Show all ${all.length} ${name}`}
            </button>
          )}
        </section>
      ))}
      <Pruning audit={audit} />
      <Caution audit={audit} />
      <NewHeadTable audit={audit} />
      <Agreement audit={audit} />
      <details className="provenance">
        <summary>How verdicts are decided</summary>
        <Rule audit={audit} />
      </details>
      <details className="provenance">
        <summary>The complete audit.json</summary>
        <Tree value={audit.manifest} />
      </details>
    </div>
  );
}

function Row({ audit, row, only, range }: { audit: Audit; row: number; only: number | null; range: Ranges }) {
  const { index } = useWorld();
  const link = useNeuronLink();
  const neuron = audit.neuron[row]!;
  const at = index.neuron.indexOf(neuron);
  const found = moved(audit, row, only);
  const of = (name: string) => audit.columns[name]?.[row] ?? null;
  const unexplained = audit.verdict[row] === "unexplained" || audit.verdict[row] === "undecided";
  const reason = audit.reason[row];
  const label = at < 0 ? null : labelAt(index, index.primary, at);
  return (
    <li className={`audited-row verdict-${audit.verdict[row]}`} data-neuron={neuron}>
      <span className="evidence-strip">
        {["positives", "contrasts"].map((side) => (
          <span key={side} className={side}>
            {index[side as "positives" | "contrasts"].slice(at * index.shown, (at + 1) * index.shown).map((image, i) => (
              <Picture key={i} image={image} alt="" />
            ))}
          </span>
        ))}
      </span>
      <span className="audited-name">
        <a href={link(neuron)} className={unexplained ? "soft" : ""}>
          {unexplained ? `${audit.best[row] ?? "nothing"}?` : audit.best[row]}
        </a>
        <span className="soft small">
          <span className="mono">{at < 0 ? neuron : index.name[at]}</span>
          {label !== null && <> · labeled {label}</>}
        </span>
        {reason && <span className="soft small">{reason}</span>}
        {audit.experiment[row] && <span className="soft small">{audit.experiment[row]}</span>}
      </span>
      <span className="audited-score">
        <ScoreDots score={of("score")} empty={of("empty")} low={range.low} high={range.high} />
        <span className="small">
          score <b>{short(of("score"))}</b> <span className="soft">against {short(of("empty"))} of the empty template</span>
        </span>
        <span className="soft small">
          margin {signed(of("margin"), 1)} · z {signed(of("z"), 1)} · fdr {short(of("fdr"))}
          {of("confidence") !== null && ` · confidence ${short(of("confidence"))}`}
        </span>
      </span>
      {found ? (
        <span className="audited-moves" title={told(found.values)}>
          <InfluenceDots values={found.values} most={range.most} />
          <span className="small">
            {only === null ? "moves " : ""}
            {audit.classes[found.at]} <b>{signed(found.value)}</b> <span className="soft">by {found.by === "head" ? "the head" : found.by}</span>
          </span>
          <span className="hidden">({told(found.values)})</span>
        </span>
      ) : (
        <span className="audited-moves soft small">{audit.classes.length > 0 ? "influence not measured" : ""}</span>
      )}
    </li>
  );
}

/** What all marks of the page mean, once. */
function Legend({ measured, pruned }: { measured: boolean; pruned: boolean }) {
  const mark = (name: string) => (
    <span className="dots" aria-hidden="true">
      <i className={`mark ${name}`} />
    </span>
  );
  const narrow = useNarrow(760);
  return (
    <details className="legend-fold" open={!narrow}>
    <summary>Legend</summary>
    <p className="dots-key">
      <span><span className="pos-key">activating images</span> above <span className="con-key">their contrasts</span></span>
      <span>{mark("hollow")}{pruned ? "empty template; accuracy before pruning" : "empty template"}</span>
      <span>{mark("ablation")}score; {measured && "influence by ablation; "}{pruned && "accuracy after pruning"}</span>
      {measured && <span>{mark("gradient")}influence by gradient</span>}
      {measured && <span>{mark("head")}by the linear head</span>}
      {pruned && <span><span className="dots whisker-key" aria-hidden="true"><i className="whisker" /></span>95 % interval of the change</span>}
      {pruned && <span>{mark("random")}as many neurons at random</span>}
      <span>z: deviations above random images; margin: z over that of the other side’s best concept</span>
    </p>
    </details>
  );
}

/** What the audit says of its own limits. */
function Caution({ audit }: { audit: Audit }) {
  if (!audit.explanation.length && !audit.warnings.length) return null;
  return (
    <section className="problem" aria-labelledby="caution-title">
      <h2 id="caution-title">Caveats</h2>
      <ul>
        {[...audit.explanation, ...audit.warnings].map((line, i) => (
          <li key={i}>{line}</li>
        ))}
      </ul>
    </section>
  );
}

interface Ranges {
  low: number;
  high: number;
  most: number;
}

/** What the lines of all rows span: scores, and influence to either side of 0. */
function ranges(audit: Audit): Ranges {
  let low = 0;
  let high = 1e-6;
  for (const name of ["score", "empty"])
    for (const v of audit.columns[name] ?? []) {
      if (v === null) continue;
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
  return { low, high, most: Math.max(...MEASURES.map((m) => largest(audit.influence[m] ?? []))) };
}

type Any = Record<string, unknown>;
const object = (value: unknown): Any => (typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Any) : {});
const count = (value: unknown) => (Array.isArray(value) ? value.length : 0);

/** The rule of the verdicts, in words. */
function Rule({ audit }: { audit: Audit }) {
  const m = audit.manifest;
  const [list, rule, encoder, probe, target, moved] = ["concepts", "threshold", "encoder", "probe", "target", "influence"].map((k) => object(m[k])) as [Any, Any, Any, Any, Any, Any];
  const fdr = typeof rule["fdr"] === "number" ? `${Number((100 * rule["fdr"]).toPrecision(3))} %` : "?";
  return (
    <>
      <p className="lead">
        {audit.neuron.length} neurons of <span className="mono">{`${target["name"] ?? "?"} ${target["layer"] ?? ""}`}</span> against “{String(list["title"] ?? "?")}”:{" "}
        {count(list["expected"])} expected and {count(list["spurious"])} spurious concepts{count(list["other"]) > 0 && ` (and ${count(list["other"])} others that compete)`}, scored by <span className="mono">{String(m["scorer"] ?? "?")}</span> with
        the encoder <span className="mono">{String(encoder["name"] ?? "?")}</span> on {String(probe["count"] ?? "?")} images. A verdict needs a
        false-discovery rate of at most {fdr} against {String(rule["fakes"] ?? "?")} fake neurons
        {rule["empty"] === false ? "" : ", and a score above that of the empty template"}
        {typeof rule["confidence"] === "number" && `, a concept that the encoder can read on these images, and a confidence of at least ${rule["confidence"]}`}. Seed {String(m["seed"] ?? "?")}.
        {typeof moved["images"] === "number" && (
          <> Influence is the mean over the {moved["images"]} images that activate a neuron most, in units of the class score before any softmax.</>
        )}
        {encoder["labeling"] === false && <> Contrasts shown here come from the run’s own encoder.</>}
      </p>
      <FigureList figures={Object.fromEntries(Object.entries(object(m["layer"])).filter(([, v]) => typeof v === "number" || v === null)) as Record<string, number | null>} />
    </>
  );
}

/** How well the three measures of influence agree. */
function Agreement({ audit }: { audit: Audit }) {
  const pairs = Object.entries(object(audit.manifest["agreement"])).map(([pair, told]) => [pair, object(told)] as const);
  if (!pairs.length) return null;
  const number = (value: unknown) => (typeof value === "number" ? short(value) : "–");
  return (
    <section className="panel" aria-labelledby="agreement-title">
      <h2 id="agreement-title">Do the measures of influence agree?</h2>
      <ul className="agreements">
        {pairs.map(([pair, told]) => (
          <li key={pair}>
            {pair.replace(", ", " and ")}: correlation {number(told["correlation"])}, largest difference {number(told["largest difference"])}{" "}
            <span className="soft">
              (typical size {number(told["root mean square"])}, {String(told["pairs"] ?? "?")} pairs of neuron and class)
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}
