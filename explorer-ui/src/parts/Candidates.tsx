import type { Plain } from "../types";
import { Table } from "./Figures";

const COLUMNS: [string, string][] = [
  ["concept", "Concept"],
  ["text", "As written"],
  ["model", "Proposed by"],
  ["prompt", "Prompt"],
  ["place", "Named"],
  ["cosine", "Likeness"],
  ["score", "Score"],
];

/** What a vision-language model or a caption bank proposed for this neuron, and with which prompt. */
export function Candidates({ rows, labels }: { rows: Plain[]; labels: Set<string> }) {
  const told = rows.map((r) => ({
    ...r,
    text: r["text"] === r["concept"] ? null : r["text"]!,
    place: typeof r["place"] === "number" ? r["place"] + 1 : null,
  }));
  const columns = COLUMNS.filter(([key]) => told.some((r: Plain) => r[key] !== null && r[key] !== undefined));
  return (
    <section className="panel" aria-labelledby="candidates-title">
      <h2 id="candidates-title">Candidates</h2>
      {rows.length === 0 ? (
        <p className="soft">No concepts were proposed for this neuron.</p>
      ) : (
        <Table rows={told} columns={columns} label="Candidates" strong={(r) => labels.has(String(r["concept"]).toLowerCase())} />
      )}
    </section>
  );
}
