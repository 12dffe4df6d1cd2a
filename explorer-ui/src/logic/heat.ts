// Where an activation map lies in the square that shows the middle of an image.

import type { Map as ActivationMap } from "../types";

export interface Place {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Shares of the square: the network may have seen a crop only, and the square shows a crop of another kind. */
export function placed({ box, aspect }: Pick<ActivationMap, "box" | "aspect">): Place {
  const [left = 0, top = 0, right = 1, bottom = 1] = box;
  const wide = Math.min(1, 1 / aspect);
  const high = Math.min(1, aspect);
  return {
    left: (left - (1 - wide) / 2) / wide,
    top: (top - (1 - high) / 2) / high,
    width: (right - left) / wide,
    height: (bottom - top) / high,
  };
}

/** Colours (RGBA) of a map: where the neuron is cold the picture is dimmed, where it is hot it stays and glows. */
export function colours(values: number[]): number[] {
  return values.flatMap((value) => {
    const v = value / 255;
    if (v < 0.5) return [10, 12, 34, Math.round(255 * (0.74 - 1.3 * v * v * 1.6))];
    return [255, 190 - Math.round(90 * (v - 0.5)), 40, Math.round(255 * 0.5 * (v - 0.5))];
  });
}
