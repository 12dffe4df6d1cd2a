import { describe, expect, it, vi } from "vitest";
import { Pictures, unpack } from "../src/pictures";

function pack(blobs: number[][]): ArrayBuffer {
  const bytes: number[] = [];
  for (const b of blobs) bytes.push(b.length & 255, b.length >> 8, 0, 0, ...b);
  return new Uint8Array(bytes).buffer;
}

const FULL = "data:image/jpeg;base64,/w==";

describe("pictures", () => {
  it("unpacks data URLs, none where the length is 0 or the data end early", () => {
    const url = (bytes: number[]) => `data:image/jpeg;base64,${btoa(String.fromCharCode(...bytes))}`;
    const long = Array.from({ length: 20_000 }, (_, i) => i % 251);
    const found = unpack(pack([[1, 2], [], [3], long]), 5);
    expect(found).toEqual([url([1, 2]), null, url([3]), url(long), null]);
    expect(unpack(pack([[1, 2, 3]]).slice(0, 6), 1)).toEqual([null]);
  });

  it("asks once for what is wanted together, newest kept when many, and tells everyone", async () => {
    const asked: number[][] = [];
    const pictures = new Pictures(async (_run, images) => {
      asked.push(images);
      return pack(images.map(() => [255]));
    });
    const seen: (string | null)[] = [];
    pictures.want("r", "1", 7, (u) => seen.push(u));
    pictures.want("r", "1", 7, (u) => seen.push(u));
    const stop = pictures.want("r", "1", 8, () => seen.push("never"));
    stop();
    await vi.waitFor(() => expect(seen).toEqual([FULL, FULL]));
    expect(asked).toEqual([[7]]);
    expect(pictures.now("r", "1", 7)).toBe(FULL);
  });

  it("says null when the server fails, and lets go of the oldest", async () => {
    let fail = true;
    const pictures = new Pictures(
      async (_r, images) => {
        if (fail) throw new Error("down");
        return pack(images.map(() => [255]));
      },
      (f) => setTimeout(f, 0),
      2,
    );
    const seen: (string | null)[] = [];
    pictures.want("r", "1", 1, (u) => seen.push(u))();
    const stop = pictures.want("r", "1", 2, (u) => seen.push(u));
    await vi.waitFor(() => expect(seen).toEqual([null]));
    stop();
    fail = false;
    for (const image of [3, 4, 5]) {
      const end = pictures.want("r", "1", image, (u) => seen.push(u));
      await vi.waitFor(() => expect(seen.at(-1)).toBe(FULL));
      seen.length = 0;
      seen.push(null);
      end();
    }
    expect(pictures.now("r", "1", 3)).toBeUndefined();
    expect(pictures.now("r", "1", 5)).toBe(FULL);
  });
});
