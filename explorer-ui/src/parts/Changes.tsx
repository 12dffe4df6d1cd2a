import { useEffect, useRef, useState } from "react";
import { type Change, reasons, type Side, telling } from "../logic/compare";
import { short } from "../logic/select";
import { visible } from "../logic/virtual";
import { source } from "../source";
import { useLoaded, useNarrow } from "../state";
import type { Detail, Index } from "../types";
import { Confidence, useNeuronLink } from "./Bits";
import { Picture } from "./Picture";

const PITCH = 148;
const NARROW = 226;
/** How long a row must stay on the screen before its reasons are asked for, ms. */
const SETTLED = 150;

interface Props {
  rows: Change[];
  a: Index;
  b: Index;
  scorerA: string;
  scorerB: string;
  sameImages: boolean;
}

/** Pairs of neurons under each other; only those on the screen are drawn. */
export function Changes({ rows, ...rest }: Props) {
  const box = useRef<HTMLOListElement>(null);
  const pitch = useNarrow(760) ? NARROW : PITCH;
  const [range, setRange] = useState<[number, number]>([0, 14]);
  useEffect(() => {
    const look = () => {
      const top = -(box.current?.getBoundingClientRect().top ?? 0);
      setRange(visible({ columns: 1, rows: rows.length, pitch }, top, window.innerHeight, 1));
    };
    look();
    window.addEventListener("scroll", look, { passive: true });
    window.addEventListener("resize", look);
    return () => {
      window.removeEventListener("scroll", look);
      window.removeEventListener("resize", look);
    };
  }, [rows.length, pitch]);
  if (!rows.length) return <p className="empty">No neuron to show.</p>;
  return (
    <ol ref={box} className="changes" style={{ height: rows.length * pitch }}>
      {rows.slice(range[0], range[1]).map((c, i) => (
        <li key={`${c.kind} ${c.a?.row} ${c.b?.row}`} style={{ transform: `translateY(${(range[0] + i) * pitch}px)`, height: pitch }}>
          <Row change={c} {...rest} />
        </li>
      ))}
    </ol>
  );
}

function Row({ change, a, b, scorerA, scorerB, sameImages }: Omit<Props, "rows"> & { change: Change }) {
  const [one, other] = useDetails(change, a, b);
  const isOne = a.key === b.key && change.a?.row === change.b?.row;
  const why = one && other ? reasons(one, scorerA, other, scorerB, sameImages) : [];
  const correlation = change.correlation === null ? [] : [`correlation ${short(change.correlation)}`];
  const pair = isOne && one ? telling(one) : null;
  return (
    <div className={isOne ? "change-row one" : "change-row"}>
      {isOne ? (
        <Both change={change} index={a} />
      ) : (
        <>
          <Half index={a} side={change.a} none="no match in A" />
          <Half index={b} side={change.b} none="no match in B" />
        </>
      )}
      {pair && (
        <span className="decided" title="the pair that decides: similar for the encoder, different for the neuron">
          <Picture image={pair.positive!.image} alt="activating image" run={a} />
          <Picture image={pair.contrast!.image} alt="its contrast" run={a} />
          <span className="soft small">
            active {short(pair.activation)} against {short(pair.contrast_activation)}, cosine {short(pair.similarity)}
          </span>
        </span>
      )}
      <p className="why">{[...correlation, ...why].join(" · ") || "\u00a0"}</p>
    </div>
  );
}

/** Two labels of one neuron: its images above their contrasts, the one label struck through, the other. */
function Both({ change, index }: { change: Change; index: Index }) {
  const link = useNeuronLink();
  const { row } = change.a!;
  return (
    <a className="change-side" href={link(index.neuron[row]!, index.key)}>
      <span className="two-strips">
        <Strip index={index} row={row} side="positives" />
        <Strip index={index} row={row} side="contrasts" />
      </span>
      <span className="change-words">
        {change.kind === "changed" && <s className="soft">{change.a!.label ?? "no label"}</s>}
        <b>{change.b!.label ?? "no label"}</b>
        <Facts index={index} side={change.b!} />
      </span>
    </a>
  );
}

function Half({ index, side, none }: { index: Index; side: Side | null; none: string }) {
  const link = useNeuronLink();
  if (!side) return <span className="change-side nobody soft">{none}</span>;
  return (
    <a className="change-side" href={link(index.neuron[side.row]!, index.key)}>
      <Strip index={index} row={side.row} side="positives" />
      <span className="change-words">
        <b>{side.label ?? "no label"}</b>
        <Facts index={index} side={side} />
      </span>
    </a>
  );
}

function Facts({ index, side }: { index: Index; side: Side }) {
  return (
    <>
      <span className="soft">
        <span className="mono">{index.name[side.row]}</span>
        {side.confidence === null && ` · ${short(side.score)}`}
      </span>
      {side.confidence !== null && side.label !== null && <Confidence value={side.confidence} />}
    </>
  );
}

function Strip({ index, row, side }: { index: Index; row: number; side: "positives" | "contrasts" }) {
  const images = index[side].slice(row * index.shown, (row + 1) * index.shown).filter((image) => image >= 0);
  return (
    <span className={`strip ${side}`}>
      {images.map((image, i) => (
        <Picture key={`${i} ${image}`} image={image} alt="" run={index} />
      ))}
    </span>
  );
}

/** All about both neurons, once the row has stayed on the screen for a moment. */
function useDetails(change: Change, a: Index, b: Index): [Detail | null, Detail | null] {
  const [settled, setSettled] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(true), SETTLED);
    return () => clearTimeout(timer);
  }, []);
  const both = change.a !== null && change.b !== null;
  const key = settled && both ? `${a.key} ${a.stamp} ${change.a!.row} ${b.key} ${b.stamp} ${change.b!.row}` : null;
  const { data } = useLoaded(key, () =>
    Promise.all([source.detail(a.key, a.neuron[change.a!.row]!), source.detail(b.key, b.neuron[change.b!.row]!)]),
  );
  return data ?? [null, null];
}
