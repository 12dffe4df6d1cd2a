// The map drawn: dots, pictures over them, labels, the lasso.

import type { Point } from "./lasso";
import { fitting, pictured, type Box, type Spot } from "./names";

export interface Placed {
  row: number;
  x: number;
  y: number;
  label: string | null;
  /** From 0 to 4, null for no value. */
  tone: number | null;
  image: number;
  /** Outside the lasso. */
  dim: boolean;
}

export interface Colours {
  ramp: string[];
  grey: string;
  paper: string;
  ink: string;
  font: string;
}

export interface Thumb extends Placed {
  box: Box;
}

/** Which of the points on the canvas, the most important first, show their picture. */
export function thumbs(points: Placed[], width: number, height: number, zoom: number): Thumb[] {
  const size = Math.round(Math.min(84, (width < 600 ? 34 : 42) * Math.pow(zoom, 0.3)));
  return pictured(points.filter((p) => p.image >= 0 && !p.dim), size, width, height);
}

/** The colours of a canvas's own style, as light-dark() gives them. */
export function coloursOf(element: HTMLElement): Colours {
  const style = getComputedStyle(element);
  const colour = (name: string) => {
    element.style.color = `var(${name})`; // what light-dark() gives is known of an element's colours only
    return style.color;
  };
  const ramp = [0, 1, 2, 3, 4].map((i) => colour(`--ramp-${i}`));
  return { ramp, grey: colour("--line"), paper: colour("--card"), ink: colour("--ink"), font: `12px ${style.getPropertyValue("--serif")}` };
}

export function paint(
  draw: CanvasRenderingContext2D, points: Placed[], shown: Thumb[], radius: number, colours: Colours, pictures: Map<number, HTMLImageElement>, shape: Point[],
) {
  const { width, height } = { width: draw.canvas.width / pixels(), height: draw.canvas.height / pixels() };
  const { ramp, grey, paper, ink } = colours;
  draw.setTransform(pixels(), 0, 0, pixels(), 0, 0);
  draw.clearRect(0, 0, width, height);
  draw.lineWidth = 0.8;
  draw.strokeStyle = ink;
  for (const p of points) {
    draw.fillStyle = p.tone === null ? grey : ramp[p.tone]!;
    draw.beginPath();
    draw.arc(p.x, p.y, radius, 0, 7);
    draw.globalAlpha = p.dim ? 0.18 : 0.92;
    draw.fill();
    draw.globalAlpha = p.dim ? 0.1 : 0.45;
    draw.stroke();
  }
  draw.globalAlpha = 1;
  for (const { box, tone, image } of [...shown].reverse()) {
    const picture = pictures.get(image);
    if (!picture) continue;
    const size = box.right - box.left;
    const side = Math.min(picture.naturalWidth, picture.naturalHeight);
    draw.drawImage(picture, (picture.naturalWidth - side) / 2, (picture.naturalHeight - side) / 2, side, side, box.left, box.top, size, size);
    draw.lineWidth = 2.5;
    draw.strokeStyle = tone === null ? grey : ramp[tone]!;
    draw.strokeRect(box.left + 1, box.top + 1, size - 2, size - 2);
  }
  label(draw, points, shown.filter((t) => pictures.has(t.image)), radius, colours, width, height);
  if (shape.length > 1) {
    draw.strokeStyle = ink;
    draw.setLineDash([5, 4]);
    draw.lineWidth = 1.6;
    draw.beginPath();
    shape.forEach(([x, y], i) => (i ? draw.lineTo(x, y) : draw.moveTo(x, y)));
    draw.closePath();
    draw.stroke();
    draw.setLineDash([]);
  }
  draw.strokeStyle = paper;
}

function label(draw: CanvasRenderingContext2D, points: Placed[], shown: Thumb[], radius: number, colours: Colours, width: number, height: number) {
  draw.font = colours.font;
  draw.textAlign = "center";
  draw.textBaseline = "middle";
  draw.lineWidth = 4;
  draw.lineJoin = "round";
  draw.strokeStyle = colours.paper;
  draw.fillStyle = colours.ink;
  const over = new Set(shown.map((t) => t.row));
  const below = shown.flatMap((t): Spot[] => (t.label === null ? [] : [{ x: t.x, y: t.box.bottom + 8, text: t.label, own: t.box }]));
  const above = points.flatMap((p): Spot[] => (p.label === null || p.dim || over.has(p.row) ? [] : [{ x: p.x, y: p.y - radius - 9, text: p.label }]));
  for (const { x, y, text } of fitting([...below, ...above], (t) => draw.measureText(t).width, width, height, shown.map((t) => t.box))) {
    draw.strokeText(text, x, y);
    draw.fillText(text, x, y);
  }
}

export function pixels(): number {
  return window.devicePixelRatio || 1;
}
