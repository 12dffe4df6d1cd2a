// Each state has its own URL, behind a "#" so that an exported page works from any folder and from file://.

export type Page =
  | "home" | "neurons" | "neuron" | "map" | "search" | "compare" | "audit" | "notes" | "about" | "layers";
const PAGES: Page[] = ["neurons", "map", "search", "compare", "audit", "notes", "about", "layers"];

export interface Route {
  run: string | null;
  page: Page;
  neuron: number | null;
  params: Record<string, string>;
}

/** "#/demo/neurons?q=dog" or "#/demo/n/12?gamma=0.5" taken apart; what makes no sense leads to the run, or home. */
export function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const parts = path.split("/").map(decode);
  const params = Object.fromEntries(new URLSearchParams(query));
  const run = parts[0] || null;
  if (parts[1] === "n" && /^\d{1,9}$/.test(parts[2] ?? "")) {
    return { run, page: "neuron", neuron: Number(parts[2]), params };
  }
  const page = PAGES.find((p) => p === parts[1]) ?? (run === null ? "home" : "neurons");
  return { run, page, neuron: null, params };
}

export function format(route: Partial<Route> & { run: string | null }): string {
  if (route.page === "home") return "#/";
  const path =
    route.page === "neuron" ? `n/${route.neuron ?? 0}` : (route.page ?? "neurons");
  const kept = Object.entries(route.params ?? {}).filter(([, v]) => v !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${encodeURIComponent(route.run ?? "")}/${path}${query ? `?${query}` : ""}`;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
