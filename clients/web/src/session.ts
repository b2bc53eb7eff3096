/** Signing in: with a name where the server runs under --dev, else with a token. */

import { Roomful, type TokenSource } from "@roomful/client";

import { Chat } from "./chat/chat.ts";
import { Memory } from "./chat/memory.ts";

/** This server gives tokens to nobody: it does not run under --dev. */
export class DevSignInOff extends Error {}

export interface DevToken {
  readonly token: string;
  readonly userId: string;
}

/** Someone who is signed in. */
export interface Session {
  readonly me: string;
  readonly client: Roomful;
  readonly chat: Chat;
}

/** Rooms to be in when nothing is remembered. */
const FIRST_ROOMS = ["lobby"];

/** Of this tab alone, so that two tabs can be two users. */
export const tabMemory = new Memory(() => sessionStorage, "roomful:");

/** Get a token for *user*. Throws DevSignInOff where that is not possible. */
export async function fetchDevToken(user: string): Promise<DevToken> {
  const response = await fetch("/api/dev/token", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ user }),
  });
  if (response.status === 404) throw new DevSignInOff();
  const answer = (await response.json()) as Partial<DevToken> & { error?: { message?: string } };
  if (answer.token === undefined || answer.userId === undefined) {
    throw new Error(answer.error?.message ?? `The server answered with ${response.status}.`);
  }
  return { token: answer.token, userId: answer.userId };
}

/** Sign in with a name; a fresh token is fetched for each connection. */
export async function signInByName(name: string): Promise<Session> {
  const first = await fetchDevToken(name);
  let unused: string | undefined = first.token;
  const token = async (): Promise<string> => {
    const ready = unused ?? (await fetchDevToken(name)).token;
    unused = undefined;
    return ready;
  };
  tabMemory.write("user", name);
  return open(first.userId, token);
}

/** Sign in with a token from elsewhere. Throws if it names no user. */
export function signInByToken(token: string): Session {
  const { userId } = new Roomful(location.origin, { token });
  if (userId === undefined) throw new Error("This is not a token: a JWT with a “sub” claim.");
  return open(userId, token);
}

/** The name that was signed in with in this tab; undefined if there is none. */
export function rememberedName(): string | undefined {
  const name = tabMemory.read("user");
  return typeof name === "string" ? name : undefined;
}

export function signOut({ chat }: Session): void {
  tabMemory.forget("user");
  chat.stop();
}

/** Be in the rooms of the last time, and in the one that the address names. */
export function start({ chat, me }: Session): void {
  const memory = memoryOf(me);
  const named = roomInAddress();
  const remembered = memory.read("rooms") === null ? FIRST_ROOMS : memory.readTexts("rooms");
  chat.start(named === undefined ? remembered : [...new Set([...remembered, named])], named);
}

function open(me: string, token: TokenSource): Session {
  const client = new Roomful(location.origin, { token });
  return { me, client, chat: new Chat(client, me, memoryOf(me)) };
}

function memoryOf(user: string): Memory {
  return new Memory(() => localStorage, `roomful:${user}:`);
}

/** The room in an address like /#room/lobby. */
function roomInAddress(): string | undefined {
  const match = /^#room\/(.+)$/.exec(location.hash);
  if (match?.[1] === undefined) return undefined;
  try {
    return decodeURIComponent(match[1]);
  } catch {
    return undefined;
  }
}
