import { useEffect, useMemo, useRef } from "react";
import { short } from "../logic/select";
import { useKeys, useParam } from "../state";
import type { Detail, Map as ActivationMap, Pair } from "../types";
import { Bar } from "./Bits";
import { Heat } from "./Heat";
import { Picture } from "./Picture";

/** Pairs that stand on the page at first. */
const FIRST = 10;

/** Activating images above their contrastive partners, pair by pair. */
export function Pairs({ detail }: { detail: Detail }) {
  const [pair, setPair] = useParam("pair");
  const [mapped, setMapped] = useParam("maps");
  const [many, setMany] = useParam("pairs");
  const heat = mapped === "1";
  const all = many === "all" || detail.exemplars.length <= FIRST;
  const place = pair === "" ? -1 : detail.exemplars.findIndex((p) => p.rank === Number(pair) - 1);
  const open = place < 0 ? null : place;
  const setOpen = (at: number | null) => setPair(at === null ? "" : String(detail.exemplars[at]!.rank + 1));
  const maps = useMemo(() => new Map(detail.maps?.map((m) => [m.image, m])), [detail.maps]);
  const most = Math.max(1e-9, ...detail.exemplars.map((p) => p.activation ?? 0));
  const used = useMemo(() => uses(detail.exemplars), [detail.exemplars]);
  useKeys((e) => {
    if (e.key === "m" && maps.size > 0) setMapped(heat ? "" : "1");
    else if (e.key === "a") setMany(many === "all" ? "" : "all");
  });
  if (!detail.exemplars.length)
    return <p className="empty">No exemplars: this neuron is {detail.status === "ok" ? "not among those labeled" : detail.status}.</p>;
  return (
    <section className="pairs-section" aria-labelledby="pairs-title">
      <div className="pairs-head">
        <h2 id="pairs-title">Evidence</h2>
        <p className="key">
          <span className="pos-key">activating image</span> above <span className="con-key">its contrast</span>: similar, but below the
          neuron's mean
        </p>
        {maps.size > 0 && (
          <label>
            <input type="checkbox" checked={heat} onChange={(e) => setMapped(e.target.checked ? "1" : "")} /> activation maps
          </label>
        )}
      </div>
      <ol className={all ? "pairs" : "pairs first"}>
        {detail.exemplars.slice(0, all ? undefined : FIRST).map((p, i) => (
          <li key={p.rank}>
            <button type="button" className="pair" onClick={() => setOpen(i)}>
              <span className="hidden">Pair {p.rank + 1}: </span>
              <Half pair={p} side="positive" most={most} map={heat ? maps.get(p.positive?.image ?? -1) : undefined} />
              <span className="cosine" title="cosine between the two">
                {p.similarity === null ? "no contrast" : `cos ${p.similarity.toFixed(2)}`}
              </span>
              <Half pair={p} side="contrast" most={most} map={heat ? maps.get(p.contrast?.image ?? -1) : undefined} shared={used.get(p.contrast?.image ?? -1)} />
            </button>
          </li>
        ))}
      </ol>
      {detail.exemplars.length > FIRST && (
        <p className="more">
          <button type="button" aria-expanded={all} onClick={() => setMany(all ? "" : "all")}>
            {all ? "Show the first pairs only" : `Show all ${detail.exemplars.length} pairs`}
          </button>
        </p>
      )}
      <PairDialog detail={detail} at={open} most={most} maps={maps} heat={heat} onMove={setOpen} />
    </section>
  );
}

/** Contrast images that stand below several exemplars -> the ranks of those. */
export function uses(pairs: Pair[]): Map<number, number[]> {
  const out = new Map<number, number[]>();
  for (const p of pairs) if (p.contrast && !own(p)) out.set(p.contrast.image, [...(out.get(p.contrast.image) ?? []), p.rank]);
  return new Map([...out].filter(([, ranks]) => ranks.length > 1));
}

/** Whether an image is its own contrast: it leaves the neuron below its mean, as fewer images fire than there are exemplars. */
function own(pair: Pair) {
  return pair.contrast !== null && pair.contrast.image === pair.positive?.image;
}

