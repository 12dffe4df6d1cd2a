// The route, and data as React sees it.

import { createContext, useCallback, useContext, useEffect, useLayoutEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { byNeuron } from "./logic/formats";
import { format, parse, type Route } from "./logic/route";
import { source } from "./source";
import type { Index, Note, Notes, Plane, RunInfo, RunList } from "./types";

const listeners = new Set<() => void>();
const tell = () => listeners.forEach((f) => f());
const moved = () => {
  pending = null;
  tell();
};
window.addEventListener("hashchange", moved);
window.addEventListener("popstate", moved);
window.addEventListener("pagehide", write);

let lastHash: string | null = null;
let lastRoute: Route = parse("");
/** A hash that counts already and is soon written to the address: browsers take few changes of it a second. */
let pending: string | null = null;
let timer: ReturnType<typeof setTimeout> | undefined;

/** What the address says, or is about to say. */
export function hash(): string {
  return pending ?? location.hash;
}

function current(): Route {
  if (hash() !== lastHash) {
    lastHash = hash();
    lastRoute = parse(lastHash);
  }
  return lastRoute;
}

function write() {
  clearTimeout(timer);
  timer = undefined;
  if (pending !== null && pending !== location.hash) history.replaceState(history.state, "", pending);
  pending = null;
}

export function useRoute(): Route {
  return useSyncExternalStore((f) => {
    listeners.add(f);
    return () => listeners.delete(f);
  }, current);
}

/** Go to a page, or change the state of this one without a new step in the history. */
export function go(route: Partial<Route> & { run: string | null }, replace = false) {
  const wanted = format(route);
  if (replace) {
    pending = wanted;
    timer ??= setTimeout(write, 120);
    tell();
  } else {
    visit(wanted);
  }
}

/** Go to an address of this page. */
export function visit(wanted: string) {
  write();
  if (wanted === location.hash) return;
  location.hash = wanted;
  tell();
}

const TYPING = "input, textarea, select, [contenteditable], dialog[open]";

/** Hears keys that are typed nowhere in particular, from the step on in which the page stands: none is lost. */
export function useKeys(heard: (e: KeyboardEvent) => void) {
  const latest = useRef(heard);
  useLayoutEffect(() => {
    latest.current = heard;
  });
  useLayoutEffect(() => {
    const onKey = (e: KeyboardEvent) => {
      if (e.ctrlKey || e.metaKey || e.altKey || (e.target as Element).closest?.(TYPING)) return;
      latest.current(e);
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
}

export function useParam(name: string, otherwise = ""): [string, (value: string) => void] {
  const route = useRoute();
  const set = useCallback(
    (value: string) => {
      const now = current();
      const params = { ...now.params };
      if (value === "" || value === otherwise) delete params[name];
      else params[name] = value;
      go({ ...now, params }, true);
    },
    [name, otherwise],
  );
  return [route.params[name] ?? otherwise, set];
}

/** Several parameters changed in one step. */
export function setParams(changes: Record<string, string>) {
  const now = current();
  go({ ...now, params: { ...now.params, ...changes } }, true);
}

export interface Loaded<T> {
  data: T | null;
  error: string | null;
  loading: boolean;
  again: () => void;
}

/** What `load` gives, loaded again when `key` changes; null as key loads nothing. */
export function useLoaded<T>(key: string | null, load: () => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ key: string | null; data: T | null; error: string | null }>({
    key: null,
    data: null,
    error: null,
  });
  const [round, setRound] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    if (key === null) return;
    let wanted = true;
    latest.current().then(
      (data) => wanted && setState({ key, data, error: null }),
      (e: unknown) => wanted && setState({ key, data: null, error: e instanceof Error ? e.message : String(e) }),
    );
    return () => {
      wanted = false;
    };
  }, [key, round]);
  const here = state.key === key && key !== null;
  return {
    data: here ? state.data : null,
    error: here ? state.error : null,
    loading: key !== null && !here,
    again: useCallback(() => setRound((r) => r + 1), []),
  };
}

export interface World {
  list: RunList;
  info: RunInfo;
  index: Index;
  notes: Notes | null;
  noted: Map<number, Note[]>;
  refreshNotes: () => void;
  /** Look again whether the run changed. */
  refresh: () => void;
}

export const WorldContext = createContext<World | null>(null);

/** The run that is looked at. */
export function useWorld(): World {
  const world = useContext(WorldContext);
  if (!world) throw new Error("no run is open");
  return world;
}

const indexes = new Map<string, Promise<Index>>();

/** The index of a run, loaded once for each stamp and set of corrected labels. */
export function indexOf(info: RunInfo, corrected = ""): Promise<Index> {
  const key = `${info.key} ${info.stamp} ${corrected}`;
  let found = indexes.get(key);
  if (!found) {
    found = source.index(info.key, info.stamp);
    found.catch(() => indexes.delete(key));
    indexes.set(key, found);
  }
  return found;
}

/** The neurons of a run as points, by the method that the address names; null as key loads none. */
export function usePlane(wanted: boolean): Loaded<Plane> {
  const { info } = useWorld();
  const [method] = useParam("by");
  return useLoaded(wanted ? `${info.key} ${info.stamp} ${method}` : null, () => source.plane(info.key, method));
}

export function useNotes(run: string | null): { notes: Notes | null; noted: Map<number, Note[]>; again: () => void } {
  const { data, again } = useLoaded(run, () => source.notes(run!));
  const cache = useRef<{ notes: Notes | null; noted: Map<number, Note[]> }>({ notes: null, noted: new Map() });
  if (cache.current.notes !== data && data) cache.current = { notes: data, noted: byNeuron(data.notes) };
  if (run === null) cache.current = { notes: null, noted: new Map() };
  return { ...cache.current, again };
}

export type Theme = "auto" | "light" | "dark";

export function readTheme(): Theme {
  try {
    const kept = localStorage.getItem("contralens-theme");
    return kept === "light" || kept === "dark" ? kept : "auto";
  } catch {
    return "auto";
  }
}

export function setTheme(theme: Theme) {
  if (theme === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
  try {
    localStorage.setItem("contralens-theme", theme);
  } catch {
    // not kept, still applied
  }
}

/** Whether the window is at most so wide, px. */
export function useNarrow(width: number): boolean {
  const query = useMemo(() => matchMedia(`(max-width: ${width}px)`), [width]);
  return useSyncExternalStore(
    (f) => {
      query.addEventListener("change", f);
      return () => query.removeEventListener("change", f);
    },
    () => query.matches,
  );
}
