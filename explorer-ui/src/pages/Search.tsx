import { type FormEvent, useEffect, useMemo, useRef, useState } from "react";
import { Problem, Twin, Waiting } from "../parts/Bits";
import { Grid } from "../parts/Grid";
import { best, commonest, select } from "../logic/select";
import { source } from "../source";
import { useLoaded, useParam, useWorld } from "../state";
import type { Hits } from "../types";

/** Words, a picture or a label to neurons. */
export function Search() {
  const { info, index, list, noted } = useWorld();
  const why = source.live ? list.encoder : "this is an export; search by meaning needs `contralens explore`";
  const unable = why ?? info.missing.find((m) => m.what.includes("search"))?.why ?? null;
  const [mode, setMode] = useParam("by", unable ? "label" : "words");
  const [text, setText] = useParam("text");
  const [gammaText, setGamma] = useParam("gamma");
  const [draft, setDraft] = useState(text);
  const [file, setFile] = useState<{ blob: Blob; url: string } | null>(null);
  const gamma = gammaText === "" ? null : Math.min(1, Math.max(0, Number(gammaText) || 0));
  const byWords = mode === "words" && text !== "" && unable === null;
  const words = useLoaded(byWords ? `${info.key} ${info.stamp} ${gamma} ${text}` : null, () => source.words(info.key, text, gamma));
  const byPicture = mode === "picture" && file !== null;
  const picture = useLoaded(byPicture ? `${info.key} ${info.stamp} ${gamma} ${file?.url}` : null, () =>
    source.picture(info.key, file!.blob, gamma),
  );
  useEffect(() => setDraft(text), [text]);
  const take = (blob: Blob | null | undefined) => {
    if (!blob) return;
    setFile((old) => {
      if (old) URL.revokeObjectURL(old.url);
      return { blob, url: URL.createObjectURL(blob) };
    });
    setMode("picture");
  };
  useEffect(() => {
    const paste = (e: ClipboardEvent) => {
      const found = [...(e.clipboardData?.files ?? [])].find((f) => f.type.startsWith("image/"));
      if (found && unable === null) take(found);
    };
    window.addEventListener("paste", paste);
    return () => window.removeEventListener("paste", paste);
  });
  const labels = useMemo(
    () =>
      mode === "label" && text !== ""
        ? select(index, { scorer: index.primary, q: text, status: "", sort: "score", descending: true, ranges: {} }, noted)
        : [],
    [mode, text, index, noted],
  );
  const submit = (e: FormEvent) => {
    e.preventDefault();
    setText(draft.trim());
  };
  const answer = mode === "words" ? words : mode === "picture" ? picture : null;
  return (
    <div className="search-page">
      <h1>Search</h1>
      <div className="tabs" role="group" aria-label="Search by">
        {(["words", "picture", "label"] as const).map((m) => (
          <button key={m} type="button" aria-pressed={mode === m} onClick={() => setMode(m)}>
            {{ words: "By meaning", picture: "By picture", label: "By label" }[m]}
          </button>
        ))}
      </div>
      {mode !== "label" && unable !== null && (
        <Problem title="Search by meaning is off">{unable}. Search by label works.</Problem>
      )}
      {(mode === "label" || (mode === "words" && unable === null)) && (
        <form className="search-form" role="search" onSubmit={submit}>
          <input
            data-search
            type="search"
            aria-label={mode === "words" ? "Search words" : "Part of a label"}
            placeholder={mode === "words" ? "e.g. red stripes, an animal's fur, text on a sign" : "part of a label"}
            value={draft}
            maxLength={400}
            onChange={(e) => {
              setDraft(e.target.value);
              if (mode === "label") setText(e.target.value);
            }}
          />
          {mode === "words" && <button className="strong">Search</button>}
        </form>
      )}
      {mode === "picture" && unable === null && (
        <Drop onFile={take} url={file?.url ?? null} />
      )}
      {mode !== "label" && unable === null && (
        <label className="gamma-choice">
          Against concept vectors at gamma{" "}
          <select value={gammaText} onChange={(e) => setGamma(e.target.value)}>
            <option value="">as labeled</option>
            <option value="0">0 (exemplars alone)</option>
            <option value="0.5">0.5</option>
            <option value="1">1 (everything shared with contrasts removed)</option>
          </select>
        </label>
      )}
      {text === "" && mode !== "picture" && (mode === "label" || unable === null) && <Ideas onChoose={setText} />}
      {answer?.loading && <Waiting>Searching… the encoder is loaded once, at the first search.</Waiting>}
      {answer?.error && <Problem title="No answer">{answer.error}</Problem>}
      {answer?.data && <Results hits={answer.data} twin={mode === "words"} />}
      {mode === "label" && text !== "" && (
        <section>
          <h2 role="status">
            {labels.length} label{labels.length === 1 ? "" : "s"} with “{text}”
          </h2>
          <Grid index={index} rows={labels} scorer={index.primary} side="positives" notes={noted} label="Found neurons" />
        </section>
      )}
    </div>
  );
}

