import { useEffect, useRef, useState } from "react";
import { detailCsv, detailMarkdown } from "../logic/formats";
import { source } from "../source";
import { useWorld } from "../state";
import type { Detail } from "../types";

/** Saves a text as a file, without leaving the page. */
export function save(name: string, content: string | Blob, type = "text/plain") {
  const blob = typeof content === "string" ? new Blob([content], { type: `${type};charset=utf-8` }) : content;
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Saves the neuron as a picture to share. */
export function ShareCard({ detail }: { detail: Detail }) {
  const { info, index } = useWorld();
  const [done, setDone] = useState("");
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(""), 4000);
    return () => clearTimeout(timer);
  }, [done]);
  const name = `${info.key}-${detail.name}.png`.replaceAll(/[/\\:*?"<>| ]/g, "-");
  const share = async () => {
    const blob = await card(detail, index.primary, info.key, info.stamp).catch(() => null);
    if (!blob) return setDone(NO_CARD);
    save(name, blob);
    setDone(`Saved as ${name}`);
  };
  return (
    <span className="share">
      <button type="button" onClick={() => void share()} title="one picture: images above their contrasts, the label before and after">
        Share card
      </button>
      <span role="status">{done}</span>
    </span>
  );
}

const NO_CARD = source.live ? "The explorer returned no card" : "Browsers cannot make an image of a page opened as a file";

/** The neuron as a PNG: the server's card, in an export one drawn here. */
function card(detail: Detail, primary: string, run: string, stamp: string): Promise<Blob> {
  return source.live ? source.card(run, detail.neuron, isDark()) : sheet(detail, primary, run, stamp);
}

function isDark(): boolean {
  const chosen = document.documentElement.dataset["theme"];
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Copy a neuron as JSON, CSV, Markdown or a picture; where there is no clipboard it is saved as a file. */
export function CopyMenu({ detail }: { detail: Detail }) {
  const { info, index } = useWorld();
  const [done, setDone] = useState("");
  const menu = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(""), 2500);
    return () => clearTimeout(timer);
  }, [done]);
  const name = `${info.key}-neuron-${detail.neuron}`;
  const copy = async (kind: string, text: string, ending: string, type: string) => {
    menu.current?.removeAttribute("open");
    try {
      await navigator.clipboard.writeText(text);
      setDone(`Copied as ${kind}`);
    } catch {
      save(`${name}.${ending}`, text, type);
      setDone(`Saved as ${name}.${ending}`);
    }
  };
  const image = async () => {
    menu.current?.removeAttribute("open");
    const blob = await card(detail, index.primary, info.key, info.stamp).catch(() => null);
    if (!blob) return setDone(NO_CARD);
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
      setDone("Copied as an image");
    } catch {
      save(`${name}.png`, blob);
      setDone(`Saved as ${name}.png`);
    }
  };
  return (
    <span className="copy">
      <details ref={menu} className="menu">
        <summary className="button">Copy</summary>
        <div>
          <button type="button" onClick={() => void copy("JSON", JSON.stringify(detail, null, 1), "json", "application/json")}>
            JSON
          </button>
          <button type="button" onClick={() => void copy("CSV", detailCsv(detail), "csv", "text/csv")}>
            CSV of the pairs
          </button>
          <button type="button" onClick={() => void copy("Markdown", detailMarkdown(detail), "md", "text/markdown")}>
            Markdown
          </button>
          <button type="button" onClick={() => void image()}>
            Image
          </button>
        </div>
      </details>
      <span role="status">{done}</span>
    </span>
  );
}

const CELL = 112;

/** The first ten pairs as a PNG, positives above their contrasts. */
async function sheet(detail: Detail, primary: string, run: string, stamp: string): Promise<Blob> {
  const pairs = detail.exemplars.slice(0, 10);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(pairs.length, 5) * (CELL + 4) + 20;
  canvas.height = 2 * CELL + 96;
  const draw = canvas.getContext("2d")!;
  draw.fillStyle = "#fffefb";
  draw.fillRect(0, 0, canvas.width, canvas.height);
  draw.fillStyle = "#1d1b18";
  draw.font = "600 22px Georgia, serif";
  const best = detail.labels.find((l) => l.scorer === primary) ?? detail.labels[detail.labels.length - 1];
  let left = 12;
  if (detail.before !== null && best?.label != null) {
    draw.fillStyle = "#b4540f";
    draw.fillText(detail.before, left, 32, canvas.width / 2);
    const end = left + Math.min(draw.measureText(detail.before).width, canvas.width / 2);
    draw.fillRect(left, 25, end - left, 2);
    draw.fillStyle = "#1d1b18";
    draw.fillText("→", end + 8, 32);
    left = end + 40;
  }
  draw.fillText(best?.label ?? "no label", left, 32, canvas.width - left - 12);
  draw.font = "14px sans-serif";
  draw.fillStyle = "#655f56";
  draw.fillText(`${detail.name} · ${best?.scorer ?? ""} · ${run}`, 12, 54, canvas.width - 24);
  for (const [row, side] of (["positive", "contrast"] as const).entries()) {
    for (const [i, pair] of pairs.entries()) {
      const picture = pair[side];
      if (!picture) continue;
      const loaded = await load(run, stamp, picture.image);
      if (!loaded) continue;
      const least = Math.min(loaded.width, loaded.height);
      const [x, y] = [12 + i * (CELL + 4), 68 + row * (CELL + 8)];
      draw.drawImage(loaded, (loaded.width - least) / 2, (loaded.height - least) / 2, least, least, x, y, CELL, CELL);
      draw.fillStyle = side === "positive" ? "#0b6e63" : "#b4540f";
      draw.fillRect(x, y + CELL, CELL, 3);
    }
  }
  return new Promise((resolve, reject) => canvas.toBlob((b) => (b ? resolve(b) : reject(new Error("no image"))), "image/png"));
}

function load(run: string, stamp: string, image: number): Promise<HTMLImageElement | null> {
  return new Promise((resolve) => {
    const stop = source.url(run, stamp, image, (url) => {
      if (url === null) return resolve(null);
      const element = new Image();
      element.onload = () => resolve(element);
      element.onerror = () => resolve(null);
      element.src = url;
      setTimeout(() => stop(), 0);
    });
  });
}
