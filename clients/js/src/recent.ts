/** The newest of the things that were seen, to know them again. */
export class Recent {
  readonly #limit: number;
  readonly #seen = new Set<string>();

  /** Remember at most *limit* things. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Remember *key*; false if it was known. */
  add(key: string): boolean {
    if (this.#seen.has(key)) return false;
    this.#seen.add(key);
    if (this.#seen.size > this.#limit) {
      for (const oldest of this.#seen) {
        this.#seen.delete(oldest);
        break;
      }
    }
    return true;
  }
}
