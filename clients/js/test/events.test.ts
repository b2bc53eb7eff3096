import { describe, expect, it, vi } from "vitest";

import { build, contents, enter, server, useServer } from "./harness.ts";
import { Heard, reached } from "./waiting.ts";

useServer();

describe("rooms", () => {
  it("rejects a join that is refused, and stays out", async () => {
    const { client } = await enter("ada", []);
    server.fail("join-room", { kind: "refuse", code: "FORBIDDEN", retryable: false });

    await expect(client.joinRoom("secret")).rejects.toMatchObject({ code: "FORBIDDEN" });
    expect(client.rooms).toEqual([]);
  });

  it("delivers nothing of a room that was left", async () => {
    const { client, heard } = await enter("ada", ["a", "b"]);
    client.leaveRoom("a");
    server.post("a", "bo", 1);
    server.post("b", "bo", 2);

    expect(contents(await heard.atLeast(1))).toEqual([2]);
  });

  it("begins anew in a room that was left and joined again", async () => {
    const { client, heard, gaps } = await enter("ada");
    server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    client.leaveRoom("lobby");
    await vi.waitFor(() => expect(server.operations("leave-room")).toHaveLength(1));
    server.post("lobby", "bo", "while out");
    await client.joinRoom("lobby");
    server.post("lobby", "bo", 2);

    expect(contents(await heard.atLeast(2))).toEqual([1, 2]);
    expect(gaps.values).toEqual([]);
  });

  // An application hears of a join some promises later: the rule must not depend on how many.
  it.each([0, 1, 2, 3, 4])("joins again after a refusal (%i promises later)", async (later) => {
    const { client } = await enter("ada", []);
    server.fail("join-room", { kind: "refuse", code: "FORBIDDEN", retryable: false });

    const refused = passOn(client.joinRoom("lobby"), later).catch(() => client.joinRoom("lobby"));

    expect(await refused).toMatchObject({ roomId: "lobby" });
  });

  it.each([0, 1, 2, 3, 4])("leaves what was just joined (%i promises later)", async (later) => {
    const { client } = await enter("ada", []);

    await passOn(client.joinRoom("lobby"), later).then(() => client.leaveRoom("lobby"));

    await vi.waitFor(() => expect(server.operations("leave-room")).toHaveLength(1));
  });
});

/** Give what *promise* gives, *count* promises later. */
function passOn<T>(promise: Promise<T>, count: number): Promise<T> {
  return count === 0
    ? promise
    : passOn(
        promise.then((value) => value),
        count - 1,
      );
}

