// Which pictures and labels can stand on the map without covering each other.

export interface Spot {
  x: number;
  y: number;
  text: string;
  /** The box of the spot's own picture, which its label may touch. */
  own?: Box;
}

export interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

const HIGH = 15;
/** The same label again is of use only far from where it stands already, px. */
const FAR = 260;

/** Of spots in order of importance, those whose text fits: on the canvas, over no other text and none of the `taken` boxes, not twice nearby. */
export function fitting(spots: Spot[], wide: (text: string) => number, width: number, height: number, taken: Box[] = [], most = 60): Spot[] {
  const kept: Spot[] = [];
  const boxes: Box[] = [];
  for (const spot of spots) {
    if (kept.length >= most) break;
    const half = wide(spot.text) / 2 + 4;
    const box = { left: spot.x - half, right: spot.x + half, top: spot.y - HIGH / 2, bottom: spot.y + HIGH / 2 };
    if (box.left < 0 || box.top < 0 || box.right > width || box.bottom > height) continue;
    if (boxes.some((b) => meet(b, box)) || taken.some((b) => b !== spot.own && meet(b, box))) continue;
    if (kept.some((k) => k.text === spot.text && Math.hypot(k.x - spot.x, k.y - spot.y) < FAR)) continue;
    kept.push(spot);
    boxes.push(box);
  }
  return kept;
}

/** Of places in order of importance, those whose pictures (with room for a label below) cover no other and lie whole on the canvas. */
export function pictured<T extends { x: number; y: number }>(places: T[], size: number, width: number, height: number, most = 150): (T & { box: Box })[] {
  const out: (T & { box: Box })[] = [];
  for (const place of places) {
    if (out.length >= most) break;
    const box = { left: place.x - size / 2, right: place.x + size / 2, top: place.y - size / 2, bottom: place.y + size / 2 };
    if (box.left < 2 || box.top < 2 || box.right > width - 2 || box.bottom > height - 2) continue;
    const roomy = { left: box.left - 3, right: box.right + 3, top: box.top - 3, bottom: box.bottom + HIGH };
    if (out.some((o) => meet({ ...o.box, bottom: o.box.bottom + HIGH }, roomy))) continue;
    out.push({ ...place, box });
  }
  return out;
}

function meet(a: Box, b: Box): boolean {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
