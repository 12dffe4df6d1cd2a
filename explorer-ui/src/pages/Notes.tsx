import { useMemo } from "react";
import { byNeuron, notesCsv, notesMarkdown } from "../logic/formats";
import { Problem, Title, useNeuronLink, Waiting } from "../parts/Bits";
import { save } from "../parts/Copy";
import { Grid } from "../parts/Grid";
import { NoteList } from "../parts/NoteList";
import { doubtful } from "../logic/select";
import { useWorld } from "../state";

/** All notes, tags and corrected labels of the run. */
export function NotesPage() {
  const { info, index, notes, noted } = useWorld();
  const link = useNeuronLink();
  const doubts = useMemo(() => doubtful(index, 12), [index]);
  if (!notes) return <Waiting />;
  const name = `${info.key}.notes`;
  return (
    <div className="notes-page">
      <Title twin={`api/runs/${encodeURIComponent(info.key)}/notes`}>Notes</Title>
      <p className="lead">
        Notes, tags and corrected labels are appended to <code>{notes.file}</code> beside the run, never inside it.
        {!notes.writable && " They are read-only here."}
      </p>
      {notes.problems.length > 0 && <Problem title="Some lines were skipped">{notes.problems.join("; ")}.</Problem>}
      {notes.notes.length === 0 ? (
        <>
          <p className="empty">None yet. Write one on a neuron's page: press n there.</p>
          {doubts.length > 0 && (
            <section>
              <h2>Labels to check first</h2>
              <p className="soft">Refuted by an experiment, or of low confidence.</p>
              <Grid index={index} rows={doubts} scorer={index.primary} side="positives" notes={noted} label="Labels to check" />
            </section>
          )}
        </>
      ) : (
        <>
          <p className="actions">
            <button type="button" onClick={() => save(`${name}.json`, JSON.stringify(notes.notes, null, 1), "application/json")}>
              Save as JSON
            </button>
            <button type="button" onClick={() => save(`${name}.csv`, notesCsv(notes.notes), "text/csv")}>
              Save as CSV
            </button>
            <button type="button" onClick={() => save(`${name}.md`, notesMarkdown(notes.notes), "text/markdown")}>
              Save as Markdown
            </button>
          </p>
          {[...byNeuron(notes.notes)].map(([neuron, own]) => (
            <section key={neuron} className="note-group">
              <h2>
                <a href={link(neuron)}>{own[0]!.name || neuron}</a>
              </h2>
              <NoteList notes={own} />
            </section>
          ))}
        </>
      )}
    </div>
  );
}
