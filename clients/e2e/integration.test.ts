import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";

import { Roomful, type Gap, type Message, type RoomfulOptions } from "@roomful/client";

import { Heard, reached } from "../js/test/waiting.ts";
import { Proxy, RoomfulServer } from "./server.ts";

let server: RoomfulServer;
let proxy: Proxy;
let clients: Roomful[] = [];
let serial = 0;
/** A room of the present test alone. */
let room: string;

beforeAll(async () => {
  server = await RoomfulServer.start();
});

afterAll(async () => {
  await server.stop();
});

beforeEach(async () => {
  proxy = await Proxy.before(server.port);
  room = `room-${++serial}`;
});

afterEach(async () => {
  for (const client of clients) client.disconnect();
  clients = [];
  await proxy.close();
});

/** A connected client of *user*, behind the proxy unless *url* says otherwise. */
async function connect(
  user: string,
  { url = proxy.url, ...options }: Partial<RoomfulOptions> & { url?: string } = {},
): Promise<{ client: Roomful; heard: Heard<Message>; gaps: Heard<Gap> }> {
  const client = new Roomful(url, {
    token: await server.token(user),
    reconnectionDelay: 20,
    reconnectionDelayMax: 200,
    ...options,
  });
  clients.push(client);
  const [heard, gaps] = [new Heard<Message>(), new Heard<Gap>()];
  client.onMessage(heard.take);
  client.onGap(gaps.take);
  client.connect();
  await reached(client, "connected");
  return { client, heard, gaps };
}

const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n);
const contents = (messages: readonly { content?: unknown }[]): unknown[] =>
  messages.map(({ content }) => content);

/** The whole log of *name*, read through *client*. */
async function readLog(client: Roomful, name: string): Promise<unknown[]> {
  const log: unknown[] = [];
  for (let after: number | null = 0; after !== null;) {
    const page: Awaited<ReturnType<Roomful["history"]>> = await client.history(name, {
      after,
      limit: 100,
    });
    log.push(...contents(page.messages as Message[]));
    after = page.next;
  }
  return log;
}

