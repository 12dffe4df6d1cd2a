// The route, and data as React sees it.

import { createContext, useCallback, useContext, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { byNeuron } from "./logic/formats";
import { format, parse, type Route } from "./logic/route";
import { source } from "./source";
import type { Index, Note, Notes, RunInfo, RunList } from "./types";

const listeners = new Set<() => void>();
const tell = () => listeners.forEach((f) => f());
window.addEventListener("hashchange", tell);
window.addEventListener("popstate", tell);

let lastHash: string | null = null;
let lastRoute: Route = parse("");

function current(): Route {
  if (location.hash !== lastHash) {
    lastHash = location.hash;
    lastRoute = parse(location.hash);
  }
  return lastRoute;
}

export function useRoute(): Route {
  return useSyncExternalStore((f) => {
    listeners.add(f);
    return () => listeners.delete(f);
  }, current);
}

/** Go to a page, or change the state of this one without a new step in the history. */
export function go(route: Partial<Route> & { run: string | null }, replace = false) {
  const hash = format(route);
  if (replace) {
    history.replaceState(history.state, "", hash);
    tell();
  } else if (hash !== location.hash) location.hash = hash;
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
}

export const WorldContext = createContext<World | null>(null);

/** The run that is looked at. */
export function useWorld(): World {
  const world = useContext(WorldContext);
  if (!world) throw new Error("no run is open");
  return world;
}

const indexes = new Map<string, Promise<Index>>();

/** The index of a run, loaded once for each stamp. */
export function indexOf(info: RunInfo): Promise<Index> {
  const key = `${info.key} ${info.stamp}`;
  let found = indexes.get(key);
  if (!found) {
    found = source.index(info.key, info.stamp);
    found.catch(() => indexes.delete(key));
    indexes.set(key, found);
  }
  return found;
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
