import { describe, expect, it, vi } from "vitest";

import type { Roomful } from "../src/index.ts";
import { build, contents, enter, server, useServer } from "./harness.ts";
import { reached } from "./waiting.ts";

useServer();

describe("sending", () => {
  it("resolves with the receipt of the stored message, which the sender hears too", async () => {
    const { client, heard } = await enter("ada");

    const receipt = await client.send("lobby", "hello");

    const [message] = await heard.atLeast(1);
    expect(message).toMatchObject({ ...receipt, userId: "ada", content: "hello" });
  });

  it("keeps what is sent before the connection and sends it in order", async () => {
    const client = build("ada");
    const joined = client.joinRoom("lobby");
    const sent = [1, 2, 3].map((n) => client.send("lobby", n));
    expect(client.pending).toBe(3);

    client.connect();
    await Promise.all([joined, ...sent]);

    expect(contents(server.log("lobby"))).toEqual([1, 2, 3]);
    expect(client.pending).toBe(0);
  });

  it("sends again, with the same id, what was not acknowledged when the connection was cut", async () => {
    const { client, heard } = await enter("ada");
    server.fail("message", { kind: "cut" });

    const [receipt] = await Promise.all([1, 2, 3].map((n) => client.send("lobby", n)));

    const attempts = server.operations("message").filter(({ content }) => content === 1);
    expect(attempts.length).toBeGreaterThan(0);
    expect(new Set(attempts.map(({ id }) => id))).toEqual(new Set([receipt?.id]));
    expect(contents(server.log("lobby"))).toEqual([1, 2, 3]);
    expect(contents(await heard.atLeast(3))).toEqual([1, 2, 3]);
  });

  it("sends again what is not answered in time, on the same connection", async () => {
    const { client } = await enter("ada", [], { ackTimeout: 40 });
    server.fail("direct-message", { kind: "ignore" });
    const beat = setInterval(() => server.io.emit("beat"), 5); // not silent: only one is lost

    await client.sendDirect("bo", "psst").finally(() => clearInterval(beat));

    const ids = server.operations("direct-message").map(({ id }) => id);
    expect(ids).toHaveLength(2);
    expect(new Set(ids).size).toBe(1);
    expect(server.signIns).toHaveLength(1);
  });

  it("gives up a connection from which nothing comes any more, and sends again on the next", async () => {
    const { client } = await enter("ada", [], { ackTimeout: 40 });
    await client.directHistory(); // nothing else is on its way any more
    server.fail("direct-message", { kind: "ignore" });

    await client.sendDirect("bo", "psst");

    expect(server.operations("direct-message")).toHaveLength(2);
    expect(server.signIns).toHaveLength(2);
  });

  it("takes its own message for the acknowledgement when that is lost", async () => {
    const { client } = await enter("ada");
    server.fail("message", { kind: "swallow" });

    const receipt = await client.send("lobby", "hello");

    expect(receipt).toMatchObject({ offset: server.log("lobby")[0]?.offset });
    expect(server.operations("message")).toHaveLength(1);
  });

  it("lets no later message of the room overtake one that is refused for now", async () => {
    const { client } = await enter("ada");
    for (let n = 0; n < 3; n += 1) {
      server.fail("message", { kind: "refuse", code: "OVERLOADED", retryable: true });
    }

    await Promise.all([1, 2, 3].map((n) => client.send("lobby", n)));

    expect(contents(server.operations("message"))).toEqual([1, 1, 1, 1, 2, 3]);
    expect(contents(server.log("lobby"))).toEqual([1, 2, 3]);
  });

  it("does not hold up other rooms for it", async () => {
    const { client } = await enter("ada", ["slow", "quick"], {
      retryDelay: 60_000,
      retryDelayMax: 60_000,
    });
    server.fail("message", { kind: "refuse", code: "RATE_LIMITED", retryable: true });
    const held = client.send("slow", 1).catch((error: unknown) => error);
    await vi.waitFor(() => expect(server.operations("message")).toHaveLength(1));

    await client.send("quick", 2);

    expect(server.log("slow")).toEqual([]);
    client.disconnect();
    expect(await held).toMatchObject({ code: "DISCONNECTED" });
  });

  it("rejects what is refused for good, and goes on with the next", async () => {
    const { client } = await enter("ada");
    server.fail("message", { kind: "refuse", code: "FORBIDDEN", retryable: false });

    const [first, second] = await Promise.allSettled([1, 2].map((n) => client.send("lobby", n)));

    expect(first).toMatchObject({ status: "rejected", reason: { code: "FORBIDDEN" } });
    expect(second).toMatchObject({ status: "fulfilled" });
    expect(contents(server.log("lobby"))).toEqual([2]);
  });

  it("rejects a message to a room that was not joined", async () => {
    const { client } = await enter("ada");

    await expect(client.send("elsewhere", 1)).rejects.toMatchObject({ code: "NOT_JOINED" });
  });

  it("rejects at once, with a code, what the queue has no place for", async () => {
    const client = build("ada", { queueMaxMessages: 2, queueMaxBytes: 400 });
    const first = client.send("lobby", "x").catch(() => undefined);

    await expect(client.send("lobby", "y".repeat(400))).rejects.toMatchObject({
      code: "QUEUE_FULL",
      retryable: false,
    });
    const second = client.send("lobby", "z").catch(() => undefined);
    await expect(client.send("lobby", "z")).rejects.toMatchObject({ code: "QUEUE_FULL" });
    client.connect();
    client.disconnect();
    await Promise.all([first, second]);
  });

  it("rejects what is larger than the server takes, and keeps the connection", async () => {
    const { client } = await enter("ada");

    await expect(client.send("lobby", "x".repeat(100_000))).rejects.toMatchObject({
      code: "PAYLOAD_TOO_LARGE",
    });
    await client.send("lobby", "small");
    expect(server.signIns).toHaveLength(1);
  });

  it("rejects what the server closes the connection on, and not what was under way beside it", async () => {
    server.io.on("connection", (socket) => {
      socket.on("publish", ({ data }: { data: unknown }) => {
        if (data === "too much") server.closeWith(1009);
      });
    });
    const { client } = await enter("ada", []);
    const sent = [client.publish("a", "e", "too much")];
    for (const room of ["b", "c"]) sent.push(client.publish(room, "e", 1));

    expect(await Promise.allSettled(sent)).toMatchObject([
      { reason: { code: "PAYLOAD_TOO_LARGE" } },
      { status: "fulfilled" },
      { status: "fulfilled" },
    ]);
  });

  it("rejects what waits when the client is disconnected", async () => {
    const client = build("ada");
    const sent = client.send("lobby", 1);
    client.connect();
    client.disconnect();

    await expect(sent).rejects.toMatchObject({ code: "DISCONNECTED", retryable: true });
    expect(client.pending).toBe(0);
  });

  it("rejects what waits when the client is disconnected before it was connected", async () => {
    const client = build("ada");
    const outcomes = Promise.allSettled([client.send("lobby", 1), client.joinRoom("lobby")]);
    client.disconnect();

    expect(await outcomes).toMatchObject([
      { reason: { code: "DISCONNECTED" } },
      { reason: { code: "DISCONNECTED" } },
    ]);
    expect(client.state).toEqual({ status: "idle" });
    expect(client.rooms).toEqual([]);
  });

  it("settles what waits for a room that is left before it was joined", async () => {
    const { client } = await enter("ada", [], { retryDelay: 60_000, retryDelayMax: 60_000 });
    server.fail("join-room", { kind: "refuse", code: "OVERLOADED", retryable: true });
    client.joinRoom("lobby").catch(() => undefined);
    const sent = client.send("lobby", 1);
    sent.catch(() => undefined);
    await vi.waitFor(() => expect(server.operations("join-room")).toHaveLength(1));
    await client.setPresence("online"); // behind the refusal

    client.leaveRoom("lobby");

    await expect(sent).rejects.toMatchObject({ code: "NOT_JOINED" });
  });

  it("sends binary content as it is", async () => {
    const { client, heard } = await enter("ada");

    await client.send("lobby", { file: new Uint8Array([1, 2, 3]) });

    const [message] = await heard.atLeast(1);
    expect(message?.content).toEqual({ file: Buffer.from([1, 2, 3]) });
  });
});

