/** A client against the small server: what the tests of its behaviour share. */

import { afterEach, beforeEach, vi } from "vitest";

import { Roomful, type Gap, type Message, type RoomfulOptions } from "../src/index.ts";
import { makeToken, SmallServer } from "./server.ts";
import { Heard, reached } from "./waiting.ts";

const QUICK: Omit<RoomfulOptions, "token"> = {
  reconnectionDelay: 5,
  reconnectionDelayMax: 20,
  retryDelay: 2,
  retryDelayMax: 10,
  ackTimeout: 2000,
};

/** The server of the present test. */
export let server: SmallServer;
let clients: Roomful[] = [];

/** Give each test of the file its own server. */
export function useServer(): void {
  beforeEach(async () => {
    server = await SmallServer.start();
  });

  afterEach(async () => {
    vi.useRealTimers();
    for (const client of clients) client.disconnect();
    clients = [];
    await server.stop();
  });
}

/** A client that retries quickly, not connected yet. */
export function build(user: string, options: Partial<RoomfulOptions> = {}): Roomful {
  const client = new Roomful(server.url, { token: makeToken(user), ...QUICK, ...options });
  clients.push(client);
  return client;
}

/** A connected client in *rooms*, and what it hears. */
export async function enter(
  user: string,
  rooms: string[] = ["lobby"],
  options: Partial<RoomfulOptions> = {},
): Promise<{ client: Roomful; heard: Heard<Message>; gaps: Heard<Gap> }> {
  const client = build(user, options);
  const heard = new Heard<Message>();
  const gaps = new Heard<Gap>();
  client.onMessage(heard.take);
  client.onGap(gaps.take);
  client.connect();
  await reached(client, "connected");
  await Promise.all(rooms.map((room) => client.joinRoom(room)));
  return { client, heard, gaps };
}

/** The contents of messages. */
export function contents(messages: readonly { content?: unknown }[]): unknown[] {
  return messages.map((message) => message.content);
}
