const MANY = 12;

/** Any JSON value, as lists within lists. */
export function Tree({ value }: { value: unknown }) {
  if (Array.isArray(value)) {
    if (!value.length) return <span className="soft">none</span>;
    if (value.every((v) => typeof v !== "object" || v === null))
      return (
        <span>
          {value.slice(0, MANY).map(String).join(", ")}
          {value.length > MANY && `, and ${value.length - MANY} more`}
        </span>
      );
    return (
      <ul>
        {value.slice(0, 50).map((v, i) => (
          <li key={i}>
            <Tree value={v} />
          </li>
        ))}
        {value.length > 50 && <li>and {value.length - 50} more</li>}
      </ul>
    );
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value);
    if (!entries.length) return <span className="soft">none</span>;
    return (
      <dl className="tree">
        {entries.map(([key, inner]) => (
          <div key={key}>
            <dt>{key.replaceAll("_", " ")}</dt>
            <dd>
              <Tree value={inner} />
            </dd>
          </div>
        ))}
      </dl>
    );
  }
  return <span className="mono">{value === null ? "–" : String(value)}</span>;
}
