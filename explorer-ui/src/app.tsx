import { Component, type ReactNode, useEffect, useMemo, useRef, useState } from "react";
import { format, type Page } from "./logic/route";
import { About } from "./pages/About";
import { AuditPage } from "./pages/Audit";
import { Compare } from "./pages/Compare";
import { Home } from "./pages/Home";
import { LayersPage } from "./pages/Layers";
import { Neuron } from "./pages/Neuron";
import { NotesPage } from "./pages/Notes";
import { Overview } from "./pages/Overview";
import { Plane } from "./pages/Plane";
import { Search } from "./pages/Search";
import { Problem, Waiting } from "./parts/Bits";
import { source } from "./source";
import { go, indexOf, readTheme, setTheme, type Theme, useKeys, useLoaded, useNotes, useRoute, type World, WorldContext } from "./state";
import type { Index, RunList } from "./types";

const TABS: [Page, string][] = [
  ["neurons", "Neurons"],
  ["map", "Map"],
  ["search", "Search"],
  ["compare", "Compare"],
  ["audit", "Audit"],
  ["notes", "Notes"],
  ["about", "About"],
  ["layers", "Layers"], // of several runs
];

export function App() {
  const route = useRoute();
  const list = useLoaded("runs", source.runs);
  const known = list.data?.runs ?? [];
  const isHome = route.page === "home" && known.length > 1;
  const first = known.find((r) => r.problem === null) ?? known[0] ?? null;
  const info = isHome ? null : (known.find((r) => r.key === route.run) ?? (route.run ? null : first));
  const usable = info && info.problem === null ? info : null;
  const notes = useNotes(usable?.key ?? null);
  const corrected = (notes.notes?.notes ?? []).flatMap((n) => (n.kind === "label" ? [n.id] : [])).join();
  const index = useLoaded(usable ? `${usable.key} ${usable.stamp} ${corrected}` : null, () => indexOf(usable!, corrected));
  const latest = useRef<Index | null>(null); // stands until the one with a new correction is there
  if (index.data) latest.current = index.data;
  const same = latest.current?.key === usable?.key && latest.current?.stamp === usable?.stamp;
  const shown = index.data ?? (same && !index.error ? latest.current : null);
  const [help, setHelp] = useState(false);
  useKeys((e) => {
    if (e.key === "/") {
      e.preventDefault();
      document.querySelector<HTMLElement>("[data-search]")?.focus();
    } else if (e.key === "?") setHelp(true);
    else if (/^[1-7]$/.test(e.key)) go({ run: route.run ?? first?.key ?? null, page: TABS[Number(e.key) - 1]![0] });
  });

  const world = useMemo<World | null>(
    () =>
      list.data && usable && shown
        ? { list: list.data, info: usable, index: shown, notes: notes.notes, noted: notes.noted, refreshNotes: notes.again, refresh: list.again }
        : null,
    [list.data, usable, shown, notes.notes, notes.noted, notes.again, list.again],
  );
  const tab = TABS.find(([p]) => p === route.page)?.[1] ?? "Neuron";
  useEffect(() => {
    document.title = isHome
      ? "contralens"
      : `${route.page === "neuron" ? `neuron ${route.neuron}` : tab} · ${usable?.title ?? "contralens"}`;
  }, [route.page, route.neuron, tab, usable, isHome]);

  // An address without a run gets the first one's name, so that it can be passed on.
  useEffect(() => {
    if (route.run === null && info) go({ ...route, page: route.page === "home" ? "neurons" : route.page, run: info.key }, true);
  }, [route, info]);

  // A run written again since the page was opened: its new stamp brings its new index.
  const again = list.again;
  useEffect(() => {
    if (!source.live) return;
    const look = () => document.visibilityState === "visible" && again();
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, [again]);

  return (
    <>
      <a className="skip" href="#main" onClick={(e) => { e.preventDefault(); document.getElementById("main")?.focus(); }}>
        Skip to the page
      </a>
      <header className="top">
        <a
          className="brand"
          href={known.length > 1 ? format({ run: null, page: "home" }) : format({ run: info?.key ?? null, page: "neurons" })}
          aria-label={known.length > 1 ? "contralens, all runs" : "contralens, all neurons"}
        >
          <img src="icon.svg" alt="" width="26" height="26" />
          <span>contralens</span>
        </a>
        {list.data && <RunChoice list={list.data} chosen={info?.key ?? ""} page={route.page} />}
        {!isHome && <nav aria-label="Pages">
          {TABS.filter(([page]) => page !== "layers" || known.length > 1).map(([page, title]) => (
            <a
              key={page}
              href={format({ run: info?.key ?? null, page })}
              aria-current={route.page === page || (page === "neurons" && route.page === "neuron") ? "page" : undefined}
            >
              {title}
              {page === "notes" && notes.notes && notes.notes.notes.length > 0 && <sup>{notes.notes.notes.length}</sup>}
            </a>
          ))}
        </nav>}
        <span className="tools">
          <ThemeButton />
          <button type="button" className="icon" onClick={() => setHelp(true)} aria-label="Keyboard shortcuts">
            ?
          </button>
        </span>
      </header>
      <main id="main" tabIndex={-1}>
        {list.error && <Problem title="No connection">{list.error}</Problem>}
        {list.loading && <Waiting>Opening the runs…</Waiting>}
        {list.data && isHome && (
          <Mended key="home">
            <Home list={list.data} />
          </Mended>
        )}
        {list.data && !info && route.run && <Problem title="No such run">There is no run called {route.run} here.</Problem>}
        {info?.problem && (
          <Problem title={`${info.key} cannot be read now`}>
            {info.problem}{" "}
            <button type="button" onClick={list.again}>
              Look again
            </button>
          </Problem>
        )}
        {index.error && <Problem>{index.error}</Problem>}
        {index.loading && !shown && <Waiting>Reading the neurons…</Waiting>}
        {world && (
          <WorldContext value={world}>
            <Mended key={`${world.info.key} ${world.info.stamp} ${route.page}`}>
              <CurrentPage page={route.page} />
            </Mended>
          </WorldContext>
        )}
      </main>
      <Help open={help} onClose={() => setHelp(false)} />
    </>
  );
}

/** A page that fails says so, and the others still open. */
class Mended extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state: { error: Error | null } = { error: null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    const { error } = this.state;
    return error ? <Problem title="This page failed">{`${error.message}. The other pages still work.`}</Problem> : this.props.children;
  }
}