describe("a message that was sent long ago and never acknowledged", () => {
  const SLOW_RETRY = { retryDelay: 60_000, retryDelayMax: 60_000 };

  /**
   * Send "late", lose the connection and the session before it is acknowledged, and come back
   * after 10 minutes: longer than the server knows ids for sure.
   */
  async function returnLate(
    client: Roomful,
    { stored, whileAway }: { stored: boolean; whileAway?: () => void },
  ): Promise<unknown> {
    vi.useFakeTimers({ toFake: ["Date"] });
    server.fail(
      "message",
      stored ? { kind: "swallow" } : { kind: "refuse", code: "OVERLOADED", retryable: true },
    );
    const heardBefore = server.operations("message").length;
    const outcome = client.send("lobby", "late").catch((error: unknown) => error);
    await vi.waitFor(() => {
      expect(server.operations("message")).toHaveLength(heardBefore + 1);
    });
    server.cut({ forget: true });
    await reached(client, "waiting");
    whileAway?.();
    vi.setSystemTime(Date.now() + 600_000);
    return outcome;
  }

  it("is looked up in the history and not sent again if it is there", async () => {
    // Not in the room, so that it does not hear the message itself.
    const { client } = await enter("ada", ["lobby"], SLOW_RETRY);
    await client.send("lobby", "before");

    const receipt = await returnLate(client, { stored: true });

    expect(receipt).toMatchObject({ offset: server.log("lobby")[1]?.offset });
    expect(contents(server.operations("message"))).toEqual(["before", "late"]);
  });

  it("is sent again if the history shows that it was not stored", async () => {
    const { client } = await enter("ada", ["lobby"], SLOW_RETRY);
    await client.send("lobby", "before");

    const receipt = await returnLate(client, { stored: false });

    expect(receipt).toHaveProperty("offset");
    expect(contents(server.log("lobby"))).toEqual(["before", "late"]);
  });

  it("is rejected, not doubled, if the history cannot tell", async () => {
    const { client } = await enter("ada", ["lobby"], SLOW_RETRY);
    await client.send("lobby", "before");

    const outcome = await returnLate(client, {
      stored: false,
      whileAway: () => server.logs.clear(),
    });

    expect(outcome).toMatchObject({ code: "OUTCOME_UNKNOWN", retryable: false });
    expect(server.log("lobby")).toEqual([]);
  });
});
