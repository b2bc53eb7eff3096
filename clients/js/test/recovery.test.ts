import { describe, expect, it, vi } from "vitest";

import { contents, enter, server, useServer } from "./harness.ts";
import { Heard, reached } from "./waiting.ts";

useServer();

describe("a connection that the server resumes", () => {
  it("brings what was missed, once and in order", async () => {
    const { client, heard } = await enter("ada");
    server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    server.cut();
    await reached(client, "waiting");
    server.post("lobby", "bo", 2);
    server.post("lobby", "bo", 3);

    const state = await reached(client, "connected");
    server.post("lobby", "bo", 4);

    expect(state.recovered).toBe(true);
    expect(contents(await heard.atLeast(4))).toEqual([1, 2, 3, 4]);
    expect(server.operations("join-room")).toHaveLength(1);
  });

  it("brings an event once that came together with the end of the connection", async () => {
    const { client, heard } = await enter("ada");
    const events = new Heard<unknown>();
    client.onEvent("moved", events.take);
    server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    server.postEvent("lobby", "bo", "moved", { x: 1 }, "e1");
    server.closeWith(4002);
    await reached(client, "waiting");
    await reached(client, "connected");
    server.post("lobby", "bo", 2);

    await heard.atLeast(2);
    expect(events.values).toEqual([{ x: 1 }]);
  });

  it("joins what was asked for meanwhile, and leaves what was left", async () => {
    const { client, heard } = await enter("ada", ["lobby", "old"]);
    server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    server.cut();
    await reached(client, "waiting");
    client.leaveRoom("old");
    await client.joinRoom("new");

    await vi.waitFor(() => expect(server.operations("leave-room")).toEqual([{ roomId: "old" }]));
    expect(client.rooms).toEqual(["lobby", "new"]);
  });
});

