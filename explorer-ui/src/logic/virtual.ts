// Which rows of a long list need to be drawn.

export interface Shape {
  columns: number;
  rows: number;
  /** Height of a row with its gap, px. */
  pitch: number;
}

export function layout(width: number, count: number, least: number, gap: number, height: number, atLeast = 1): Shape {
  const columns = Math.max(atLeast, Math.floor((width + gap) / (least + gap)));
  return { columns, rows: Math.ceil(count / columns), pitch: height + gap };
}

/** First and last row to draw (half open), with `over` screens more on both sides. */
export function visible(shape: Shape, top: number, screen: number, over = 1.5): [number, number] {
  const first = Math.floor((top - over * screen) / shape.pitch);
  const last = Math.ceil((top + (1 + over) * screen) / shape.pitch);
  return [Math.max(0, Math.min(first, shape.rows)), Math.max(0, Math.min(last, shape.rows))];
}

/** Where an arrow key leads in a grid of `count` places. */
export function step(key: string, at: number, columns: number, count: number, page = 5): number | null {
  const to = {
    ArrowLeft: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at - columns,
    ArrowDown: at + columns,
    PageUp: at - page * columns,
    PageDown: at + page * columns,
    Home: 0,
    End: count - 1,
  }[key];
  if (to === undefined || count === 0) return null;
  if (key === "PageUp" || key === "PageDown") return Math.min(count - 1, Math.max(0, to));
  return to < 0 || to >= count ? at : to;
}
