import { memo } from "react";
import { labelAt, scorerOf, short } from "../logic/select";
import type { Index, Note } from "../types";
import { Bar, Confidence, STATUS, Status } from "./Bits";
import { Outcome } from "./Experiments";
import { Picture } from "./Picture";

interface Props {
  index: Index;
  row: number;
  scorer: string;
  side: "positives" | "contrasts";
  href: string;
  most: number;
  notes?: Note[] | undefined;
  similarity?: number;
  tabIndex?: number;
}

/** A neuron of the overview: four of its pictures, its label and how sure the score is. */
export const Card = memo(function Card({ index, row, scorer, side, href, most, notes, similarity, tabIndex }: Props) {
  const label = labelAt(index, scorer, row);
  const score = similarity ?? scorerOf(index, scorer).score[row] ?? null;
  const margin = scorerOf(index, scorer).margin[row] ?? null;
  const pictures = index[side].slice(row * index.shown, (row + 1) * index.shown).filter((i) => i >= 0);
  const confidence = scorerOf(index, scorer).columns["confidence"]?.[row] ?? null;
  const own = notes?.findLast((n) => n.kind === "label")?.text;
  const status = index.statuses[index.status[row]!]!;
  const run = { key: index.key, stamp: index.stamp };
  return (
    <a className={`card ${side}`} href={href} data-row={row} tabIndex={tabIndex}>
      <span className="mosaic">
        {pictures.length ? (
          pictures.map((image, i) => <Picture key={`${i} ${image}`} image={image} alt="" run={run} />)
        ) : (
          <span className="nothing">{status}</span>
        )}
      </span>
      <span className="card-label">
        {own ?? label ?? (status === "chance" ? STATUS["chance"] : "no label")}
        {own !== undefined && <span className="own" title="corrected by a person"> ✎</span>}
      </span>
      <span className="card-line">
        <span className="mono">{index.name[row]}</span>
        <Status status={status} />
        {similarity === undefined && own === undefined && <Outcome outcome={scorerOf(index, scorer).verified?.[row] ?? null} />}
        {notes && notes.length > 0 && <span className="badge note" title="has notes">{notes.length}</span>}
      </span>
      {similarity === undefined && label !== null && confidence !== null ? (
        <span className="card-line numbers" title={`score ${short(score)}, margin ${short(margin)}`}>
          <Confidence value={confidence} />
        </span>
      ) : (
        <span className="card-line numbers">
          {similarity !== undefined && <Bar value={score} most={most} tone={side === "positives" ? "pos" : "con"} />}
          <span>
            <span className="soft">{similarity === undefined ? "score " : "cosine "}</span>
            {short(score)}
          </span>
          {similarity === undefined && margin !== null && (
            <span className="soft" title="best minus second best score: how clear the choice is">
              {short(margin)} ahead
            </span>
          )}
        </span>
      )}
    </a>
  );
});