interface HalfProps {
  pair: Pair;
  side: "positive" | "contrast";
  most: number;
  map?: ActivationMap | undefined;
  /** The ranks of the pairs that have this contrast, where several do. */
  shared?: number[] | undefined;
}

function Half({ pair, side, most, map, shared }: HalfProps) {
  const picture = pair[side];
  if (side === "contrast" && own(pair))
    return <span className="half contrast itself">itself: already below the mean</span>;
  const value = side === "positive" ? pair.activation : pair.contrast_activation;
  return (
    <span className={`half ${side}`}>
      <span className="frame">
        <Picture image={picture?.image ?? -1} alt="" />
        {map && <Heat map={map} />}
        {shared && (
          <span className="shared" title={`the contrast of ${shared.length} pairs: ${shared.map((r) => r + 1).join(", ")}`}>
            {shared[0] === pair.rank ? `×${shared.length}` : `as in ${shared[0]! + 1}`}
          </span>
        )}
      </span>
      <Bar value={value} most={most} tone={side === "positive" ? "pos" : "con"} />
      {picture && (
        <span className="hidden">
          {side === "positive" ? "" : "contrast "}
          {picture.id}, activation{" "}
        </span>
      )}
      <span className="value">{picture ? short(value) : ""}</span>
    </span>
  );
}

interface DialogProps {
  detail: Detail;
  at: number | null;
  most: number;
  maps: Map<number, ActivationMap>;
  heat: boolean;
  onMove: (at: number | null) => void;
}

function PairDialog({ detail, at, most, maps, heat, onMove }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const pair = at === null ? null : detail.exemplars[at];
  useEffect(() => {
    if (pair && !dialog.current?.open) dialog.current?.showModal();
    if (!pair && dialog.current?.open) dialog.current.close();
  }, [pair]);
  const last = detail.exemplars.length - 1;
  return (
    <dialog
      ref={dialog}
      className="pair-dialog"
      aria-labelledby="pair-title"
      onClose={() => onMove(null)}
      onClick={(e) => e.target === dialog.current && dialog.current?.close()}
      onKeyDown={(e) => {
        if (at === null) return;
        if (e.key === "ArrowRight") onMove(Math.min(last, at + 1));
        if (e.key === "ArrowLeft") onMove(Math.max(0, at - 1));
      }}
    >
      {pair && at !== null && (
        <>
          <h2 id="pair-title">
            Pair {pair.rank + 1} of {detail.exemplars.length}
            {pair.similarity !== null && <span className="soft"> · cosine {pair.similarity.toFixed(3)}</span>}
          </h2>
          <div className="pair-large">
            {(["positive", "contrast"] as const).map((side) => (
              <figure key={side} className={side}>
                <span className="frame">
                  <Picture image={pair[side]?.image ?? -1} alt={pair[side]?.id ?? "no contrast"} />
                  {heat && maps.has(pair[side]?.image ?? -1) && <Heat map={maps.get(pair[side]!.image)!} />}
                </span>
                <figcaption>
                  <b>{side === "positive" ? "Activating" : "Contrast"}</b>
                  <Bar value={side === "positive" ? pair.activation : pair.contrast_activation} most={most} tone={side === "positive" ? "pos" : "con"} />
                  <span>activation {short(side === "positive" ? pair.activation : pair.contrast_activation)}</span>
                  <span className="mono">{pair[side]?.id ?? "none below the mean"}</span>
                  {side === "contrast" && own(pair) && <span className="soft">itself: already below the mean</span>}
                  {pair[side]?.label && <span className="soft">labelled {pair[side]?.label}</span>}
                </figcaption>
              </figure>
            ))}
          </div>
          <form method="dialog" className="actions">
            <button type="button" disabled={at === 0} onClick={() => onMove(at - 1)}>
              ← Before
            </button>
            <button type="button" disabled={at === last} onClick={() => onMove(at + 1)}>
              Next →
            </button>
            <button>Close</button>
          </form>
        </>
      )}
    </dialog>
  );
}
