/** The token: where it comes from, and whose it is. */

import { asRoomfulError } from "./errors.ts";
import { isFields } from "./fields.ts";
import type { TokenSource } from "./options.ts";

export class Credentials {
  readonly #source: TokenSource | undefined;
  #userId: string | undefined;

  constructor(source: TokenSource | undefined) {
    this.#source = source;
    if (typeof source === "string") this.#userId = readSubject(source);
  }

  /** Whether a new token can be had after the present one has expired. */
  get canRenew(): boolean {
    return typeof this.#source === "function";
  }

  /** The user of the newest token (its `sub` claim); undefined before the first one, or if it has none. */
  get userId(): string | undefined {
    return this.#userId;
  }

  /** Get a token, if there is to be one. Throws TOKEN_UNAVAILABLE (retryable) if the application's function fails. */
  async fetch(): Promise<string | undefined> {
    if (typeof this.#source !== "function") return this.#source;
    try {
      const token = await this.#source();
      this.#userId = readSubject(token);
      return token;
    } catch (fault) {
      throw asRoomfulError(fault, "TOKEN_UNAVAILABLE", { retryable: true });
    }
  }
}

/** Read the user's id out of a JWT; nothing is verified, that is the server's work. */
export function readSubject(token: string): string | undefined {
  try {
    const payload = token.split(".")[1] ?? "";
    const binary = atob(payload.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return isFields(claims) && typeof claims.sub === "string" ? claims.sub : undefined;
  } catch {
    return undefined; // not a JWT: the server will say so
  }
}
