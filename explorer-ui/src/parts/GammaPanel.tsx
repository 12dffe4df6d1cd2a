import { type PointerEvent, useMemo, useRef } from "react";
import { rescored, scores, turns } from "../logic/gamma";
import { scorerOf } from "../logic/select";
import { useParam, useWorld } from "../state";
import type { Gamma } from "../types";
import { Bar } from "./Bits";

const W = 520;
const H = 150;
const STEPS = 40;

/** What contrast changes: CSP's concepts at any gamma, scored as the slider moves. */
export function GammaPanel({ data, scorer }: { data: Gamma; scorer: string }) {
  const { index } = useWorld();
  const standard = scorerOf(index, scorer).gamma ?? scorerOf(index, index.primary).gamma ?? 1;
  const [text, setText] = useParam("gamma", String(standard));
  const gamma = Math.min(1, Math.max(0, Number(text) || 0));
  const top = useMemo(() => rescored(data, gamma, 8), [data, gamma]);
  const changes = useMemo(() => turns(data), [data]);
  const most = Math.max(1e-6, ...top.map((t) => t.score));
  const set = (value: number) => setText(String(Math.round(value * 100) / 100));
  return (
    <section className="panel gamma" aria-labelledby="gamma-title">
      <h2 id="gamma-title">What contrast changes</h2>
      <p className="soft">
        {changes.length === 0 ? (
          <>
            Taking out what positives share with their contrasts leaves the best concept <b>{top[0]?.concept}</b> at every
            gamma.
          </>
        ) : (
          changes.slice(0, 4).map((t, i) => (
            <span key={i}>
              {i > 0 && "; "}at {t.gamma.toFixed(2)} <b>{t.from}</b> is replaced by <b>{t.to}</b>
            </span>
          ))
        )}
        {changes.length > 4 && ` and ${changes.length - 4} more`}
      </p>
      <div className="gamma-slider">
        <label htmlFor="gamma">gamma</label>
        <input
          id="gamma"
          data-gamma
          type="range"
          min={0}
          max={1}
          step={0.01}
          value={gamma}
          onChange={(e) => set(Number(e.target.value))}
          aria-valuetext={`${gamma.toFixed(2)}, best concept ${top[0]?.concept ?? "none"}`}
        />
        <output htmlFor="gamma">{gamma.toFixed(2)}</output>
      </div>
      <Lines data={data} gamma={gamma} onGamma={set} shown={top.map((t) => t.concept)} />
      <ol className="concepts" aria-live="off">
        {top.map((t) => (
          <li key={t.concept}>
            <span className="concept">{t.concept}</span>
            <Moved now={t.rank} before={t.before} />
            <Bar value={t.score} most={most} />
            <span className="number">{t.score.toFixed(3)}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

function Moved({ now, before }: { now: number; before: number }) {
  const by = before - now;
  if (by === 0) return <span className="moved soft">·</span>;
  return (
    <span className={`moved ${by > 0 ? "up" : "down"}`} title={`rank ${before + 1} at gamma 0, ${now + 1} here`}>
      {by > 0 ? `▲${by}` : `▼${-by}`}
    </span>
  );
}

function Lines({ data, gamma, onGamma, shown }: { data: Gamma; gamma: number; onGamma: (g: number) => void; shown: string[] }) {
  const svg = useRef<SVGSVGElement>(null);
  const curves = useMemo(() => {
    const grid = Array.from({ length: STEPS + 1 }, (_, i) => scores(data, i / STEPS));
    return data.concepts.map((_, c) => grid.map((s) => s[c]!));
  }, [data]);
  const kept = shown.slice(0, 5).map((c) => data.concepts.indexOf(c));
  const first = useMemo(() => rescored(data, 0, 3).map((t) => data.concepts.indexOf(t.concept)), [data]);
  const drawn = [...new Set([...kept, ...first])];
  const all = curves.flatMap((c, i) => (drawn.includes(i) ? c : []));
  const low = Math.min(...all);
  const high = Math.max(...all, low + 1e-6);
  const x = (g: number) => 6 + g * (W - 12);
  const y = (s: number) => H - 8 - ((s - low) / (high - low)) * (H - 16);
  const path = (c: number) => curves[c]!.map((s, i) => `${i ? "L" : "M"}${x(i / STEPS).toFixed(1)} ${y(s).toFixed(1)}`).join("");
  const drag = (e: PointerEvent) => {
    const box = svg.current!.getBoundingClientRect();
    onGamma(Math.min(1, Math.max(0, (((e.clientX - box.left) / box.width) * W - 6) / (W - 12))));
  };
  return (
    <svg
      ref={svg}
      className="lines"
      viewBox={`0 0 ${W} ${H}`}
      preserveAspectRatio="none"
      aria-hidden="true"
      onPointerDown={(e) => {
        e.currentTarget.setPointerCapture(e.pointerId);
        drag(e);
      }}
      onPointerMove={(e) => e.buttons === 1 && drag(e)}
    >
      {curves.map((_, c) => !drawn.includes(c) && <path key={c} d={path(c)} className="line faint" />)}
      {drawn.map((c) => (
        <path key={c} d={path(c)} className={`line ${c === kept[0] ? "best" : ""}`} />
      ))}
      <line className="cursor" x1={x(gamma)} x2={x(gamma)} y1={2} y2={H - 2} />
      {kept.map((c) => (
        <circle key={c} cx={x(gamma)} cy={y(scores(data, gamma)[c]!)} r={c === kept[0] ? 5 : 3} className={c === kept[0] ? "best" : ""} />
      ))}
    </svg>
  );
}
