// Thumbnails: those that are on the screen are asked for together, the newest first, and kept as data URLs. (Object URLs
// would be fetched from the browser's own process one by one: a screen of pictures then takes three times as long.)

export interface PictureSource {
  /** The URL if it is known already. */
  now(run: string, stamp: string, image: number): string | null | undefined;
  /** Hears the URL, or null where there is no picture; returns what to call when it is no longer wanted. */
  url(run: string, stamp: string, image: number, seen: (url: string | null) => void): () => void;
}

type Fetch = (run: string, images: number[], signal?: AbortSignal) => Promise<ArrayBuffer>;

interface Entry {
  run: string;
  image: number;
  url?: string | null;
  users: Set<(url: string | null) => void>;
  asked: boolean;
}

const TOGETHER = 120;
const AT_ONCE = 3;
export const KEPT = 6000;

export class Pictures {
  private entries = new Map<string, Entry>();
  private queue: Entry[] = [];
  private busy = 0;
  private planned = false;

  constructor(
    private readonly fetch: Fetch,
    private readonly later: (f: () => void) => void = (f) => setTimeout(f, 0),
    private readonly kept = KEPT,
  ) {}

  now(run: string, stamp: string, image: number): string | null | undefined {
    return this.entries.get(`${run} ${stamp} ${image}`)?.url;
  }

  want(run: string, stamp: string, image: number, seen: (url: string | null) => void): () => void {
    const key = `${run} ${stamp} ${image}`;
    let entry = this.entries.get(key);
    if (entry) this.entries.delete(key);
    else entry = { run, image, users: new Set(), asked: false };
    this.entries.set(key, entry);
    entry.users.add(seen);
    if (entry.url !== undefined) seen(entry.url);
    else if (!entry.asked) {
      this.queue.push(entry);
      this.plan();
    }
    const own = entry;
    return () => own.users.delete(seen);
  }

  private plan() {
    if (this.planned) return;
    this.planned = true;
    this.later(() => {
      this.planned = false;
      while (this.busy < AT_ONCE && this.send());
    });
  }

  private send(): boolean {
    this.queue = [...new Set(this.queue)].filter((e) => !e.asked && e.users.size > 0);
    const newest = this.queue[this.queue.length - 1];
    if (!newest) return false;
    const part = this.queue.filter((e) => e.run === newest.run).slice(-TOGETHER);
    part.forEach((e) => (e.asked = true));
    this.busy += 1;
    this.fetch(
      newest.run,
      part.map((e) => e.image),
    )
      .then((data) => this.take(part, data))
      .catch(() => part.forEach((e) => this.failed(e)))
      .finally(() => {
        this.busy -= 1;
        this.plan();
      });
    return true;
  }

  private take(part: Entry[], data: ArrayBuffer) {
    unpack(data, part.length).forEach((url, i) => this.tell(part[i]!, url));
    this.drop();
  }

  private tell(entry: Entry, url: string | null) {
    entry.url = url;
    entry.users.forEach((seen) => seen(url));
  }

  /** Says that there is none now, and asks again when somebody looks again. */
  private failed(entry: Entry) {
    this.tell(entry, null);
    delete entry.url;
    entry.asked = false;
  }

  /** Lets go of the pictures that nobody has looked at for longest. */
  private drop() {
    for (const [key, entry] of this.entries) {
      if (this.entries.size <= this.kept) return;
      if (entry.users.size > 0 || entry.url === undefined) continue;
      this.entries.delete(key);
    }
  }
}

/** Length (uint32, little endian) and JPEG, one after the other, length 0 for none: to data URLs. */
export function unpack(data: ArrayBuffer, count: number): (string | null)[] {
  const view = new DataView(data);
  const out: (string | null)[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 4 > data.byteLength) {
      out.push(null);
      continue;
    }
    const length = view.getUint32(at, true);
    at += 4;
    out.push(length && at + length <= data.byteLength ? `data:image/jpeg;base64,${base64(new Uint8Array(data, at, length))}` : null);
    at += length;
  }
  return out;
}

const PIECE = 8192;

function base64(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < bytes.length; i += PIECE) text += String.fromCharCode(...bytes.subarray(i, i + PIECE));
  return btoa(text);
}
