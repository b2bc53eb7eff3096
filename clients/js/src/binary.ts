/** Binary content, which history gives as `{"$binary":"<base64>"}` (docs/wire.md). */

import { isFields } from "./fields.ts";

/** What Node has and a browser has not. */
const { Buffer } = globalThis as {
  Buffer?: { from(text: string, encoding: "base64"): Uint8Array };
};

/** Give *value* as it would have come live: a Buffer in Node, an ArrayBuffer in a browser. */
export function restoreBinary(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(restoreBinary);
  if (!isFields(value)) return value;
  const keys = Object.keys(value);
  const { $binary } = value;
  if (keys.length === 1 && typeof $binary === "string") return decode($binary);
  return Object.fromEntries(keys.map((key) => [key, restoreBinary(value[key])]));
}

function decode(base64: string): Uint8Array | ArrayBuffer {
  if (Buffer !== undefined) return Buffer.from(base64, "base64");
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
}