function CurrentPage({ page }: { page: Page }) {
  switch (page) {
    case "home":
      return null;
    case "neuron":
      return <Neuron />;
    case "map":
      return <Plane />;
    case "search":
      return <Search />;
    case "compare":
      return <Compare />;
    case "layers":
      return <LayersPage />;
    case "audit":
      return <AuditPage />;
    case "notes":
      return <NotesPage />;
    case "about":
      return <About />;
    default:
      return <Overview />;
  }
}

function RunChoice({ list, chosen, page }: { list: RunList; chosen: string; page: Page }) {
  if (list.runs.length < 2) return <span className="run-name">{list.runs[0]?.title ?? ""}</span>;
  return (
    <select
      className="run-choice"
      aria-label="Run"
      value={chosen}
      onChange={(e) => go({ run: e.target.value || null, page: e.target.value === "" ? "home" : page === "neuron" || page === "home" ? "neurons" : page })}
    >
      <option value="">All {list.runs.length} runs</option>
      {list.runs.map((r) => (
        <option key={r.key} value={r.key}>
          {r.problem ? `⚠ ${r.key}` : `${r.key}: ${r.title}`}
        </option>
      ))}
    </select>
  );
}

const NEXT: Record<Theme, Theme> = { auto: "dark", dark: "light", light: "auto" };

function ThemeButton() {
  const [theme, set] = useState(readTheme);
  return (
    <button
      type="button"
      className="icon"
      aria-label={`Colours: ${theme}; change`}
      title={`Colours: ${theme}`}
      onClick={() => {
        setTheme(NEXT[theme]);
        set(NEXT[theme]);
      }}
    >
      {theme === "auto" ? "◐" : theme === "dark" ? "●" : "○"}
    </button>
  );
}

const KEYS: [string, string][] = [
  ["/", "search or filter"],
  ["← → ↑ ↓", "move in the grid; on a neuron's page, go to the previous or next neuron"],
  ["Enter", "open the neuron"],
  ["Esc", "back to the grid"],
  ["c", "switch between exemplars and contrasts"],
  ["g", "to the gamma slider of a neuron"],
  ["m", "activation maps on or off"],
  ["a", "all pairs, or the first ones"],
  ["n", "write a note"],
  ["1 … 7", "the pages above"],
  ["?", "this list"],
];

function Help({ open, onClose }: { open: boolean; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (open && !dialog.current?.open) dialog.current?.showModal();
  }, [open]);
  return (
    <dialog ref={dialog} onClose={onClose} aria-labelledby="help-title">
      <h2 id="help-title">Keyboard</h2>
      <dl className="keys">
        {KEYS.map(([key, what]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog">
        <button>Close</button>
      </form>
    </dialog>
  );
}
