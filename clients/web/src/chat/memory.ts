/** What the browser remembers; a browser that remembers nothing is fine too. */

/** A store of JSON values under one prefix. */
export class Memory {
  readonly #storage: Storage | undefined;
  readonly #prefix: string;

  constructor(open: () => Storage, prefix: string) {
    this.#prefix = prefix;
    try {
      this.#storage = open();
    } catch {
      this.#storage = undefined; // storage is blocked
    }
  }

  read(key: string): unknown {
    try {
      return JSON.parse(this.#storage?.getItem(this.#prefix + key) ?? "null");
    } catch {
      return null;
    }
  }

  write(key: string, value: unknown): void {
    try {
      this.#storage?.setItem(this.#prefix + key, JSON.stringify(value));
    } catch {
      // full or blocked: then it is not remembered
    }
  }

  forget(key: string): void {
    try {
      this.#storage?.removeItem(this.#prefix + key);
    } catch {
      // blocked
    }
  }

  readTexts(key: string): string[] {
    const value = this.read(key);
    return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
  }

  readNumbers(key: string): Record<string, number> {
    const value = this.read(key);
    if (typeof value !== "object" || value === null) return {};
    const entries = Object.entries(value as Record<string, unknown>);
    return Object.fromEntries(
      entries.filter((entry): entry is [string, number] => typeof entry[1] === "number"),
    );
  }
}
