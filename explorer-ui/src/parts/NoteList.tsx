import { type FormEvent, useState } from "react";
import { source } from "../source";
import { useWorld } from "../state";
import type { Note, NoteKind } from "../types";

const NAMES: Record<NoteKind, string> = { note: "Note", tag: "Tag", label: "Corrected label" };

export function NoteList({ notes }: { notes: Note[] }) {
  const { info, notes: all, refreshNotes } = useWorld();
  const [error, setError] = useState<string | null>(null);
  return (
    <>
      <ul className="note-list">
        {notes.map((n) => (
          <li key={n.id} className={`note-${n.kind}`}>
            <span className="badge">{NAMES[n.kind]}</span>
            <span className="note-text">{n.text}</span>
            <time className="soft" dateTime={n.time}>
              {n.time.slice(0, 10)}
            </time>
            {all?.writable && (
              <button
                type="button"
                className="plain"
                aria-label={`Delete: ${n.text.slice(0, 40)}`}
                onClick={() =>
                  source.forget(info.key, n.id).then(refreshNotes, (e: Error) => setError(e.message))
                }
              >
                ×
              </button>
            )}
          </li>
        ))}
      </ul>
      {error && <p role="alert">{error}</p>}
    </>
  );
}

/** Notes of one neuron, and a line to write another. */
export function NotePanel({ neuron }: { neuron: number }) {
  const { info, notes, noted, refreshNotes } = useWorld();
  const [kind, setKind] = useState<NoteKind>("note");
  const [text, setText] = useState("");
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const own = noted.get(neuron) ?? [];
  const submit = (e: FormEvent) => {
    e.preventDefault();
    if (!text.trim() || busy) return;
    setBusy(true);
    source
      .note(info.key, neuron, kind, text)
      .then(() => {
        setText("");
        setError(null);
        refreshNotes();
      })
      .catch((reason: Error) => setError(reason.message))
      .finally(() => setBusy(false));
  };
  return (
    <section className="panel notes-panel" aria-labelledby="notes-title">
      <h2 id="notes-title">Notes</h2>
      {own.length > 0 && <NoteList notes={own} />}
      {notes?.writable ? (
        <form onSubmit={submit}>
          <select aria-label="Kind of note" value={kind} onChange={(e) => setKind(e.target.value as NoteKind)}>
            {(Object.keys(NAMES) as NoteKind[]).map((k) => (
              <option key={k} value={k}>
                {NAMES[k]}
              </option>
            ))}
          </select>
          <textarea
            data-note
            aria-label={NAMES[kind]}
            rows={kind === "note" ? 2 : 1}
            maxLength={{ note: 4000, tag: 60, label: 200 }[kind]}
            placeholder={{ note: "What you saw…", tag: "e.g. polysemantic", label: "what it should say" }[kind]}
            value={text}
            onChange={(e) => setText(e.target.value)}
            onKeyDown={(e) => {
              if (e.key === "Enter" && !e.shiftKey) submit(e);
            }}
          />
          <button disabled={busy || !text.trim()}>Add</button>
        </form>
      ) : (
        own.length === 0 && <p className="soft">{source.live ? "Read-only: notes can't be written." : "No notes."}</p>
      )}
      {error && <p role="alert">{error}</p>}
    </section>
  );
}
