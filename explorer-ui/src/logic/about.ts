// What a run was made of, in words, from its manifest.

import type { RunInfo } from "../types";

type Any = Record<string, unknown>;
const object = (value: unknown): Any => (typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Any) : {});
const text = (value: unknown): string | null => (typeof value === "string" && value !== "" ? value : typeof value === "number" ? value.toLocaleString("en") : null);
const counted = (n: number, what: string) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

/** "64 neurons of world:1, labeled with contralens 0.1.0." */
export function made(info: RunInfo, neurons: number): string {
  const target = object(info.manifest?.["target"]);
  const version = text(info.manifest?.["contralens"]);
  return `${counted(neurons, "neuron")}${target["name"] ? ` of ${text(target["name"])}` : ""}, labeled with contralens${version ? ` ${version}` : ""}.`;
}

/** Name, value and remark of what the labels hang on; what the manifest does not hold is left out. */
export function facts(manifest: Any): [string, string, string][] {
  const [target, encoder, images, vocabulary, confidence] = ["target", "encoder", "images", "vocabulary", "confidence"].map((key) => object(manifest[key])) as [Any, Any, Any, Any, Any];
  const out: [string, string | null, (string | null)[]][] = [
    ["Network", text(target["name"]), [named("layer", target["layer"]), named("pooling", target["pooling"]), target["sae"] ? "through a sparse autoencoder" : null]],
    ["Images", typeof images["count"] === "number" ? counted(images["count"], "image") : null, [named("from", images["name"]), skipped(images), held(images)]],
    ["Encoder", text(encoder["name"]), [typeof encoder["width"] === "number" ? `${encoder["width"]} dimensions` : null]],
    ["Concepts", typeof vocabulary["concepts"] === "number" ? counted(vocabulary["concepts"], "concept") : null, [named("from", vocabulary["source"]), templates(manifest["templates"])]],
    ["Exemplars", typeof manifest["k"] === "number" ? `${manifest["k"]} for each neuron` : null, [manifest["crop"] ? "cropped" : null, manifest["reuse"] === false ? "each contrast used once" : null]],
    ["Confidence", text(confidence["learnt from"]) && "learnt", [named("from", confidence["learnt from"])]],
    ["Seed", text(manifest["seed"]), []],
  ];
  return out.flatMap(([name, value, more]): [string, string, string][] => (value === null ? [] : [[name, value, more.filter((m) => m !== null).join(", ")]]));
}

function named(what: string, value: unknown): string | null {
  const said = text(value);
  return said && `${what} ${said}`;
}

function skipped(images: Any): string | null {
  const [copies, left] = [images["copies"], images["skipped"]];
  const said = [
    typeof copies === "number" && copies > 0 ? `${counted(copies, "copy").replace("copys", "copies")} left out` : null,
    Array.isArray(left) && left.length > 0 ? `${left.length} unreadable` : null,
  ].filter((s) => s !== null);
  return said.length ? said.join(", ") : null;
}

function held(images: Any): string | null {
  const holdout = object(images["holdout"]);
  const given = holdout["fingerprints"];
  const count = Array.isArray(given) ? String(given.length) : typeof given === "string" ? given.replace(/ entries$/, "") : null;
  return count && `${count} more held out`;
}

function templates(given: unknown): string | null {
  if (!Array.isArray(given) || !given.length || (given.length === 1 && given[0] === "{}")) return null;
  return given.length === 1 ? `written as “${String(given[0])}”` : `in ${given.length} templates, such as “${String(given[0])}”`;
}
