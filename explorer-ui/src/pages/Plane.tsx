import { type PointerEvent, useEffect, useMemo, useRef, useState } from "react";
import { Grid } from "../parts/Grid";
import { Problem, ScorerChoice, Title, Waiting } from "../parts/Bits";
import { Picture } from "../parts/Picture";
import { formatLasso, inside, parseLasso, type Point, thinned } from "../logic/lasso";
import { fitting, type Spot } from "../logic/names";
import { format } from "../logic/route";
import { column, columns, labelAt, scorerOf, short, titled } from "../logic/select";
import { go, setParams, useParam, usePlane, useWorld } from "../state";

/** Neurons as points: those with similar concept vectors lie close together. */
export function Plane() {
  const { info, index, noted } = useWorld();
  const plane = usePlane(true);
  const [by] = useParam("by");
  const [scorerName, setScorer] = useParam("scorer", index.primary);
  const scorer = scorerOf(index, scorerName).scorer;
  const [tone, setTone] = useParam("colour", "score");
  const [lasso, setLasso] = useParam("lasso");
  const polygon = useMemo(() => parseLasso(lasso), [lasso]);
  const rowOf = useMemo(() => new Map(index.neuron.map((n, i) => [n, i])), [index]);
  const points = useMemo(
    () => plane.data?.neuron.map((n, i) => ({ row: rowOf.get(n) ?? -1, x: plane.data!.x[i]!, y: plane.data!.y[i]! })).filter((p) => p.row >= 0) ?? [],
    [plane.data, rowOf],
  );
  const chosen = useMemo(
    () => (polygon.length ? points.filter((p) => inside([p.x, p.y], polygon)).map((p) => p.row) : []),
    [points, polygon],
  );
  if (plane.error) return <Problem title="There is no map of this run">{plane.error}</Problem>;
  if (!plane.data) return <Waiting>Drawing the map…</Waiting>;
  const values = column(index, scorer, tone) ?? scorerOf(index, scorer).score;
  const { method, methods, gamma, explained } = plane.data;
  return (
    <div className="plane">
      <Title twin={`api/runs/${encodeURIComponent(info.key)}/map`}>Map of concept vectors</Title>
      <p className="lead">
        {about(method, gamma, explained)}. Draw a line around points to see their neurons below.
      </p>
      <div className="toolbar">
        {methods.length > 1 && (
          <label>
            Laid out by{" "}
            <select value={method} onChange={(e) => setParams({ by: e.target.value === methods[0] ? "" : e.target.value, lasso: "" })}>
              {methods.map((m) => (
                <option key={m} value={m}>
                  {m.toUpperCase()}
                </option>
              ))}
            </select>
          </label>
        )}
        <label>
          Colour{" "}
          <select value={tone} onChange={(e) => setTone(e.target.value)}>
            {columns(index).map((c) => (
              <option key={c} value={c}>
                {titled(c)}
              </option>
            ))}
          </select>
        </label>
        <ScorerChoice scorer={scorer} onChoose={setScorer} />
        {polygon.length > 0 && (
          <>
            <button type="button" onClick={() => setLasso("")}>
              Clear the lasso
            </button>
            <a className="button" href={format({ run: info.key, page: "neurons", params: { lasso, by } })}>
              Open {chosen.length} in the grid
            </a>
          </>
        )}
      </div>
      <Scatter points={points} values={values} polygon={polygon} scorer={scorer} name={titled(tone)} onLasso={(p) => setLasso(formatLasso(p))} />
      {polygon.length > 0 && (
        <section>
          <h2>
            {chosen.length} neuron{chosen.length === 1 ? "" : "s"} in the lasso
          </h2>
          <Grid index={index} rows={chosen} scorer={scorer} side="positives" notes={noted} label="Neurons in the lasso" />
        </section>
      )}
    </div>
  );
}

function about(method: string, gamma: number, explained: number[] | null): string {
  const what = `concept vectors at gamma ${gamma}`;
  if (method === "umap") return `UMAP of ${what}: neurons close together are alike; distances between groups mean little`;
  const share = (explained ?? []).map((e) => `${(100 * e).toFixed(0)} %`).join(" and ");
  return `The two main components of ${what}, which hold ${share} of the variance`;
}

interface Dot {
  row: number;
  x: number;
  y: number;
}

interface ScatterProps {
  points: Dot[];
  values: (number | null)[];
  polygon: Point[];
  scorer: string;
  name: string;
  onLasso: (polygon: Point[]) => void;
}

