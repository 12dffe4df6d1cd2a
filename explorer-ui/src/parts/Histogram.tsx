import { type PointerEvent, useRef, useState } from "react";
import type { Bins, Range } from "../logic/select";
import { short } from "../logic/select";

interface Props {
  title: string;
  about?: string | undefined;
  all: Bins;
  shown: Bins | null;
  range: Range;
  onRange: (range: Range) => void;
}

const W = 180;
const H = 46;

/** How a figure is distributed; drag over it, or write numbers, to keep a part. */
export function RangeHistogram({ title, about, all, shown, range, onRange }: Props) {
  const svg = useRef<SVGSVGElement>(null);
  const [drag, setDrag] = useState<[number, number] | null>(null);
  const most = Math.max(...all.counts, 1);
  const x = (value: number) => ((value - all.low) / (all.high - all.low)) * W;
  const height = (count: number) => (count ? Math.max(1.5, (Math.sqrt(count) / Math.sqrt(most)) * H) : 0);
  const value = (e: PointerEvent) => {
    const box = svg.current!.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (e.clientX - box.left) / box.width));
    return all.low + share * (all.high - all.low);
  };
  const [low, high] = drag ? [Math.min(...drag), Math.max(...drag)] : [range[0] ?? all.low, range[1] ?? all.high];
  const active = drag !== null || range[0] !== null || range[1] !== null;
  const w = W / all.counts.length;
  const neat = (v: number) => Number(v.toPrecision(3));
  return (
    <figure className={`range ${active ? "active" : ""}`}>
      <figcaption title={about}>
        {title}
        {active && (
          <button type="button" className="plain" onClick={() => onRange([null, null])} aria-label={`Show all values of ${title}`}>
            all
          </button>
        )}
      </figcaption>
      <svg
        ref={svg}
        viewBox={`0 0 ${W} ${H}`}
        preserveAspectRatio="none"
        aria-hidden="true"
        onPointerDown={(e) => {
          (e.target as Element).setPointerCapture(e.pointerId);
          setDrag([value(e), value(e)]);
        }}
        onPointerMove={(e) => drag && setDrag([drag[0], value(e)])}
        onPointerUp={(e) => {
          if (!drag) return;
          const [a, b] = [Math.min(drag[0], value(e)), Math.max(drag[0], value(e))];
          setDrag(null);
          if (x(b) - x(a) > 3) onRange([neat(a), neat(b)]);
          else onRange([null, null]);
        }}
        onPointerCancel={() => setDrag(null)}
      >
        {active && <rect className="kept" x={x(low)} y={0} width={Math.max(0, x(high) - x(low))} height={H} />}
        {all.counts.map((count, i) => (
          <rect key={i} className="bin" x={i * w + 0.5} width={w - 1} y={H - height(count)} height={height(count)} />
        ))}
        {shown?.counts.map((count, i) => (
          <rect key={`s${i}`} className="bin shown" x={i * w + 0.5} width={w - 1} y={H - height(count)} height={height(count)} />
        ))}
      </svg>
      <div className="range-numbers">
        <Limit label={`Least ${title}`} value={range[0]} hint={short(all.low)} onValue={(v) => onRange([v, range[1]])} />
        <span aria-hidden="true">–</span>
        <Limit label={`Most ${title}`} value={range[1]} hint={short(all.high)} onValue={(v) => onRange([range[0], v])} />
      </div>
    </figure>
  );
}

function Limit({ label, value, hint, onValue }: { label: string; value: number | null; hint: string; onValue: (v: number | null) => void }) {
  const [text, setText] = useState<string | null>(null);
  const done = () => {
    if (text === null) return;
    const number = Number(text);
    onValue(text.trim() === "" || !Number.isFinite(number) ? null : number);
    setText(null);
  };
  return (
    <input
      aria-label={label}
      inputMode="decimal"
      placeholder={hint}
      value={text ?? (value === null ? "" : String(value))}
      onChange={(e) => setText(e.target.value)}
      onBlur={done}
      onKeyDown={(e) => e.key === "Enter" && done()}
    />
  );
}