describe("events", () => {
  it("come without the cursor that the server puts behind them", async () => {
    const { client } = await enter("ada");
    const calls: unknown[][] = [];
    const done = new Heard<unknown>();
    client.onEvent("moved", (...args: unknown[]) => {
      calls.push(args);
      done.take(args);
    });

    await client.publish("lobby", "moved", { x: 1 });

    await done.atLeast(1);
    expect(calls).toEqual([[{ x: 1 }, undefined]]);
  });

  it.each(["constructor", "toString", "hasOwnProperty", "__proto__"])(
    "may have any name: %s",
    async (name) => {
      const { client } = await enter("ada");
      const heard = new Heard<unknown>();
      client.onEvent(name, heard.take);

      await client.publish("lobby", name, 1);

      expect(await heard.atLeast(1)).toEqual([1]);
    },
  );

  it("come from the history, with what was stored, after a lost session", async () => {
    const { client, heard } = await enter("ada");
    server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    const events = new Heard<unknown[]>();
    client.onEvent("moved", (data, stored) => events.take([data, stored?.id]));
    server.cut({ forget: true });
    await reached(client, "waiting");
    server.postEvent("lobby", "bo", "moved", { x: 2 }, "e1");

    expect(await events.atLeast(1)).toEqual([[{ x: 2 }, "e1"]]);
  });

  it("tells presence of others, and keeps one's own over a lost session", async () => {
    const { client } = await enter("ada", []);
    const seen = new Heard<unknown>();
    client.onUserJoined(seen.take);
    server.io.emit("user-joined", { userId: "bo", roomId: "lobby", status: "away", timestamp: 1 });
    await client.setPresence("away");
    server.cut({ forget: true });

    await vi.waitFor(() => expect(server.operations("presence")).toHaveLength(2));
    expect(server.operations("presence")).toEqual([{ status: "away" }, { status: "away" }]);
    expect(seen.values).toEqual([{ userId: "bo", roomId: "lobby", status: "away", timestamp: 1 }]);
  });

  it("tells a presence that was set while offline as soon as it can", async () => {
    const client = build("ada");
    await client.setPresence("away");
    client.connect();

    await vi.waitFor(() => expect(server.operations("presence")).toEqual([{ status: "away" }]));
  });

  it("is told as it was set last, if an older one is refused for now", async () => {
    const { client } = await enter("ada", [], { retryDelay: 50, randomizationFactor: 0 });
    await client.setPresence("away");
    server.fail("presence", { kind: "refuse", code: "RATE_LIMITED", retryable: true });
    server.cut({ forget: true });
    await vi.waitFor(() => expect(server.operations("presence")).toHaveLength(2), { interval: 1 });
    await client.setPresence("busy");

    await vi.waitFor(() => expect(server.operations("presence")).toHaveLength(4));
    expect(server.operations("presence").at(-1)).toEqual({ status: "busy" });
  });

  it("reports an event that is not what the wire says, and goes on", async () => {
    const { client, heard } = await enter("ada");
    const errors = new Heard<unknown>();
    client.onError(errors.take);
    server.io.emit("message", { roomId: "lobby" });
    server.post("lobby", "bo", 1);

    await heard.atLeast(1);
    expect(errors.values).toMatchObject([{ code: "BAD_ANSWER" }]);
  });
});

describe("direct messages", () => {
  it("reach the recipient and the sender, in one order, without a room", async () => {
    const { client: ada } = await enter("ada", []);
    const { client: bo } = await enter("bo", []);
    const [atAda, atBo] = [new Heard<unknown>(), new Heard<unknown>()];
    ada.onDirectMessage(({ content }) => atAda.take(content));
    bo.onDirectMessage(({ content }) => atBo.take(content));

    await Promise.all([1, 2, 3].map((n) => ada.sendDirect("bo", n)));

    expect(await atAda.atLeast(3)).toEqual([1, 2, 3]);
    expect(await atBo.atLeast(3)).toEqual([1, 2, 3]);
  });

  it("that were missed in a lost session are fetched, each once", async () => {
    const { client } = await enter("ada", []);
    const heard = new Heard<unknown>();
    client.onDirectMessage(({ content }) => heard.take(content));
    server.postDirect("bo", "ada", 1);
    await heard.atLeast(1);
    server.cut({ forget: true });
    await reached(client, "waiting");
    server.postDirect("bo", "ada", 2);
    await reached(client, "connected");
    server.postDirect("bo", "ada", 3);

    expect(await heard.atLeast(3)).toEqual([1, 2, 3]);
    expect((await client.directHistory()).messages.map(({ content }) => content)).toEqual([
      1, 2, 3,
    ]);
  });

  it("that are too old to be sent again are looked up, and given up if they are not there", async () => {
    const { client } = await enter("ada", [], { retryDelay: 60_000, retryDelayMax: 60_000 });
    await client.sendDirect("bo", 0);
    vi.useFakeTimers({ toFake: ["Date"] });
    server.fail("direct-message", { kind: "swallow" });
    server.fail("direct-message", { kind: "refuse", code: "OVERLOADED", retryable: true });
    const outcomes = ["bo", "cy"].map((user) =>
      client.sendDirect(user, 1).catch((error: unknown) => error),
    );
    await vi.waitFor(() => expect(server.operations("direct-message")).toHaveLength(3));
    server.cut({ forget: true });
    await reached(client, "waiting");
    vi.setSystemTime(Date.now() + 600_000);

    expect(await outcomes[0]).toHaveProperty("offset");
    expect(await outcomes[1]).toMatchObject({ code: "OUTCOME_UNKNOWN" });
    expect(server.operations("direct-message")).toHaveLength(3);
  });
});
