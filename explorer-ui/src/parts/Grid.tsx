import { type KeyboardEvent, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import { layout, step, visible } from "../logic/virtual";
import { useNeuronLink } from "./Bits";
import { Card } from "./Card";
import type { Index, Note } from "../types";

interface Props {
  index: Index;
  rows: number[];
  scorer: string;
  side: "positives" | "contrasts";
  notes: Map<number, Note[]>;
  similarity?: Map<number, number>;
  label: string;
  /** Where in the list the keyboard begins, e.g. the neuron one comes back from. */
  start?: number;
}

const GAP = 14;
const LEAST = 178;

/** All neurons that pass, of which only those near the screen are in the page. */
export function Grid({ index, rows, scorer, side, notes, similarity, label, start = 0 }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(() => Math.min(window.innerWidth - 32, 1400));
  const [range, setRange] = useState<[number, number]>([0, 12]);
  const [at, setAt] = useState(start);
  const wanted = useRef<number | null>(null);
  const href = useNeuronLink();
  const least = width < 460 ? 150 : LEAST;
  const columns = layout(width, rows.length, least, GAP, 0, 2).columns;
  const card = (width - GAP * (columns - 1)) / columns;
  const shape = layout(width, rows.length, least, GAP, Math.round(card + 82), 2);
  const most = similarity ? Math.max(1e-6, ...similarity.values()) : largest(index, scorer);

  const pause = useRef<ReturnType<typeof setTimeout>>(undefined);
  const look = useCallback(() => {
    const top = -(box.current?.getBoundingClientRect().top ?? 0);
    const near = visible(shape, top, window.innerHeight, 0.15);
    const wide = visible(shape, top, window.innerHeight);
    clearTimeout(pause.current);
    setRange((old) => {
      const there = near[0] >= old[0] && near[1] <= old[1];
      // After a jump, what is on the screen comes first; what lies around it follows when the eye has something to see.
      if (!there && (wide[0] > old[1] || wide[1] < old[0])) {
        pause.current = setTimeout(() => setRange(wide), 150);
        return near;
      }
      return old[0] === wide[0] && old[1] === wide[1] ? old : wide;
    });
  }, [shape.columns, shape.rows, shape.pitch]);

  useLayoutEffect(() => {
    const element = box.current!;
    const measure = () => setWidth(element.clientWidth);
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(look, [look]);
  useEffect(() => {
    window.addEventListener("scroll", look, { passive: true });
    window.addEventListener("resize", look);
    return () => {
      window.removeEventListener("scroll", look);
      window.removeEventListener("resize", look);
    };
  }, [look]);

  const cursor = Math.min(at, Math.max(0, rows.length - 1));
  const onKey = (e: KeyboardEvent) => {
    if (e.altKey || e.ctrlKey || e.metaKey) return;
    const to = step(e.key, cursor, shape.columns, rows.length);
    if (to === null) return;
    e.preventDefault();
    setAt(to);
    const line = Math.floor(to / shape.columns) * shape.pitch;
    const origin = box.current!.getBoundingClientRect().top + window.scrollY;
    const bar = document.querySelector("header.top")?.getBoundingClientRect().height ?? 0;
    if (origin + line < window.scrollY + bar + 8) window.scrollTo(0, origin + line - bar - 8);
    else if (origin + line + shape.pitch > window.scrollY + window.innerHeight)
      window.scrollTo(0, origin + line + shape.pitch - window.innerHeight);
    wanted.current = to;
    look();
  };
  // The row of the cursor is always drawn, so the focus moves in the same step and no key is lost.
  useLayoutEffect(() => {
    if (wanted.current === null) return;
    box.current?.querySelector<HTMLElement>(`[data-place="${wanted.current}"] a`)?.focus({ preventScroll: true });
    wanted.current = null;
  });

  const drawn: number[] = [];
  for (let line = range[0]; line < Math.min(range[1], shape.rows); line++) drawn.push(line);
  if (rows.length && !drawn.includes(Math.floor(cursor / shape.columns))) drawn.push(Math.floor(cursor / shape.columns));
  return (
    <div
      ref={box}
      className="grid"
      role="grid"
      aria-label={label}
      aria-rowcount={shape.rows}
      aria-colcount={shape.columns}
      style={{ height: Math.max(0, shape.rows * shape.pitch - GAP) }}
      onKeyDown={onKey}
    >
      {drawn.map((line) => (
        <div
          key={line}
          role="row"
          aria-rowindex={line + 1}
          className="grid-row"
          style={{
            transform: `translateY(${line * shape.pitch}px)`,
            height: shape.pitch - GAP,
            gridTemplateColumns: `repeat(${shape.columns}, minmax(0, 1fr))`,
            columnGap: GAP,
          }}
        >
          {rows.slice(line * shape.columns, (line + 1) * shape.columns).map((row, i) => {
            const place = line * shape.columns + i;
            return (
              <div
                role="gridcell"
                key={row}
                data-place={place}
                aria-colindex={i + 1}
                className="cell"
                onFocus={() => setAt(place)}
              >
                <Card
                  index={index}
                  row={row}
                  scorer={scorer}
                  side={side}
                  href={href(index.neuron[row]!, index.key)}
                  most={most}
                  notes={notes.get(index.neuron[row]!)}
                  tabIndex={place === cursor ? 0 : -1}
                  {...(similarity ? { similarity: similarity.get(row)! } : {})}
                />
              </div>
            );
          })}
        </div>
      ))}
    </div>
  );
}

const largestOf = new WeakMap<Index, Map<string, number>>();

function largest(index: Index, scorer: string): number {
  const known = largestOf.get(index) ?? new Map<string, number>();
  largestOf.set(index, known);
  let most = known.get(scorer);
  if (most === undefined) {
    const scores = (index.scorers.find((s) => s.scorer === scorer) ?? index.scorers[0]!).score;
    most = scores.reduce<number>((m, v) => (v !== null && v > m ? v : m), 1e-6);
    known.set(scorer, most);
  }
  return most;
}