describe("@roomful/client against the server", () => {
  it("gets an acknowledgement that says where the message is, and hears it itself", async () => {
    const { client, heard } = await connect("ada");
    const { members, count } = await client.joinRoom(room);
    expect([members, count]).toEqual([[{ userId: "ada", status: "online" }], 1]);

    const receipt = await client.send(room, { text: "hello" });

    const [message] = await heard.atLeast(1);
    expect(message).toEqual({
      ...receipt,
      roomId: room,
      userId: "ada",
      content: { text: "hello" },
    });
  });

  it("hears others: typing, presence, who joins and who leaves", async () => {
    const { client: ada } = await connect("ada");
    const { client: bo } = await connect("bo");
    const seen = new Heard<unknown>();
    ada.onUserJoined(({ userId }) => seen.take(["joined", userId]));
    ada.onTyping(({ userId, isTyping }) => seen.take(["typing", userId, isTyping]));
    ada.onPresence(({ userId, status }) => seen.take(["presence", userId, status]));
    ada.onUserLeft(({ userId }) => seen.take(["left", userId]));
    await ada.joinRoom(room);
    await bo.joinRoom(room);
    await seen.atLeast(1);
    bo.typing(room);
    await seen.atLeast(2);
    await bo.setPresence("away");
    await seen.atLeast(3);
    bo.leaveRoom(room);

    expect(await seen.atLeast(4)).toEqual([
      ["joined", "bo"],
      ["typing", "bo", true],
      ["presence", "bo", "away"],
      ["left", "bo"],
    ]);
  });

  it("publishes events of an app's own, which come without a cursor", async () => {
    const { client } = await connect("ada");
    await client.joinRoom(room);
    const calls = new Heard<unknown[]>();
    client.onEvent("moved", (...args: unknown[]) => calls.take(args));

    await client.publish(room, "moved", "e4");
    await client.publish(room, "moved", { square: "e5" });

    expect(await calls.atLeast(2)).toEqual([
      ["e4", undefined],
      [{ square: "e5" }, undefined],
    ]);
    expect((await client.history(room)).messages).toMatchObject([
      { event: "moved", data: "e4" },
      { event: "moved", data: { square: "e5" } },
    ]);
  });

  it("sends binary content, which is the same live and from the history", async () => {
    const { client, heard } = await connect("ada");
    await client.joinRoom(room);
    const content = { name: "a.bin", parts: [new Uint8Array([1, 2, 255]), new Uint8Array(0)] };
    await client.send(room, content);

    const expected = { name: "a.bin", parts: [Buffer.from([1, 2, 255]), Buffer.of()] };
    expect((await heard.atLeast(1))[0]?.content).toEqual(expected);
    expect((await client.history(room)).messages).toMatchObject([{ content: expected }]);
  });

  it("sends direct messages that both sides hear, once", async () => {
    const [{ client: ada }, { client: bo }] = [await connect("dora"), await connect("dan")];
    const [atAda, atBo] = [new Heard<unknown>(), new Heard<unknown>()];
    ada.onDirectMessage(({ content }) => atAda.take(content));
    bo.onDirectMessage(({ content }) => atBo.take(content));

    await Promise.all(numbers(20).map((n) => ada.sendDirect("dan", n)));

    expect(await atAda.atLeast(20)).toEqual(numbers(20));
    expect(await atBo.atLeast(20)).toEqual(numbers(20));
    expect(contents((await bo.directHistory()).messages)).toEqual(numbers(20));
  });

  it("stores a retry with the same id once, and gives the first receipt", async () => {
    const { client, heard } = await connect("ada");
    await client.joinRoom(room);

    const first = await client.send(room, "once", { id: "the-id" });
    const second = await client.send(room, "once", { id: "the-id" });
    await client.send(room, "next");

    expect(second).toEqual(first);
    expect(contents(await heard.atLeast(2))).toEqual(["once", "next"]);
    expect(await readLog(client, room)).toEqual(["once", "next"]);
  });

  it("is refused what the token or the wire does not allow", async () => {
    const { client } = await connect("ada");

    await expect(client.send(room, "not in it")).rejects.toMatchObject({ code: "NOT_JOINED" });
    await expect(client.joinRoom("user:bo")).rejects.toMatchObject({ code: "RESERVED_ROOM" });
    await client.joinRoom(room);
    await expect(client.publish(room, "message", 1)).rejects.toMatchObject({
      code: "RESERVED_EVENT",
    });
    await expect(client.send(room, "x".repeat(1_100_000))).rejects.toMatchObject({
      code: "QUEUE_FULL",
    });
    await expect(client.send(room, "x".repeat(1_000_000))).rejects.toMatchObject({
      code: "PAYLOAD_TOO_LARGE",
    });
    expect(client.state.status).toBe("connected");
  });

  it("ends with UNAUTHORIZED for a token that is not good", async () => {
    const client = new Roomful(server.url, { token: "not-a-token" });
    clients.push(client);
    client.connect();

    expect((await reached(client, "failed")).error).toMatchObject({ code: "UNAUTHORIZED" });
  });

  it("works over polling alone", async () => {
    const { client, heard } = await connect("ada", { transports: ["polling"] });
    await client.joinRoom(room);
    await Promise.all(numbers(10).map((n) => client.send(room, n)));

    expect(contents(await heard.atLeast(10))).toEqual(numbers(10));
  });

  it("keeps what is sent offline and delivers it in order when the network is back", async () => {
    const { client } = await connect("ada");
    const { client: reader, heard } = await connect("bo", { url: server.url });
    await Promise.all([client.joinRoom(room), reader.joinRoom(room)]);
    proxy.down();
    await reached(client, "waiting");
    const sent = numbers(50).map((n) => client.send(room, n));
    expect(client.pending).toBe(50);
    proxy.up();
    await Promise.all(sent);

    expect(contents(await heard.atLeast(50))).toEqual(numbers(50));
    expect(await readLog(reader, room)).toEqual(numbers(50));
  });

  it("resumes again and again while TCP is cut under load: all once and in order", async () => {
    const { client: sender } = await connect("ada");
    const { client: reader, gaps } = await connect("bo");
    const rooms = ["a", "b", "c", "d"].map((name) => `${room}-${name}`);
    const heard = new Map(rooms.map((name) => [name, new Heard<unknown>()]));
    reader.onMessage(({ roomId, content }) => heard.get(roomId)?.take(content));
    await Promise.all([sender, reader].flatMap((client) => rooms.map((r) => client.joinRoom(r))));
    const resumed: boolean[] = [];
    for (const client of [sender, reader]) {
      client.onConnectionState((state) => {
        if (state.status === "connected") resumed.push(state.recovered);
      });
    }
    let settled = 0;
    const send = async (name: string, n: number): Promise<void> => {
      await sender.send(name, n);
      settled += 1;
      if (settled % 100 === 50) proxy.cut();
    };
    await Promise.all(numbers(200).flatMap((n) => rooms.map((name) => send(name, n))));

    for (const name of rooms) {
      expect(await heard.get(name)?.atLeast(200)).toEqual(numbers(200));
      expect(await readLog(reader, name)).toEqual(numbers(200));
    }
    expect(gaps.values).toEqual([]);
    expect(resumed.length).toBeGreaterThanOrEqual(8);
    expect(resumed.every(Boolean)).toBe(true);
  });
});

