// What a confidence is called and how it is written.

/** Word and the confidence from which it counts: mirrors `word_of` of src/contralens/types.py. */
export const WORDS: [string, number][] = [
  ["supported", 0.9],
  ["uncertain", 0.5],
  ["unsupported", 0],
];

export function wordOf(confidence: number): string {
  return WORDS.find(([, from]) => confidence >= from)![0];
}

/** The confidences [from, below) that a word stands for; null for another text. */
export function wordLimits(word: string): [number, number] | null {
  const at = WORDS.findIndex(([w]) => w === word);
  return at < 0 ? null : [WORDS[at]![1], at ? WORDS[at - 1]![1] : Infinity];
}

/** Two digits, rounded down: .899 is not .90. */
export function rounded(confidence: number): string {
  return (Math.floor(confidence * 100 + 1e-9) / 100).toFixed(2);
}
