import { afterEach, describe, expect, it, vi } from "vitest";

import { Roomful, type ConnectionState } from "../src/index.ts";
import { build, enter, server, useServer } from "./harness.ts";
import { makeToken, SmallServer } from "./server.ts";
import { Heard, reached } from "./waiting.ts";

useServer();

/** Every state that *client* passes through. */
function record(client: Roomful): Heard<ConnectionState> {
  const states = new Heard<ConnectionState>();
  client.onConnectionState(states.take);
  return states;
}

const statuses = (states: Heard<ConnectionState>): string[] =>
  states.values.map(({ status }) => status);

describe("the connection", () => {
  it("does nothing before connect(), and says what it does after", async () => {
    const client = build("ada");
    const states = record(client);
    expect(client.state).toEqual({ status: "idle" });

    client.connect();
    client.connect();
    await reached(client, "connected");

    expect(states.values).toEqual([
      { status: "connecting", attempt: 0 },
      { status: "connected", recovered: false },
    ]);
    expect(server.signIns).toHaveLength(1);
  });

  it("signs in with the token and asks for recovery", async () => {
    const { client } = await enter("ada", []);

    expect(server.signIns).toEqual([{ token: makeToken("ada"), recovery: true }]);
    expect(client.userId).toBe("ada");
  });

  it("can be ended and begun again", async () => {
    const { client } = await enter("ada");
    client.disconnect();
    expect(client.state).toEqual({ status: "idle" });
    expect(client.rooms).toEqual(["lobby"]);

    client.connect();
    await reached(client, "connected");

    await vi.waitFor(() => expect(server.operations("join-room")).toHaveLength(2));
  });

  it("waits a growing time between attempts, and gives up after as many as it may make", async () => {
    const { client } = await enter("ada", [], { reconnectionAttempts: 3, randomizationFactor: 0 });
    const states = record(client);
    const since = Date.now();
    await server.stop();

    const { error } = await reached(client, "failed");

    const waits = states.values.filter((state) => state.status === "waiting");
    expect(waits.map(({ attempt }) => attempt)).toEqual([0, 1, 2]);
    expect(Date.now() - since).toBeGreaterThanOrEqual(5 + 10 + 20);
    expect(error).toMatchObject({ code: "GAVE_UP", retryable: true });
  });

  it("can be told to make the next attempt now, as the browser's `online` does", async () => {
    const { client } = await enter("ada", [], {
      reconnectionDelay: 60_000,
      reconnectionDelayMax: 60_000,
    });
    server.cut();
    const { retryAt } = await reached(client, "waiting");
    expect(retryAt - Date.now()).toBeGreaterThan(29_000);

    client.retryNow();

    await reached(client, "connected");
  });

  it("comes back after the time that the server hinted at", async () => {
    const { client } = await enter("ada", [], {
      reconnectionDelay: 60_000,
      reconnectionDelayMax: 60_000,
    });
    server.io.emit("reconnect", { reason: "restart", afterMs: 30 });
    server.io.emit("beat");
    const seen = new Heard();
    client.onEvent("beat", seen.take);
    await seen.atLeast(1);
    const since = Date.now();
    server.closeWith(4002);

    const { retryAt } = await reached(client, "waiting");
    await reached(client, "connected");

    expect(retryAt - since).toBeLessThan(1000);
    expect(Date.now() - since).toBeGreaterThanOrEqual(29);
  });

  it("stays away when the server has disconnected the user", async () => {
    const { client } = await enter("ada", []);
    server.closeWith(4503);

    expect((await reached(client, "failed")).error).toMatchObject({ code: "REFUSED" });
    await expect(client.send("lobby", 1)).rejects.toMatchObject({ code: "REFUSED" });
  });

  it("gives up an attempt that takes too long, and makes another", async () => {
    let calls = 0;
    const client = build("ada", {
      timeout: 200,
      token: () => {
        calls += 1;
        return calls === 1 ? new Promise<string>(() => undefined) : makeToken("ada");
      },
    });
    client.connect();

    await reached(client, "connected");
    expect(calls).toBe(2);
  });

  it("does not sign in twice when a token comes late", async () => {
    const answers: ((token: string) => void)[] = [];
    const client = build("ada", {
      timeout: 200,
      token: () => new Promise<string>((resolve) => answers.push(resolve)),
    });
    client.connect();
    await vi.waitFor(() => expect(answers.length).toBeGreaterThanOrEqual(2), { interval: 1 });
    for (const answer of answers) answer(makeToken("ada"));

    await reached(client, "connected");
    await client.setPresence("online"); // behind whatever the server says to a second CONNECT
    expect(server.signIns).toHaveLength(1);
    expect(client.state.status).toBe("connected");
  });
});

