// Which labels can stand on the map without covering each other.

export interface Spot {
  x: number;
  y: number;
  text: string;
}

interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

const HIGH = 15;
/** The same label again is of use only far from where it stands already, px. */
const FAR = 260;

/** Of spots in order of importance, those whose text fits: on the canvas, over no other text, not twice nearby. */
export function fitting(spots: Spot[], wide: (text: string) => number, width: number, height: number, most = 60): Spot[] {
  const kept: Spot[] = [];
  const boxes: Box[] = [];
  for (const spot of spots) {
    if (kept.length >= most) break;
    const half = wide(spot.text) / 2 + 4;
    const box = { left: spot.x - half, right: spot.x + half, top: spot.y - HIGH / 2, bottom: spot.y + HIGH / 2 };
    if (box.left < 0 || box.top < 0 || box.right > width || box.bottom > height) continue;
    if (boxes.some((b) => b.left < box.right && box.left < b.right && b.top < box.bottom && box.top < b.bottom)) continue;
    if (kept.some((k) => k.text === spot.text && Math.hypot(k.x - spot.x, k.y - spot.y) < FAR)) continue;
    kept.push(spot);
    boxes.push(box);
  }
  return kept;
}