/** The most common labels, to begin with. */
function Ideas({ onChoose }: { onChoose: (text: string) => void }) {
  const { index, noted } = useWorld();
  const common = useMemo(() => commonest(index, index.primary, 14), [index]);
  const examples = useMemo(() => best(index, common.map(([label]) => label)), [index, common]);
  return (
    <>
      <div className="ideas" role="group" aria-label="Common labels">
        <span>Common labels:</span>
        {common.map(([label, count]) => (
          <button key={label} type="button" onClick={() => onChoose(label)}>
            {label} <span>{count}</span>
          </button>
        ))}
      </div>
      {examples.length > 0 && (
        <section>
          <h2>The most confident neuron of each</h2>
          <Grid index={index} rows={examples} scorer={index.primary} side="positives" notes={noted} label="Examples" />
        </section>
      )}
    </>
  );
}

function Results({ hits, twin }: { hits: Hits; twin: boolean }) {
  const { index, noted } = useWorld();
  const query = new URLSearchParams({ text: hits.query, gamma: String(hits.gamma) });
  const [rows, similarity] = useMemo(() => {
    const rowOf = new Map(index.neuron.map((n, i) => [n, i]));
    const found = hits.hits.filter((h) => rowOf.has(h.neuron));
    return [found.map((h) => rowOf.get(h.neuron)!), new Map(found.map((h) => [rowOf.get(h.neuron)!, h.similarity]))] as const;
  }, [hits, index]);
  return (
    <section>
      <div className="title-line">
      <h2 role="status">
        {rows.length} neurons closest to {hits.query === "a picture" ? "the picture" : `“${hits.query}”`}
      </h2>
        {twin && <Twin path={`api/runs/${encodeURIComponent(index.key)}/search?${query}`} />}
      </div>
      <p className="soft">
        Cosine to each neuron's concept vector at gamma {hits.gamma}; it is a ranking, not a proof.{hits.note && ` ${hits.note}`}
      </p>

      <Grid index={index} rows={rows} scorer={index.primary} side="positives" notes={noted} similarity={similarity} label="Found neurons" />
    </section>
  );
}

function Drop({ onFile, url }: { onFile: (file: Blob | null | undefined) => void; url: string | null }) {
  const input = useRef<HTMLInputElement>(null);
  const [over, setOver] = useState(false);
  return (
    <div
      className={`drop ${over ? "over" : ""}`}
      onDragOver={(e) => {
        e.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(e) => {
        e.preventDefault();
        setOver(false);
        onFile(e.dataTransfer.files[0]);
      }}
    >
      {url && <img src={url} alt="Search picture" />}
      <p>
        Drop or paste a picture here, or{" "}
        <button type="button" className="strong" onClick={() => input.current?.click()}>
          choose a file
        </button>
      </p>
      <p className="soft">It stays on this machine and is not stored. At most 10 MB.</p>
      <input
        ref={input}
        type="file"
        accept="image/*"
        aria-label="Search by picture"
        className="hidden"
        tabIndex={-1}
        onChange={(e) => onFile(e.target.files?.[0])}
      />
    </div>
  );
}
