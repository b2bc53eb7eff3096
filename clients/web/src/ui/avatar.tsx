/** A user as a coloured disc: the same colour everywhere. */

import type { CSSProperties } from "react";

/** A hue in degrees that depends on *name* alone. */
export function hueOf(name: string): number {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) | 0;
  return (Math.abs(hash) * 137) % 360;
}

export function hueStyle(name: string): CSSProperties {
  return { "--hue": hueOf(name) } as CSSProperties;
}

const DOTS: Readonly<Record<string, string>> = { online: "on", offline: "off" };

export function Avatar({ name, status }: { readonly name: string; readonly status?: string }) {
  const [initial = "?"] = name.trim();
  return (
    <span className="avatar" style={hueStyle(name)} aria-hidden="true">
      {initial.toUpperCase()}
      {status !== undefined && <span className={`dot ${DOTS[status] ?? "away"}`} />}
    </span>
  );
}
