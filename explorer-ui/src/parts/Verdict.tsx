import { signed, surest } from "../logic/audit";
import { format } from "../logic/route";
import { short } from "../logic/select";
import { useWorld } from "../state";
import type { Verdict } from "../types";
import { evidence, InfluenceKey, InfluenceList } from "./Dots";

const CLASSES = 8;

export function VerdictBadge({ verdict }: { verdict: string }) {
  return <span className={`badge verdict-${verdict}`}>{verdict}</span>;
}

/** An audit's verdict on one neuron, in a line. */
export function VerdictLine({ audit }: { audit: Verdict }) {
  const { info } = useWorld();
  const most = audit.influence[0];
  const value = most && surest(most);
  return (
    <p className="verdict-line">
      <VerdictBadge verdict={audit.verdict} />{" "}
      {audit.verdict === "undecided" ? (
        <>{audit.reason ?? "an expected and a spurious concept tie"}</>
      ) : audit.verdict === "unexplained" && audit.reason ? (
        <>
          {audit.reason}
          {audit.best !== null && <>; the closest is {audit.best}</>}
        </>
      ) : audit.verdict === "unexplained" ? (
        <>no concept of the audit’s list stands out{audit.best !== null && <>; the closest is {audit.best}</>}</>
      ) : (
        <>
          stands for <b>{audit.best}</b>
        </>
      )}
      <span className="soft">
        {" "}
        ({evidence(audit.figures)})
        {most && value && <>; moves {most.name} most: {signed(value.value)} by {value.by === "head" ? "the linear head" : value.by}</>}
        {audit.experiment !== null && <>; {audit.experiment}</>}
      </span>{" "}
      <a href={format({ run: info.key, page: "audit" })}>audit</a>
    </p>
  );
}

/** What an audited neuron does to the classes. */
export function InfluencePanel({ audit }: { audit: Verdict }) {
  const rows = audit.influence.filter((r) => surest(r));
  if (!rows.length) return null;
  return (
    <section className="panel" aria-labelledby="influence-title">
      <h2 id="influence-title">Effect on the classes</h2>
      <p>
        <InfluenceKey />
      </p>
      <InfluenceList rows={rows.slice(0, CLASSES)} />
      <p className="soft small">
        What the neuron adds to the class score on the images that activate it most
        {rows.length > CLASSES && `; ${rows.length - CLASSES} more classes, each at most ${short(Math.abs(surest(rows[CLASSES]!)!.value))}`}.
      </p>
    </section>
  );
}
