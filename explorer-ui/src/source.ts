// Where pages get their data: a running explorer, or the files of an export (as scripts, which also load from file://).

import { Pictures, type PictureSource } from "./pictures";
import type {
  Audit, Detail, Hits, Index, Layers, Matched, Note, NoteKind, Notes, Plane, RunList, Testing,
} from "./types";

export interface Source extends PictureSource {
  live: boolean;
  runs(): Promise<RunList>;
  index(run: string, stamp: string): Promise<Index>;
  detail(run: string, neuron: number): Promise<Detail>;
  plane(run: string, method: string): Promise<Plane>;
  audit(run: string): Promise<Audit>;
  layers(): Promise<Layers>;
  /** Which neuron of one run is which of another. */
  match(a: string, b: string): Promise<Matched>;
  notes(run: string): Promise<Notes>;
  words(run: string, text: string, gamma: number | null): Promise<Hits>;
  picture(run: string, file: Blob, gamma: number | null): Promise<Hits>;
  note(run: string, neuron: number, kind: NoteKind, text: string): Promise<Note>;
  forget(run: string, id: string): Promise<void>;
  verify(run: string, neuron: number, label: string): Promise<Testing>;
  testing(run: string): Promise<Testing>;
  /** The neuron as a PNG to share. */
  card(run: string, neuron: number, dark: boolean): Promise<Blob>;
  /** Forget what was read of neurons: something was written. */
  changed(): void;
  twin(path: string): string | null;
}

class Live implements Source {
  live = true;
  private details = new Map<string, Promise<Detail>>();
  private pictures = new Pictures((run, images, signal) =>
    fetch(`api/runs/${encodeURIComponent(run)}/pictures?images=${images.join(",")}`, { signal }).then((r) => {
      if (!r.ok) throw new Error(`pictures: ${r.status}`);
      return r.arrayBuffer();
    }),
  );

  runs = () => get<RunList>("api/runs");
  index = (run: string) => get<Index>(`${at(run)}/index`);
  plane = (run: string, method: string) => get<Plane>(`${at(run)}/map${method ? `?method=${method}` : ""}`);
  audit = (run: string) => get<Audit>(`${at(run)}/audit`);
  layers = () => get<Layers>("api/layers");
  match = (a: string, b: string) => get<Matched>(`api/match?${new URLSearchParams({ a, b })}`);
  notes = (run: string) => get<Notes>(`${at(run)}/notes`);
  url = (run: string, stamp: string, image: number, seen: (url: string | null) => void) =>
    this.pictures.want(run, stamp, image, seen);
  now = (run: string, stamp: string, image: number) => this.pictures.now(run, stamp, image);
  twin = (path: string) => path;

  detail(run: string, neuron: number): Promise<Detail> {
    const key = `${run} ${neuron}`;
    let found = this.details.get(key);
    if (!found) {
      found = get<Detail>(`${at(run)}/neurons/${neuron}`);
      found.catch(() => this.details.delete(key));
      this.details.set(key, found);
      if (this.details.size > 120) this.details.delete(this.details.keys().next().value!);
    }
    return found;
  }

  words(run: string, text: string, gamma: number | null) {
    const query = new URLSearchParams({ text, ...(gamma === null ? {} : { gamma: String(gamma) }) });
    return get<Hits>(`${at(run)}/search?${query}`);
  }

  picture(run: string, file: Blob, gamma: number | null) {
    const query = gamma === null ? "" : `?gamma=${gamma}`;
    const type = file.type.startsWith("image/") ? file.type : "image/unknown";
    return get<Hits>(`${at(run)}/search${query}`, { method: "POST", body: file, headers: { "content-type": type } });
  }

  note(run: string, neuron: number, kind: NoteKind, text: string) {
    const done = get<Note>(`${at(run)}/notes`, json({ neuron, kind, text }));
    return done.finally(() => this.details.clear()); // a corrected label changes what a neuron's page says
  }

