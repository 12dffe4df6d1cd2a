import { useEffect, useMemo, useRef, useState } from "react";
import { short } from "../logic/select";
import type { ActivationMap, Detail, Pair } from "../types";
import { Bar } from "./Bits";
import { Picture } from "./Picture";

/** Activating images above their contrastive partners, pair by pair. */
export function Pairs({ detail }: { detail: Detail }) {
  const [open, setOpen] = useState<number | null>(null);
  const [heat, setHeat] = useState(false);
  const maps = useMemo(() => new Map(detail.maps?.map((m) => [m.image, m])), [detail.maps]);
  const most = Math.max(1e-9, ...detail.exemplars.map((p) => p.activation ?? 0));
  if (!detail.exemplars.length)
    return <p className="empty">No exemplars: this neuron is {detail.status === "ok" ? "not among those labeled" : detail.status}.</p>;
  return (
    <section className="pairs-section" aria-labelledby="pairs-title">
      <div className="pairs-head">
        <h2 id="pairs-title">Evidence</h2>
        <p className="key">
          <span className="pos-key">activating image</span> above <span className="con-key">its contrast</span>: alike, but below the
          neuron's mean
        </p>
        {maps.size > 0 && (
          <label>
            <input type="checkbox" checked={heat} onChange={(e) => setHeat(e.target.checked)} /> activation maps
          </label>
        )}
      </div>
      <ol className="pairs">
        {detail.exemplars.map((p, i) => (
          <li key={p.rank}>
            <button type="button" className="pair" onClick={() => setOpen(i)} aria-label={described(p)}>
              <Half pair={p} side="positive" most={most} map={heat ? maps.get(p.positive?.image ?? -1) : undefined} />
              <span className="cosine" title="cosine between the two">
                {p.similarity === null ? "no contrast" : `cos ${p.similarity.toFixed(2)}`}
              </span>
              <Half pair={p} side="contrast" most={most} map={heat ? maps.get(p.contrast?.image ?? -1) : undefined} />
            </button>
          </li>
        ))}
      </ol>
      <PairDialog detail={detail} at={open} most={most} maps={maps} onMove={setOpen} />
    </section>
  );
}

function described(p: Pair): string {
  const contrast = p.contrast ? `contrast ${p.contrast.id}, activation ${short(p.contrast_activation)}, cosine ${short(p.similarity)}` : "no contrast";
  return `Pair ${p.rank + 1}: ${p.positive?.id ?? "no image"}, activation ${short(p.activation)}; ${contrast}`;
}

function Half({ pair, side, most, map }: { pair: Pair; side: "positive" | "contrast"; most: number; map?: ActivationMap | undefined }) {
  const picture = pair[side];
  const value = side === "positive" ? pair.activation : pair.contrast_activation;
  return (
    <span className={`half ${side}`}>
      <span className="frame">
        <Picture image={picture?.image ?? -1} alt="" />
        {map && <Heat map={map} />}
      </span>
      <Bar value={value} most={most} tone={side === "positive" ? "pos" : "con"} />
      <span className="value">{picture ? short(value) : ""}</span>
    </span>
  );
}

/** Where in the image the neuron was active, laid over it. */
function Heat({ map }: { map: ActivationMap }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const element = canvas.current!;
    element.width = map.width;
    element.height = map.height;
    const draw = element.getContext("2d");
    if (!draw) return;
    const pixels = draw.createImageData(map.width, map.height);
    map.values.forEach((v, i) => pixels.data.set([255, 120 + v / 3, 20, Math.round(v * 0.78)], i * 4));
    draw.putImageData(pixels, 0, 0);
  }, [map]);
  return <canvas ref={canvas} className="heat" aria-hidden="true" />;
}

interface DialogProps {
  detail: Detail;
  at: number | null;
  most: number;
  maps: Map<number, ActivationMap>;
  onMove: (at: number | null) => void;
}

function PairDialog({ detail, at, most, maps, onMove }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const pair = at === null ? null : detail.exemplars[at];
  useEffect(() => {
    if (pair && !dialog.current?.open) dialog.current?.showModal();
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
                  {maps.has(pair[side]?.image ?? -1) && <Heat map={maps.get(pair[side]!.image)!} />}
                </span>
                <figcaption>
                  <b>{side === "positive" ? "Activating" : "Contrast"}</b>
                  <Bar value={side === "positive" ? pair.activation : pair.contrast_activation} most={most} tone={side === "positive" ? "pos" : "con"} />
                  <span>activation {short(side === "positive" ? pair.activation : pair.contrast_activation)}</span>
                  <span className="mono">{pair[side]?.id ?? "none is below the mean"}</span>
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