describe("a server that forgets sessions", () => {
  it("is caught up with from its history, once and in order", async () => {
    const forgetful = await RoomfulServer.start({ RECOVERY: "false" });
    const cuttable = await Proxy.before(forgetful.port);
    try {
      const token = async (user: string): Promise<string> => forgetful.token(user);
      const [reader, writer] = [cuttable.url, forgetful.url].map((url, index) => {
        const client = new Roomful(url, {
          token: () => token(index === 0 ? "ada" : "bo"),
          reconnectionDelay: 20,
        });
        clients.push(client);
        client.connect();
        return client;
      }) as [Roomful, Roomful];
      const heard = new Heard<Message>();
      const direct = new Heard<unknown>();
      const gaps = new Heard<Gap>();
      reader.onMessage(heard.take);
      reader.onDirectMessage(({ content }) => direct.take(content));
      reader.onGap(gaps.take);
      await Promise.all([reader.joinRoom(room), writer.joinRoom(room)]);
      await writer.send(room, 0);
      await heard.atLeast(1);
      await vi.waitFor(async () => expect((await reader.directHistory()).next).toBeNull());
      cuttable.down();
      await reached(reader, "waiting");
      for (const n of numbers(149)) await writer.send(room, n + 1);
      await writer.sendDirect("ada", "psst");
      cuttable.up();

      expect(contents(await heard.atLeast(150))).toEqual(numbers(150));
      expect(await direct.atLeast(1)).toEqual(["psst"]);
      expect(reader.state).toMatchObject({ status: "connected", recovered: false });
      expect(gaps.values).toEqual([]);
    } finally {
      for (const client of clients) client.disconnect();
      await cuttable.close();
      await forgetful.stop();
    }
  });
});

describe("a server that is killed and keeps nothing", () => {
  it("is gone on with: the queue is sent, new messages come, and the gap is told", async () => {
    const first = await RoomfulServer.start();
    const servers = [first];
    try {
      const { client, heard, gaps } = await connect("ada", {
        url: first.url,
        token: () => servers.at(-1)?.token("ada") ?? "",
      });
      await client.joinRoom(room);
      for (const n of numbers(5)) await client.send(room, n);
      await heard.atLeast(5);
      await first.kill();
      const sent = client.send(room, "sent while it was down");
      servers.push(await RoomfulServer.start({}, { port: first.port }));
      await sent;
      await client.send(room, "and after");

      expect(contents(await heard.atLeast(7))).toEqual([
        ...numbers(5),
        "sent while it was down",
        "and after",
      ]);
      expect(gaps.values.map(({ roomId }) => roomId)).toContain(room);
    } finally {
      for (const client of clients) client.disconnect();
      for (const started of servers) await started.stop();
    }
  });
});