describe("a listener of the connection's state", () => {
  it.each(["connecting", "connected", "waiting"])("may end it while %s", async (wanted) => {
    const { client } = await enter("ada", [], { reconnectionDelay: 1 });
    const states = record(client);
    client.onConnectionState(({ status }) => {
      if (status === wanted) client.disconnect();
    });
    server.cut();
    await reached(client, "idle");
    const count = states.values.length;
    await new Promise((resolve) => setTimeout(resolve, 50));

    expect(states.values.slice(count)).toEqual([]);
    expect(client.state).toEqual({ status: "idle" });
  });

  it.each([4503, 4502])("may begin it again when it has ended with %i", async (code) => {
    const { client } = await enter("ada", []);
    client.onConnectionState(({ status }) => {
      if (status === "failed") client.connect();
    });
    server.closeWith(code);
    await reached(client, "connecting");

    await reached(client, "connected");
    await client.joinRoom("lobby");
    expect(await client.send("lobby", 1)).toMatchObject({ offset: 10 });
  });

  it("may make the next attempt at once, which has its whole time then", async () => {
    const options = { reconnectionDelay: 60_000, reconnectionDelayMax: 60_000, timeout: 1000 };
    const { client } = await enter("ada", [], options);
    client.onConnectionState(({ status }) => {
      if (status === "waiting") client.retryNow();
    });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    server.cut();
    await reached(client, "connecting");
    await reached(client, "connected");

    vi.advanceTimersByTime(2000); // an attempt's deadline that was left would cut it
    expect(client.state.status).toBe("connected");
  });
});

describe("the token", () => {
  it("is fetched again for each connection", async () => {
    let serial = 0;
    const client = build("ada", { token: () => Promise.resolve(makeToken("ada", ++serial)) });
    client.connect();
    await reached(client, "connected");
    server.cut();
    await reached(client, "waiting");
    await reached(client, "connected");

    expect(server.signIns.map(({ token }) => token)).toEqual([
      makeToken("ada", 1),
      makeToken("ada", 2),
    ]);
  });

  it("is asked for again when fetching it failed", async () => {
    let calls = 0;
    const client = build("ada", {
      token: () => {
        calls += 1;
        if (calls < 3) throw new Error("the backend is down");
        return makeToken("ada");
      },
    });
    const states = record(client);
    client.connect();

    await reached(client, "connected");
    expect(states.values.filter((state) => state.status === "waiting")).toMatchObject([
      { reason: "the backend is down" },
      { reason: "the backend is down" },
    ]);
  });

  it("that is refused ends it at once, if it is a plain string", async () => {
    server.accepted = new Set();
    const client = build("ada");
    client.connect();

    expect((await reached(client, "failed")).error).toMatchObject({ code: "UNAUTHORIZED" });
    expect(server.signIns).toHaveLength(1);
  });

  it("that is refused is fetched anew, up to three times", async () => {
    server.accepted = new Set();
    const client = build("ada", { token: () => makeToken("ada") });
    const states = record(client);
    client.connect();

    await reached(client, "failed");
    expect(server.signIns).toHaveLength(3);
    expect(statuses(states).filter((status) => status === "connecting")).toHaveLength(3);
  });

  it("is swapped for a fresh one when it is about to expire, without a new connection", async () => {
    let serial = 0;
    const client = build("ada", { token: () => makeToken("ada", ++serial) });
    client.connect();
    await reached(client, "connected");
    server.fail("auth", { kind: "refuse", code: "AUTH_UNAVAILABLE", retryable: true });
    server.io.emit("token-expiring", { expiresAt: Date.now() + 60_000 });

    await vi.waitFor(() => expect(server.operations("auth")).toHaveLength(2));
    expect(server.operations("auth")[1]).toEqual({ token: makeToken("ada", 3) });
    expect(server.signIns).toHaveLength(1);
  });

  it("is asked for anew on a later connection when the function did not come back", async () => {
    let calls = 0;
    const client = build("ada", {
      token: () => {
        calls += 1;
        return calls === 2 ? new Promise<string>(() => undefined) : makeToken("ada", calls);
      },
    });
    client.connect();
    await reached(client, "connected");
    server.io.emit("token-expiring", { expiresAt: Date.now() + 60_000 });
    await vi.waitFor(() => expect(calls).toBe(2));
    server.closeWith(4502);
    await reached(client, "waiting");
    await reached(client, "connected");
    server.io.emit("token-expiring", { expiresAt: Date.now() + 60_000 });

    await vi.waitFor(() =>
      expect(server.operations("auth")).toEqual([{ token: makeToken("ada", 4) }]),
    );
  });

  it("that has expired needs a fresh one to come back", async () => {
    const { client } = await enter("ada", []);
    server.closeWith(4502);

    expect((await reached(client, "failed")).error).toMatchObject({ code: "TOKEN_EXPIRED" });
  });
});

describe("a server without recovery", () => {
  let plain: SmallServer | undefined;

  afterEach(async () => {
    await plain?.stop();
  });

  it("is caught up with by its history", async () => {
    plain = await SmallServer.start({ recovery: false });
    const client = new Roomful(plain.url, { token: makeToken("ada"), reconnectionDelay: 5 });
    const heard = new Heard<unknown>();
    client.onMessage(({ content }) => heard.take(content));
    client.connect();
    await client.joinRoom("lobby");
    await client.send("lobby", 1);
    plain.cut();
    await reached(client, "waiting");
    plain.post("lobby", "bo", 2);

    expect(await heard.atLeast(2)).toEqual([1, 2]);
    client.disconnect();
  });
});
