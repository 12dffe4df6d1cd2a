import type { ReactNode } from "react";
import { rounded, wordOf } from "../logic/confidence";
import { format } from "../logic/route";
import { source } from "../source";
import { useRoute, useWorld } from "../state";

export function Problem({ children, title = "Cannot be shown" }: { children: ReactNode; title?: string }) {
  return (
    <section className="problem" role="alert">
      <h2>{title}</h2>
      <p>{typeof children === "string" ? <Words>{children}</Words> : children}</p>
    </section>
  );
}

export function Waiting({ children = "Loading…" }: { children?: ReactNode }) {
  return (
    <p className="waiting-line" role="status">
      <span className="spinner" aria-hidden="true" />
      {children}
    </p>
  );
}

/** A text in which `commands` stand out. */
export function Words({ children }: { children: string }) {
  return children.split("`").map((part, i) => (i % 2 ? <code key={i}>{part}</code> : part));
}

/** The same as JSON, where a server gives it. */
export function Twin({ path }: { path: string }) {
  const href = source.twin(path);
  return href && <a className="button" href={href} title="this page as JSON">JSON</a>;
}

/** A page's title, and beside it the same as JSON. */
export function Title({ children, twin }: { children: ReactNode; twin: string }) {
  return (
    <div className="title-line">
      <h1>{children}</h1>
      <Twin path={twin} />
    </div>
  );
}

/** Whose labels are shown, where a run has several scorers. */
export function ScorerChoice({ scorer, onChoose }: { scorer: string; onChoose: (scorer: string) => void }) {
  const { index } = useWorld();
  if (index.scorers.length < 2) return null;
  return (
    <label>
      Labels by{" "}
      <select value={scorer} onChange={(e) => onChoose(e.target.value)}>
        {index.scorers.map((s) => (
          <option key={s.scorer}>{s.scorer}</option>
        ))}
      </select>
    </label>
  );
}

export const STATUS: Record<string, string> = {
  ok: "labeled",
  dead: "never active on these images",
  constant: "the same on every image",
  nan: "activations are not numbers",
  chance: "no label beats random images",
  corrected: "label corrected by a person",
};

export function Status({ status }: { status: string }) {
  if (status === "ok") return null;
  return (
    <span className={`badge status-${status}`} title={STATUS[status] ?? status}>
      {status}
    </span>
  );
}

/** How likely a label is right, as a word, a bar and a number. */
export function Confidence({ value }: { value: number }) {
  const word = wordOf(value);
  return (
    <span className={`confidence ${word}`} title="confidence: how likely the label is right">
      <Bar value={value} most={1} tone="ink" />
      <span className="number">{rounded(value)}</span> <span className="badge">{word}</span>
    </span>
  );
}

/** A link to a neuron's page that keeps the overview's state for the way back. */
export function useNeuronLink(): (neuron: number, run?: string, params?: Record<string, string>) => string {
  const route = useRoute();
  return (neuron, run, params = {}) => format({ run: run ?? route.run, page: "neuron", neuron, params });
}

export function Bar({ value, most, tone = "pos" }: { value: number | null; most: number; tone?: "pos" | "con" | "ink" }) {
  const share = value === null || most <= 0 ? 0 : Math.max(0, Math.min(1, value / most));
  return (
    <span className={`bar ${tone}`} aria-hidden="true">
      <span style={{ width: `${(share * 100).toFixed(1)}%` }} />
    </span>
  );
}
