// Points inside a drawn line.

export type Point = [number, number];

export function inside([x, y]: Point, polygon: Point[]): boolean {
  let within = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [xi, yi] = polygon[i]!;
    const [xj, yj] = polygon[j]!;
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
  }
  return within;
}

/** Drops points closer than `least` to the one before, so that a lasso fits in a URL. */
export function thinned(polygon: Point[], least: number): Point[] {
  const out: Point[] = [];
  for (const p of polygon) {
    const last = out[out.length - 1];
    if (!last || Math.hypot(p[0] - last[0], p[1] - last[1]) >= least) out.push(p);
  }
  return out;
}

export function formatLasso(polygon: Point[]): string {
  return polygon.map(([x, y]) => `${x.toFixed(3)},${y.toFixed(3)}`).join("_");
}

export function parseLasso(text: string | undefined): Point[] {
  const points = (text ?? "")
    .split("_")
    .map((p) => p.split(",").map(Number))
    .filter((p): p is Point => p.length === 2 && p.every(Number.isFinite));
  return points.length >= 3 ? points : [];
}