function Scatter({ points, values, polygon, scorer, name, onLasso }: ScatterProps) {
  const { index, info } = useWorld();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [size, setSize] = useState<[number, number]>([600, 420]);
  const [view, setView] = useState({ x: 0, y: 0, zoom: 1 });
  const [line, setLine] = useState<Point[]>([]);
  const [over, setOver] = useState<Dot | null>(null);
  const [theme, setTheme] = useState(0);
  const box = useMemo(() => bounds(points), [points]);
  useEffect(() => setView({ x: 0, y: 0, zoom: 1 }), [points]);
  const [width, height] = size;
  const scale = (Math.min(width / box.w, height / box.h) * 0.92) * view.zoom;
  const toScreen = (x: number, y: number): Point => [
    width / 2 + (x - box.x - view.x) * scale,
    height / 2 - (y - box.y - view.y) * scale,
  ];
  const toPlane = ([sx, sy]: Point): Point => [(sx - width / 2) / scale + box.x + view.x, (height / 2 - sy) / scale + box.y + view.y];
  const limits = useMemo(() => spread(points.map((p) => values[p.row] ?? null)), [points, values]);

  useEffect(() => {
    const element = canvas.current!;
    const observer = new ResizeObserver(() => setSize([element.clientWidth, element.clientHeight]));
    observer.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => setTheme((t) => t + 1);
    scheme.addEventListener("change", redraw);
    const watch = new MutationObserver(redraw);
    watch.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    const wheel = (e: WheelEvent) => {
      if (!e.ctrlKey && !e.shiftKey) return;
      e.preventDefault();
      const by = Math.exp(-(e.deltaY || e.deltaX) / 400);
      setView((v) => ({ ...v, zoom: Math.min(40, Math.max(1, v.zoom * by)) }));
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => {
      observer.disconnect();
      scheme.removeEventListener("change", redraw);
      watch.disconnect();
      element.removeEventListener("wheel", wheel);
    };
  }, []);

  useEffect(() => {
    const element = canvas.current!;
    const dpr = window.devicePixelRatio || 1;
    element.width = width * dpr;
    element.height = height * dpr;
    const draw = element.getContext("2d");
    if (!draw) return;
    const style = getComputedStyle(element);
    const colour = (name: string) => {
      element.style.color = `var(${name})`; // what light-dark() gives is known of an element's colours only
      return style.color;
    };
    const ramp = [0, 1, 2, 3, 4].map((i) => colour(`--ramp-${i}`));
    const [grey, paper, ink] = [colour("--line"), colour("--card"), colour("--ink")];
    draw.scale(dpr, dpr);
    draw.clearRect(0, 0, width, height);
    const radius = Math.max(1.8, Math.min(6, 90 / Math.sqrt(points.length + 1))) * Math.sqrt(view.zoom);
    const dim = polygon.length > 0;
    for (const p of points) {
      const [x, y] = toScreen(p.x, p.y);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      const value = values[p.row] ?? null;
      const place = value === null ? 0 : Math.round(4 * Math.max(0, Math.min(1, (value - limits[0]) / (limits[1] - limits[0] || 1))));
      draw.globalAlpha = dim && !inside([p.x, p.y], polygon) ? 0.18 : 0.88;
      draw.fillStyle = value === null ? grey : ramp[place]!;
      draw.beginPath();
      draw.arc(x, y, radius, 0, 7);
      draw.fill();
    }
    draw.globalAlpha = 1;
    const score = scorerOf(index, scorer).score;
    draw.font = `12px ${style.getPropertyValue("--serif")}`;
    draw.textAlign = "center";
    draw.textBaseline = "middle";
    draw.lineWidth = 3.5;
    draw.lineJoin = "round";
    draw.strokeStyle = paper;
    draw.fillStyle = ink;
    const spots = points
      .filter((p) => !dim || inside([p.x, p.y], polygon))
      .flatMap((p): (Spot & { score: number })[] => {
        const text = labelAt(index, scorer, p.row);
        const [x, y] = toScreen(p.x, p.y);
        return text === null ? [] : [{ x, y: y - radius - 9, text, score: score[p.row] ?? -Infinity }];
      })
      .sort((a, b) => b.score - a.score);
    for (const { x, y, text } of fitting(spots, (t) => draw.measureText(t).width, width, height)) {
      draw.strokeText(text, x, y);
      draw.fillText(text, x, y);
    }
    const shape = line.length ? line : polygon.map(([x, y]) => toScreen(x, y));
    if (shape.length > 1) {
      draw.strokeStyle = ink;
      draw.setLineDash([5, 4]);
      draw.lineWidth = 1.4;
      draw.beginPath();
      shape.forEach(([x, y], i) => (i ? draw.lineTo(x, y) : draw.moveTo(x, y)));
      draw.closePath();
      draw.stroke();
    }
  }, [points, values, polygon, line, width, height, view, theme, index, scorer]);

  const at = (e: PointerEvent): Point => {
    const rect = canvas.current!.getBoundingClientRect();
    return [e.clientX - rect.left, e.clientY - rect.top];
  };
  const nearest = (s: Point): Dot | null => {
    let best: Dot | null = null;
    let least = 14;
    for (const p of points) {
      const [x, y] = toScreen(p.x, p.y);
      const far = Math.hypot(x - s[0], y - s[1]);
      if (far < least) [best, least] = [p, far];
    }
    return best;
  };
  const tip = over && toScreen(over.x, over.y);
  return (
    <div className="scatter">
      <canvas
        ref={canvas}
        role="img"
        aria-label={`${points.length} neurons as points, coloured by ${name}. The grid of neurons holds the same as a list.`}
        onPointerDown={(e) => {
          if (e.button !== 0) return;
          e.currentTarget.setPointerCapture(e.pointerId);
          setLine([at(e)]);
          setOver(null);
        }}
        onPointerMove={(e) => {
          if (line.length) setLine((l) => thinned([...l, at(e)], 3));
          else setOver(nearest(at(e)));
        }}
        onPointerUp={(e) => {
          const drawn = thinned([...line, at(e)], 6);
          setLine([]);
          const long = drawn.some(([x, y]) => Math.hypot(x - drawn[0]![0], y - drawn[0]![1]) > 12);
          if (long && drawn.length > 3) onLasso(drawn.map(toPlane));
          else {
            const hit = nearest(at(e));
            if (hit) go({ run: info.key, page: "neuron", neuron: index.neuron[hit.row]! });
          }
        }}
        onPointerLeave={() => setOver(null)}
        onPointerCancel={() => setLine([])}
      />
      {over && tip && (
        <div className="tip" style={{ left: Math.max(4, Math.min(tip[0], width - 216)), top: tip[1] + (tip[1] > height - 150 ? -142 : 12) }}>
          <strong>{labelAt(index, scorer, over.row) ?? "no label"}</strong>
          <span className="strip">
            {index.positives.slice(over.row * index.shown, over.row * index.shown + 3).map((image, i) => (
              <Picture key={`${i} ${image}`} image={image} alt="" />
            ))}
          </span>
          <span className="mono">{index.name[over.row]}</span> {name} {short(values[over.row])}
        </div>
      )}
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
          <button type="button" aria-label="Zoom out" onClick={() => setView((v) => ({ ...v, zoom: Math.max(1, v.zoom / 1.5) }))}>
            −
          </button>
          <button type="button" aria-label="Zoom in" onClick={() => setView((v) => ({ ...v, zoom: Math.min(40, v.zoom * 1.5) }))}>
            +
          </button>
          {(["←", "→", "↑", "↓"] as const).map((arrow, i) => (
            <button
              key={arrow}
              type="button"
              aria-label={`Move the view ${["left", "right", "up", "down"][i]}`}
              onClick={() =>
                setView((v) => ({
                  ...v,
                  x: v.x + ([-1, 1, 0, 0][i]! * width) / scale / 5,
                  y: v.y + ([0, 0, 1, -1][i]! * height) / scale / 5,
                }))
              }
            >
              {arrow}
            </button>
          ))}
        </span>
      </div>
    </div>
  );
}

function bounds(points: Dot[]) {
  const [x0, x1] = spread(points.map((p) => p.x), 0);
  const [y0, y1] = spread(points.map((p) => p.y), 0);
  return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, w: x1 - x0 || 1, h: y1 - y0 || 1 };
}

/** From the 2nd to the 98th hundredth, so that one outlier does not take all the colour. */
function spread(values: (number | null)[], cut = 0.02): [number, number] {
  const sorted = values.filter((v) => v !== null).sort((a, b) => a - b);
  if (!sorted.length) return [0, 1];
  const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))]!;
  return [at(cut), at(1 - cut)];
}
