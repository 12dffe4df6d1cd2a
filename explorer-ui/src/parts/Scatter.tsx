import { type PointerEvent, useEffect, useMemo, useRef, useState } from "react";
import { inside, type Point, thinned } from "../logic/lasso";
import { coloursOf, paint, pixels, type Placed, type Thumb, thumbs } from "../logic/paint";
import { format } from "../logic/route";
import { labelAt, scorerOf, short } from "../logic/select";
import { Frame, spread, type View, WHOLE } from "../logic/view";
import { source } from "../source";
import { go, useWorld } from "../state";
import { Picture } from "./Picture";

export interface Dot {
  row: number;
  x: number;
  y: number;
}

interface Props {
  points: Dot[];
  values: (number | null)[];
  polygon: Point[];
  scorer: string;
  name: string;
  onLasso: (polygon: Point[]) => void;
}

/** What a drag does; a mouse draws and a finger moves, unless one of them is chosen. */
type Mode = "draw" | "move" | null;

/** Neurons as dots, with pictures where there is room for them. */
export function Scatter({ points, values, polygon, scorer, name, onLasso }: Props) {
  const { index, info } = useWorld();
  const canvas = useRef<HTMLCanvasElement>(null);
  const { width, height, theme } = useCanvas(canvas);
  const [view, setView] = useState<View>(WHOLE);
  const [line, setLine] = useState<Point[]>([]);
  const [over, setOver] = useState<Placed | null>(null);
  const [mode, setMode] = useState<Mode>(null);
  const frame = useMemo(() => new Frame(points, width, height), [points, width, height]);
  const limits = useMemo(() => spread(points.map((p) => values[p.row] ?? null)), [points, values]);
  useEffect(() => setView(WHOLE), [points]);
  const placed = useMemo(() => place(points, values, limits, index, scorer, polygon, frame, view), [points, values, limits, index, scorer, polygon, frame, view]);
  const shown = useMemo(() => thumbs(placed, width, height, view.zoom), [placed, width, height, view.zoom]);
  const pictures = usePictures(shown);
  const radius = Math.max(2.4, Math.min(6, 90 / Math.sqrt(points.length + 1))) * Math.min(2, Math.sqrt(view.zoom));

  useEffect(() => {
    const element = canvas.current!;
    element.width = width * pixels();
    element.height = height * pixels();
    const draw = element.getContext("2d");
    const shape = line.length ? line : polygon.map(([x, y]) => frame.toScreen(view, x, y));
    if (draw) paint(draw, placed, shown, radius, coloursOf(element), pictures, shape);
  }, [placed, shown, radius, pictures, polygon, line, frame, view, width, height, theme]);

  useEffect(() => {
    const element = canvas.current!;
    const wheel = (e: WheelEvent) => {
      if (!e.ctrlKey && !e.shiftKey) return;
      e.preventDefault();
      const rect = element.getBoundingClientRect();
      const at: Point = [e.clientX - rect.left, e.clientY - rect.top];
      setView((v) => frame.zoomed(v, Math.exp(-(e.deltaY || e.deltaX) / 400), at));
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  }, [frame]);

  const nearest = (s: Point): Placed | null => hit(s, placed, shown);
  const open = (p: Placed) => go({ run: info.key, page: "neuron", neuron: index.neuron[p.row]! });
  const fingers = useFingers(canvas, {
    moves: (touch) => (mode === null ? touch : mode === "move"),
    line: setLine,
    drawn: (drawn) => onLasso(drawn.map((s) => frame.toPlane(view, s))),
    moved: (dx, dy) => setView((v) => frame.moved(v, dx, dy)),
    zoomed: (by, at) => setView((v) => frame.zoomed(v, by, at)),
    over: (at) => setOver(at && nearest(at)),
    tapped: (at, touch) => {
      const found = nearest(at);
      if (touch) setOver(found);
      else if (found) open(found);
    },
  });
  const zoom = (by: number) => setView((v) => frame.zoomed(v, by, central(placed, width, height)));
  const step = (dx: number, dy: number) => setView((v) => frame.moved(v, (dx * width) / 5, (dy * height) / 5));
  return (
    <div className="scatter">
      <canvas
        ref={canvas}
        role="img"
        className={mode === "move" ? "moving" : ""}
        aria-label={`${points.length} neurons as points, coloured by ${name}. The grid of neurons shows the same as a list.`}
        {...fingers}
        onDoubleClick={(e) => {
          const rect = e.currentTarget.getBoundingClientRect();
          setView((v) => frame.zoomed(v, 2, [e.clientX - rect.left, e.clientY - rect.top]));
        }}
      />
      {over && <Tip over={over} width={width} height={height} name={name} value={values[over.row]} />}
      <div className="legend">
        <span>{short(limits[0])}</span>
        <span className="ramp" aria-hidden="true">
          {[0, 1, 2, 3, 4].map((i) => (
            <i key={i} className={`ramp-${i}`} />
          ))}
        </span>
        <span>{short(limits[1])}</span>
        <span className="soft">{name}</span>
        <span className="zoom">
          <button type="button" className="wide" aria-pressed={mode === "move"} onClick={() => setMode(mode === "move" ? null : "move")}>
            Move
          </button>
          <button type="button" className="wide" aria-pressed={mode === "draw"} onClick={() => setMode(mode === "draw" ? null : "draw")}>
            Draw a line
          </button>
          <button type="button" aria-label="Zoom out" onClick={() => zoom(1 / 1.5)}>
            −
          </button>
          <button type="button" aria-label="Zoom in" onClick={() => zoom(1.5)}>
            +
          </button>
          {ARROWS.map(([arrow, where, dx, dy]) => (
            <button key={arrow} type="button" className="arrow" aria-label={`Move the view ${where}`} onClick={() => step(dx, dy)}>
              {arrow}
            </button>
          ))}
          {view !== WHOLE && (
            <button type="button" className="wide" onClick={() => setView(WHOLE)}>
              Show all
            </button>
          )}
        </span>
      </div>
    </div>
  );
}

const ARROWS = [["←", "left", 1, 0], ["→", "right", -1, 0], ["↑", "up", 0, 1], ["↓", "down", 0, -1]] as const;

function Tip({ over, width, height, name, value }: { over: Placed; width: number; height: number; name: string; value: number | null | undefined }) {
  const { index, info } = useWorld();
  const style = { left: Math.max(4, Math.min(over.x, width - 216)), top: over.y + (over.y > height - 150 ? -142 : 12) };
  return (
    <a className="tip" style={style} href={format({ run: info.key, page: "neuron", neuron: index.neuron[over.row]! })} tabIndex={-1}>
      <strong>{over.label ?? "no label"}</strong>
      <span className="strip">
        {index.positives.slice(over.row * index.shown, over.row * index.shown + 3).map((image, i) => (
          <Picture key={`${i} ${image}`} image={image} alt="" />
        ))}
      </span>
      <span>
        <span className="mono">{index.name[over.row]}</span> {name} {short(value)}
      </span>
    </a>
  );
}

type WorldIndex = ReturnType<typeof useWorld>["index"];

/** The points that are on the canvas, the highest score first. */
function place(
  points: Dot[], values: (number | null)[], [low, high]: Point, index: WorldIndex, scorer: string, polygon: Point[], frame: Frame, view: View,
): Placed[] {
  const score = scorerOf(index, scorer).columns["confidence"] ?? scorerOf(index, scorer).score;
  const out: Placed[] = [];
  for (const p of points) {
    const [x, y] = frame.toScreen(view, p.x, p.y);
    if (x < -9 || y < -9 || x > frame.width + 9 || y > frame.height + 9) continue;
    const value = values[p.row] ?? null;
    const tone = value === null ? null : Math.round(4 * Math.max(0, Math.min(1, (value - low) / (high - low || 1))));
    const dim = polygon.length > 0 && !inside([p.x, p.y], polygon);
    out.push({ row: p.row, x, y, label: labelAt(index, scorer, p.row), tone, image: index.positives[p.row * index.shown] ?? -1, dim });
  }
  return out.sort((a, b) => (score[b.row] ?? -1) - (score[a.row] ?? -1) || a.row - b.row);
}

/** The dot nearest to the middle of the canvas, so that zooming never ends where there is none. */
function central(placed: Placed[], width: number, height: number): Point {
  const far = (p: Placed) => Math.hypot(p.x - width / 2, p.y - height / 2);
  const best = placed.reduce<Placed | null>((a, b) => (a && far(a) <= far(b) ? a : b), null);
  return best ? [best.x, best.y] : [width / 2, height / 2];
}

/** The picture that lies under a place, else the nearest dot. */
function hit([x, y]: Point, placed: Placed[], shown: Thumb[]): Placed | null {
  const under = shown.find(({ box }) => box.left <= x && x <= box.right && box.top <= y && y <= box.bottom);
  if (under) return under;
  let best: Placed | null = null;
  let least = 14;
  for (const p of placed) {
    const far = Math.hypot(p.x - x, p.y - y);
    if (far < least) [best, least] = [p, far];
  }
  return best;
}

interface Heard {
  moves: (touch: boolean) => boolean;
  line: (line: Point[]) => void;
  drawn: (line: Point[]) => void;
  moved: (dx: number, dy: number) => void;
  zoomed: (by: number, at: Point) => void;
  over: (at: Point | null) => void;
  tapped: (at: Point, touch: boolean) => void;
}

/** Drags, taps and pinches on the canvas: two fingers zoom and move, one or a mouse draws or moves. */
function useFingers(canvas: React.RefObject<HTMLCanvasElement | null>, heard: Heard) {
  const down = useRef(new Map<number, Point>());
  const drag = useRef<{ line: Point[]; moves: boolean; pinched: boolean; far: number } | null>(null);
  const at = (e: PointerEvent): Point => {
    const rect = canvas.current!.getBoundingClientRect();
    return [e.clientX - rect.left, e.clientY - rect.top];
  };
  const end = (e: PointerEvent) => {
    down.current.delete(e.pointerId);
    if (down.current.size === 0) drag.current = null;
    heard.line([]);
  };
  return {
    onPointerDown: (e: PointerEvent) => {
      if (e.button !== 0) return;
      e.currentTarget.setPointerCapture(e.pointerId);
      down.current.set(e.pointerId, at(e));
      if (down.current.size === 1) drag.current = { line: [at(e)], moves: heard.moves(e.pointerType === "touch"), pinched: false, far: 0 };
      else if (drag.current) drag.current.pinched = true;
      heard.line([]);
      heard.over(null);
    },
    onPointerMove: (e: PointerEvent) => {
      const now = at(e);
      const before = down.current.get(e.pointerId);
      if (!before || !drag.current) return heard.over(now);
      const others = [...down.current].filter(([id]) => id !== e.pointerId).map(([, p]) => p);
      down.current.set(e.pointerId, now);
      drag.current.far = Math.max(drag.current.far, Math.hypot(now[0] - drag.current.line[0]![0], now[1] - drag.current.line[0]![1]));
      const other = others[0];
      if (other) {
        const wide = (p: Point) => Math.max(1, Math.hypot(p[0] - other[0], p[1] - other[1]));
        heard.zoomed(wide(now) / wide(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
        heard.moved((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      } else if (drag.current.moves || drag.current.pinched) heard.moved(now[0] - before[0], now[1] - before[1]);
      else {
        drag.current.line = thinned([...drag.current.line, now], 3);
        heard.line(drag.current.line);
      }
    },
    onPointerUp: (e: PointerEvent) => {
      const done = drag.current;
      end(e);
      if (!done || done.pinched) return;
      const drawn = thinned([...done.line, at(e)], 6);
      if (done.far <= 12) heard.tapped(at(e), e.pointerType === "touch");
      else if (!done.moves && drawn.length > 3) heard.drawn(drawn);
    },
    onPointerLeave: (e: PointerEvent) => e.pointerType !== "touch" && heard.over(null),
    onPointerCancel: end,
  };
}

/** Size of the canvas, and a number that changes with the colours. */
function useCanvas(canvas: React.RefObject<HTMLCanvasElement | null>) {
  const [[width, height], setSize] = useState<[number, number]>([600, 420]);
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const element = canvas.current!;
    const observer = new ResizeObserver(() => setSize([element.clientWidth, element.clientHeight]));
    observer.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => setTheme((t) => t + 1);
    scheme.addEventListener("change", redraw);
    const watch = new MutationObserver(redraw);
    watch.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => {
      observer.disconnect();
      scheme.removeEventListener("change", redraw);
      watch.disconnect();
    };
  }, [canvas]);
  return { width, height, theme };
}

/** The pictures that are shown, once they are there. */
function usePictures(shown: Thumb[]): Map<number, HTMLImageElement> {
  const { info } = useWorld();
  const [ready, setReady] = useState(new Map<number, HTMLImageElement>());
  const wanted = [...new Set(shown.map((t) => t.image))].sort((a, b) => a - b).join();
  useEffect(() => {
    let here = true;
    const stops = wanted.split(",").filter(Boolean).map(Number).map((image) =>
      source.url(info.key, info.stamp, image, (url) => {
        if (!url) return;
        const element = new Image();
        element.onload = () => here && setReady((known) => new Map(known).set(image, element));
        element.src = url;
      }),
    );
    return () => {
      here = false;
      stops.forEach((stop) => stop());
    };
  }, [wanted, info.key, info.stamp]);
  return ready;
}
