import { useContext, useEffect, useState } from "react";
import { source } from "../source";
import { WorldContext } from "../state";

interface Props {
  image: number;
  /** Empty where the words around it say all. */
  alt: string;
  run?: { key: string; stamp: string };
}

/** One thumbnail; keeps its place while it loads, and says so where there is none. */
export function Picture({ image, alt, run }: Props) {
  const world = useContext(WorldContext);
  const { key, stamp } = run ?? world!.info;
  const [url, setUrl] = useState<string | null | undefined>(() => source.now(key, stamp, image));
  useEffect(() => source.url(key, stamp, image, setUrl), [key, stamp, image]);
  if (image < 0 || url === null) return <span className="picture none" role="img" aria-label={alt || "no picture"} />;
  if (url === undefined) return <span className="picture waiting" aria-hidden="true" />;
  return <img className="picture" src={url} alt={alt} draggable={false} onError={() => setUrl(null)} />;
}