  verify = (run: string, neuron: number, label: string) => get<Testing>(`${at(run)}/verify`, json({ neuron, label }));
  testing = (run: string) => get<Testing>(`${at(run)}/verify`);
  changed = () => this.details.clear();
  card = (run: string, neuron: number, dark: boolean) =>
    fetch(`${at(run)}/neurons/${neuron}/card.png?dark=${dark}`).then((r) => {
      if (!r.ok) throw new Error(`card: ${r.status}`);
      return r.blob();
    });

  async forget(run: string, id: string) {
    await get(`${at(run)}/notes/remove`, json({ id }));
    this.details.clear();
  }
}

/** Files of an export: each is a script that hands over one JSON text by name. */
class Exported implements Source {
  live = false;
  private waiting = new Map<string, (text: string) => void>();
  private loaded = new Map<string, Promise<unknown>>();

  constructor() {
    (window as unknown as Record<string, unknown>)["contralensData"] = (name: string, text: string) =>
      this.waiting.get(name)?.(text);
  }

  private load<T>(name: string): Promise<T> {
    let found = this.loaded.get(name) as Promise<T> | undefined;
    if (!found) {
      found = new Promise<T>((resolve, reject) => {
        const script = document.createElement("script");
        const gone = () => {
          this.waiting.delete(name);
          script.remove();
        };
        this.waiting.set(name, (text) => {
          resolve(JSON.parse(text) as T);
          gone();
        });
        script.onerror = () => {
          reject(new Error(`The export is missing data/${name}.js.`));
          this.loaded.delete(name);
          gone();
        };
        script.src = `data/${name}.js`;
        document.head.append(script);
      });
      this.loaded.set(name, found);
    }
    return found;
  }

  runs = () => this.load<RunList>("runs");
  index = (run: string) => this.load<Index>(`${run}/index`);
  plane = (run: string, method: string) => this.load<Plane>(`${run}/map${method ? `-${method}` : ""}`);
  audit = (run: string) => this.load<Audit>(`${run}/audit`);
  layers = () => this.load<Layers>("layers");
  match = (a: string, b: string) => this.load<Matched>(`${a}/match-${b}`);
  notes = (run: string) => this.load<Notes>(`${run}/notes`);
  twin = () => null;

  async detail(run: string, neuron: number): Promise<Detail> {
    const part = await this.load<Detail[]>(`${run}/neurons-${Math.floor(neuron / 16)}`);
    const found = part.find((d) => d.neuron === neuron);
    if (!found) throw new Error(`This run has no neuron ${neuron}.`);
    return found;
  }

  now(run: string, _stamp: string, image: number) {
    return `images/${run}/${Math.floor(image / 1000)}/${image}.jpg`;
  }

  url(run: string, stamp: string, image: number, seen: (url: string | null) => void) {
    seen(this.now(run, stamp, image));
    return () => {};
  }

  words = () => Promise.reject<Hits>(new Error(NEEDS));
  picture = () => Promise.reject<Hits>(new Error(NEEDS));
  note = () => Promise.reject<Note>(new Error(NEEDS));
  forget = () => Promise.reject<void>(new Error(NEEDS));
  verify = () => Promise.reject<Testing>(new Error(NEEDS));
  testing = () => Promise.resolve<Testing>({ job: null });
  changed = () => {};
  card = () => Promise.reject<Blob>(new Error(NEEDS));
}

const NEEDS = "This is an export; this needs `contralens explore`.";

function at(run: string): string {
  return `api/runs/${encodeURIComponent(run)}`;
}

function json(value: unknown): RequestInit {
  return { method: "POST", body: JSON.stringify(value), headers: { "content-type": "application/json" } };
}

async function get<T>(url: string, init?: RequestInit): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(url, init);
  } catch {
    throw new Error("The explorer does not answer. Is `contralens explore` still running?");
  }
  if (answer.ok) return (await answer.json()) as T;
  const text = await answer.text();
  let told = text.trim();
  try {
    told = (JSON.parse(text) as { error: string }).error;
  } catch {
    // plain text
  }
  throw new Error(told || `The explorer answered ${answer.status}.`);
}

export const source: Source = document.documentElement.dataset["export"] === "1" ? new Exported() : new Live();
