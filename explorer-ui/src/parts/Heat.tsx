import { useLayoutEffect, useRef } from "react";
import { colours, placed } from "../logic/heat";
import type { Map as ActivationMap } from "../types";

const share = (value: number) => `${(100 * value).toFixed(2)}%`;

/** Where in the image the neuron was active, laid over it. */
export function Heat({ map }: { map: ActivationMap }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    const draw = canvas.current?.getContext("2d");
    if (!draw) return;
    const pixels = draw.createImageData(map.width, map.height);
    pixels.data.set(colours(map.values));
    draw.putImageData(pixels, 0, 0);
  }, [map]);
  const { left, top, width, height } = placed(map);
  return (
    <canvas
      ref={canvas}
      width={map.width}
      height={map.height}
      className="heat"
      aria-hidden="true"
      style={{ left: share(left), top: share(top), width: share(width), height: share(height) }}
    />
  );
}
