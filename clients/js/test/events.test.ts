import { describe, expect, it, vi } from "vitest";

import type { Message } from "../src/index.ts";
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
});

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

  it("delivers a direct message once, however often it comes", async () => {
    const { client } = await enter("ada", []);
    const direct = new Heard<unknown>();
    client.onDirectMessage(direct.take);
    const message = { id: "1", userId: "bo", to: "ada", content: "hi", timestamp: 1, offset: 1 };
    server.io.emit("direct-message", message);
    server.io.emit("direct-message", message);
    server.io.emit("direct-message", { ...message, id: "2" });

    expect((await direct.atLeast(2)).map((value) => (value as Message).id)).toEqual(["1", "2"]);
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
