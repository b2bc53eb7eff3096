/** An object that came from outside, with nothing known of its fields. */
export type Fields = Readonly<Record<string, unknown>>;

/** Whether *value* is an object with fields (not an array, not null). */
export function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
