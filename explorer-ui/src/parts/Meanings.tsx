import type { ScorerLabels } from "../types";
import { Confidence } from "./Bits";
import { Picture } from "./Picture";

/** The meanings of a polysemantic neuron: a label each, with its share, confidence, exemplars and their contrasts. */
export function Meanings({ found }: { found: ScorerLabels }) {
  if (found.meanings.length < 2) return null;
  return (
    <section className="panel" aria-labelledby="meanings-title">
      <h2 id="meanings-title">{found.meanings.length} meanings</h2>
      <p className="soft">Clusters of the images above the neuron's mean, labeled by {found.scorer}; share of the activation.</p>
      <ul className="meanings">
        {found.meanings.map((m) => (
          <li key={m.label}>
            <p>
              <b>{m.label}</b> {m.share !== null && <span className="soft">{Math.round(100 * m.share)} %</span>}{" "}
              {m.confidence !== null && <Confidence value={m.confidence} />}
            </p>
            {m.positives.length > 0 && (
              <span className="strip">
                {m.positives.map((image) => (
                  <Picture key={image} image={image} alt={`image of ${m.label}`} />
                ))}
              </span>
            )}
            {m.contrasts.length > 0 && (
              <span className="strip against">
                {m.contrasts.map((image, i) => (
                  <Picture key={`${image} ${i}`} image={image} alt={`contrast of ${m.label}`} />
                ))}
              </span>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}
