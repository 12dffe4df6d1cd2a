// A neuron and notes as text to copy or to save.

import type { Detail, Note } from "../types";

/** One CSV field; a text that a spreadsheet would run as a formula is made plain text. */
export function field(value: string | number | null | undefined): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function csv(rows: (string | number | null | undefined)[][]): string {
  return rows.map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}

export function detailCsv(detail: Detail): string {
  return csv([
    ["neuron", "rank", "positive", "activation", "contrast", "contrast_activation", "similarity"],
    ...detail.exemplars.map((p) => [
      detail.name,
      p.rank,
      p.positive?.id,
      p.activation,
      p.contrast?.id,
      p.contrast_activation,
      p.similarity,
    ]),
  ]);
}

/** Text that Markdown shows as it is. */
export function plain(text: string): string {
  return text.replace(/[\\`*_{}[\]<>()#+\-.!|~&]/g, "\\$&").replace(/\s+/g, " ");
}

export function detailMarkdown(detail: Detail): string {
  const lines = [`## Neuron ${plain(detail.name)}`, "", "| scorer | label | score | next |", "| --- | --- | ---: | --- |"];
  for (const l of detail.labels) {
    const next = l.concepts.slice(1, 4).map((c) => plain(c.concept));
    lines.push(`| ${plain(l.scorer)} | ${l.label === null ? "–" : plain(l.label)} | ${l.score?.toFixed(4) ?? "–"} | ${next.join(", ")} |`);
  }
  lines.push("", "| rank | image | activation | contrast | cosine |", "| ---: | --- | ---: | --- | ---: |");
  for (const p of detail.exemplars.slice(0, 10)) {
    lines.push(
      `| ${p.rank + 1} | ${plain(p.positive?.id ?? "–")} | ${p.activation?.toPrecision(4) ?? "–"} | ${plain(p.contrast?.id ?? "–")} | ${p.similarity?.toFixed(3) ?? "–"} |`,
    );
  }
  return lines.join("\n") + "\n";
}

export function notesCsv(notes: Note[]): string {
  return csv([["time", "neuron", "name", "kind", "text"], ...notes.map((n) => [n.time, n.neuron, n.name, n.kind, n.text])]);
}

export function notesMarkdown(notes: Note[]): string {
  const lines: string[] = [];
  for (const [neuron, own] of byNeuron(notes)) {
    lines.push(`## ${plain(own[0]!.name || String(neuron))}`, "");
    for (const n of own) lines.push(`- ${n.kind} (${n.time}): ${plain(n.text)}`);
    lines.push("");
  }
  return lines.join("\n");
}

export function byNeuron(notes: Note[]): Map<number, Note[]> {
  const out = new Map<number, Note[]>();
  for (const note of notes) {
    const own = out.get(note.neuron);
    if (own) own.push(note);
    else out.set(note.neuron, [note]);
  }
  return out;
}
