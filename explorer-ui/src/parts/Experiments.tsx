import { useEffect, useState } from "react";
import { short } from "../logic/select";
import { source } from "../source";
import { useWorld } from "../state";
import type { Experiment, Job } from "../types";

const ABOUT: Record<string, string> = {
  verified: "verified by experiment: removing the concept from pictures lowers the activation, inserting it raises it",
  refuted: "refuted by experiment: removing or inserting the concept does not have the expected effect",
  untested: "not decided by experiment: too few edits, or an effect that is neither clearly strong nor clearly weak",
};

/** What an experiment on a label came to, as a badge. */
export function Outcome({ outcome }: { outcome: string | null }) {
  if (outcome === null) return null;
  return (
    <span className={`badge outcome-${outcome}`} title={ABOUT[outcome]}>
      {outcome}
    </span>
  );
}

const DONE: Record<string, string> = { remove: "taken out", insert: "put in" };

/** Experiments on a neuron with their pictures before and after, and the button that makes one. */
export function Experiments({ neuron, label, found }: { neuron: number; label: string | null; found: Experiment[] }) {
  const { list } = useWorld();
  const canTest = source.live && list.writable;
  if (!canTest && !found.length) return null;
  const first = [...found].sort((a, b) => Number(b.label === label) - Number(a.label === label));
  return (
    <section className="panel experiments" aria-labelledby="experiments-title">
      <h2 id="experiments-title">Experiments</h2>
      {found.length === 0 && <p className="soft">No label of this neuron was tested yet.</p>}
      {first.map((one) => (
        <div key={one.label} className="experiment">
          <p>
            <b>{one.label}</b> <Outcome outcome={one.outcome} />{" "}
            <span className="soft">
              {one.instead_of !== null && `tested instead of ${one.instead_of}: `}
              {one.reason}
            </span>
          </p>
          {one.edited.length > 0 && (
            <ul className="edits">
              {one.edited.map((edit, i) => (
                <li key={i}>
                  <span className="edit">
                    <figure>
                      <img src={edit.before} alt="before" />
                      <figcaption className="number">{short(edit.was)}</figcaption>
                    </figure>
                    <span aria-hidden="true">→</span>
                    <figure>
                      <img src={edit.after} alt={`after, ${one.label} ${DONE[edit.kind] ?? edit.kind}`} />
                      <figcaption className="number">{short(edit.became)}</figcaption>
                    </figure>
                  </span>
                  <span className="soft small">{DONE[edit.kind] ?? edit.kind}</span>
                </li>
              ))}
            </ul>
          )}
          <p className="soft small">
            Removal {effect(one.removal, one.removal_images)}, insertion {effect(one.insertion, one.insertion_images)}; editor {one.editor}.
          </p>
        </div>
      ))}
      {canTest && <Ask neuron={neuron} label={label} tested={found.some((one) => one.label === label)} />}
    </section>
  );
}

function effect(share: number | null, images: number): string {
  return images && share !== null ? `${Math.round(share * 100)}% of ${images} images` : "on no images";
}

/** A label or another phrase, put to the test on the server; how far it is, and why it failed. */
function Ask({ neuron, label, tested }: { neuron: number; label: string | null; tested: boolean }) {
  const { info, refresh } = useWorld();
  const [phrase, setPhrase] = useState(label ?? "");
  const [job, setJob] = useState<Job | null>(null);
  const [error, setError] = useState<string | null>(null);
  const running = job?.state === "running";
  useEffect(() => setPhrase(label ?? ""), [label, neuron]);
  useEffect(() => {
    setError(null);
    source.testing(info.key).then((t) => setJob(t.job), () => setJob(null));
  }, [info.key, neuron]);
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => {
      source.testing(info.key).then(
        (t) => {
          setJob(t.job);
          if (t.job?.state === "done") {
            source.changed();
            setTimeout(refresh, 600); // the server looks at the run's folder twice a second
          }
        },
        (e: unknown) => setError(e instanceof Error ? e.message : String(e)),
      );
    }, 700);
    return () => clearInterval(timer);
  }, [running, info.key, refresh]);
  const mine = job?.neuron === neuron;
  return (
    <form
      className="ask"
      onSubmit={(e) => {
        e.preventDefault();
        setError(null);
        source.verify(info.key, neuron, phrase).then(
          (t) => setJob(t.job),
          (e: unknown) => setError(e instanceof Error ? e.message : String(e)),
        );
      }}
    >
      <label>
        Phrase <input value={phrase} onChange={(e) => setPhrase(e.target.value)} maxLength={400} />
      </label>
      <button type="submit" disabled={running || phrase.trim() === ""}>
        {phrase.trim() === label ? (tested ? "Verify this label again" : "Verify this label") : "Verify this phrase"}
      </button>
      <p className="soft small" role="status">
        {running && (
          <>
            <span className="spinner" aria-hidden="true" /> {mine ? `“${job.label}”` : `neuron ${job.neuron}, “${job.label}”`}: {job.stage}
            {job.total > 0 && `, ${job.done} of ${job.total}`}
          </>
        )}
        {!running && mine && job.state === "failed" && <span className="failed">{job.stage}</span>}
        {error && <span className="failed">{error}</span>}
      </p>
    </form>
  );
}