describe("a connection whose session is lost", () => {
  it("joins the rooms again and delivers what was missed, once and in order", async () => {
    const { client, heard, gaps } = await enter("ada");
    server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    server.cut({ forget: true });
    await reached(client, "waiting");
    for (let n = 2; n <= 250; n += 1) server.post("lobby", "bo", n);

    expect((await reached(client, "connected")).recovered).toBe(false);
    const expected = Array.from({ length: 250 }, (_, index) => index + 1);
    expect(contents(await heard.atLeast(250))).toEqual(expected);
    expect(gaps.values).toEqual([]);
  });

  it("delivers what comes live while the history is fetched behind it", async () => {
    const { client, heard } = await enter("ada");
    server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    server.cut({ forget: true });
    await reached(client, "waiting");
    server.post("lobby", "bo", 2);
    const release = server.holdHistory();
    const probe = client.onTyping(() => release()); // arrives behind the live message
    await vi.waitFor(() => expect(server.operations("join-room")).toHaveLength(2));
    await vi.waitFor(() => expect(server.reads("lobby")).toBe(2));
    server.post("lobby", "bo", 3);
    server.io.emit("typing", { roomId: "lobby", userId: "bo", isTyping: true, timestamp: 0 });

    expect(contents(await heard.atLeast(3))).toEqual([1, 2, 3]);
    probe();
  });

  it("fetches once more when the session is lost again while it does", async () => {
    const { client, heard, gaps } = await enter("ada");
    server.post("lobby", "bo", 0);
    await heard.atLeast(1);
    server.cut({ forget: true });
    await reached(client, "waiting");
    for (let n = 1; n <= 150; n += 1) server.post("lobby", "bo", n);
    const release = server.holdHistory();
    await vi.waitFor(() => expect(server.reads("lobby")).toBe(2));
    server.cut({ forget: true });
    await reached(client, "waiting");
    server.post("lobby", "bo", 151);
    release();

    const expected = Array.from({ length: 152 }, (_, n) => n);
    expect(contents(await heard.atLeast(152))).toEqual(expected);
    expect(gaps.values).toEqual([]);
  });

  it("catches up in a room where nothing was heard before", async () => {
    server.post("lobby", "bo", "old");
    const { client, heard, gaps } = await enter("ada");
    server.cut({ forget: true });
    await reached(client, "waiting");
    server.post("lobby", "bo", "missed");
    await reached(client, "connected");

    expect(contents(await heard.atLeast(1))).toEqual(["missed"]);
    expect(gaps.values).toEqual([]);
  });

  it("tells of a gap when the history no longer reaches back, and goes on behind it", async () => {
    const { client, heard, gaps } = await enter("ada");
    const last = server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    server.cut({ forget: true });
    await reached(client, "waiting");
    server.post("lobby", "bo", 2);
    const next = server.post("lobby", "bo", 3);
    server.log("lobby").splice(0, 2);

    expect(await gaps.atLeast(1)).toEqual([
      { roomId: "lobby", after: last.offset, before: next.offset },
    ]);
    expect(contents(await heard.atLeast(2))).toEqual([1, 3]);
  });

  it("goes on, and tells of a gap, when the server lost its state and counts from 1 again", async () => {
    const { client, heard, gaps } = await enter("ada");
    for (let n = 1; n <= 5; n += 1) server.post("lobby", "bo", n);
    await heard.atLeast(5);
    server.forget();
    await reached(client, "waiting");
    server.post("lobby", "bo", "lost");
    await gaps.atLeast(1);
    await client.history("lobby"); // behind what the client asks for itself
    server.post("lobby", "bo", "new");

    expect(contents(await heard.atLeast(6))).toEqual([1, 2, 3, 4, 5, "new"]);
    expect(gaps.values).toMatchObject([{ roomId: "lobby", after: 50, before: undefined }]);
  });

  it("knows another log by its ids, even where its offsets go on", async () => {
    const { client, heard, gaps } = await enter("ada");
    const last = server.post("lobby", "bo", "old");
    await heard.atLeast(1);
    server.forget();
    await reached(client, "waiting");
    for (const content of ["lost", "new"]) server.post("lobby", "cy", content);

    expect(contents(await heard.atLeast(2))).toEqual(["old", "new"]);
    expect(gaps.values).toMatchObject([{ roomId: "lobby", after: last.offset, before: 20 }]);
  });

  it("skips to the newest page, and tells it, when too much was missed", async () => {
    const { client, heard, gaps } = await enter("ada", ["lobby"], { catchUpLimit: 200 });
    server.post("lobby", "bo", 0);
    await heard.atLeast(1);
    server.cut({ forget: true });
    await reached(client, "waiting");
    for (let n = 1; n <= 1000; n += 1) server.post("lobby", "bo", n);

    await heard.atLeast(400);
    expect(contents(heard.values.slice(298, 302))).toEqual([298, 299, 901, 902]);
    expect(gaps.values).toEqual([
      {
        roomId: "lobby",
        after: heard.values.at(299)?.offset,
        before: heard.values.at(300)?.offset,
      },
    ]);
  });

  it("fetches nothing with catchUp off, and says that there may be a gap", async () => {
    const { heard, gaps } = await enter("ada", ["lobby"], { catchUp: false });
    const { offset } = server.post("lobby", "bo", 1);
    await heard.atLeast(1);
    server.cut({ forget: true });

    expect(await gaps.atLeast(2)).toEqual([
      { roomId: "user:ada", after: undefined, before: undefined },
      { roomId: "lobby", after: offset, before: undefined },
    ]);
    expect(server.operations("history")).toEqual([]);
  });

  it("tells of a room that it may not join any more, and rejects what waits for it", async () => {
    const { client } = await enter("ada");
    const lost = new Heard<{ roomId: string }>();
    client.onRoomLost(lost.take);
    server.fail("join-room", { kind: "refuse", code: "FORBIDDEN", retryable: false });
    server.cut({ forget: true });
    await reached(client, "waiting");
    const sent = client.send("lobby", "late");

    expect(await lost.atLeast(1)).toMatchObject([
      { roomId: "lobby", error: { code: "FORBIDDEN" } },
    ]);
    await expect(sent).rejects.toMatchObject({ code: "NOT_JOINED" });
    expect(client.rooms).toEqual([]);
  });

  it("joins again when the server says that it is not in the room", async () => {
    const { client } = await enter("ada");
    server.fail("message", { kind: "refuse", code: "NOT_JOINED", retryable: false });

    await client.send("lobby", "hello");

    expect(server.operations("join-room")).toHaveLength(2);
    expect(contents(server.log("lobby"))).toEqual(["hello"]);
  });
});
