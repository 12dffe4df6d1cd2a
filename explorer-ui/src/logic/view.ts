// Where points of a plane stand on a canvas that can be moved and zoomed.

import type { Point } from "./lasso";

export interface View {
  /** How far the middle of the canvas is from that of the points, in the plane's units. */
  x: number;
  y: number;
  zoom: number;
}

export const WHOLE: View = { x: 0, y: 0, zoom: 1 };
export const MOST_ZOOM = 40;
/** Room around the outermost points, px: a picture and its label fit. */
const MARGIN = 44;

export class Frame {
  private readonly middle: Point;
  private readonly turned: boolean;
  /** Pixels for one unit of the plane, without zoom. */
  private readonly fit: number;

  constructor(
    points: { x: number; y: number }[],
    readonly width: number,
    readonly height: number,
  ) {
    const [x0, x1] = range(points.map((p) => p.x));
    const [y0, y1] = range(points.map((p) => p.y));
    this.turned = y1 - y0 > x1 - x0 !== height > width; // the long side of the points along that of the canvas
    const [w, h] = this.turned ? [y1 - y0, x1 - x0] : [x1 - x0, y1 - y0];
    this.middle = this.turned ? [(y0 + y1) / 2, (x0 + x1) / 2] : [(x0 + x1) / 2, (y0 + y1) / 2];
    this.fit = Math.max(1e-9, Math.min((width - 2 * MARGIN) / (w || 1), (height - 2 * MARGIN) / (h || 1)));
  }

  scale(view: View): number {
    return this.fit * view.zoom;
  }

  toScreen(view: View, x: number, y: number): Point {
    const [u, v] = this.turned ? [y, x] : [x, y];
    const scale = this.scale(view);
    return [this.width / 2 + (u - this.middle[0] - view.x) * scale, this.height / 2 - (v - this.middle[1] - view.y) * scale];
  }

  toPlane(view: View, [sx, sy]: Point): Point {
    const [u, v] = this.inside(view, [sx, sy]);
    return this.turned ? [v, u] : [u, v];
  }

  /** Zoomed by a factor, with the point under `at` where it was. */
  zoomed(view: View, by: number, at: Point = [this.width / 2, this.height / 2]): View {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * by));
    const [u, v] = this.inside(view, at);
    const scale = this.fit * zoom;
    return zoom === 1
      ? WHOLE
      : { zoom, x: u - this.middle[0] - (at[0] - this.width / 2) / scale, y: v - this.middle[1] - (this.height / 2 - at[1]) / scale };
  }

  /** Moved by pixels of the canvas. */
  moved(view: View, dx: number, dy: number): View {
    const scale = this.scale(view);
    return { ...view, x: view.x - dx / scale, y: view.y + dy / scale };
  }

  private inside(view: View, [sx, sy]: Point): Point {
    const scale = this.scale(view);
    return [(sx - this.width / 2) / scale + this.middle[0] + view.x, (this.height / 2 - sy) / scale + this.middle[1] + view.y];
  }
}

function range(values: number[]): Point {
  return values.reduce<Point>(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]).map((v) => (Number.isFinite(v) ? v : 0)) as Point;
}

/** From the 2nd to the 98th hundredth, so that one outlier does not take all the colour. */
export function spread(values: (number | null)[], cut = 0.02): Point {
  const sorted = values.filter((v) => v !== null).sort((a, b) => a - b);
  if (!sorted.length) return [0, 1];
  const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))]!;
  return [at(cut), at(1 - cut)];
}
