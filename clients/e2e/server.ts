/** A real `roomful serve --dev` on a free port, and a TCP proxy in front of it that can be cut. */

import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import {
  createServer,
  connect as dial,
  type AddressInfo,
  type Server,
  type Socket,
} from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** The command under test; another installation can be named. */
const PROGRAM = process.env.ROOMFUL_PROGRAM ?? path.join(ROOT, ".venv/bin/roomful");
const START_MS = 30_000;
const STOP_MS = 10_000;
const POLL_MS = 50;

/** Ask the system for a port that is free now. */
async function claimPort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

export class RoomfulServer {
  readonly port: number;
  readonly #process: ChildProcess;
  readonly #directory: string;
  #log = "";

  private constructor(process: ChildProcess, port: number, directory: string) {
    this.#process = process;
    this.port = port;
    this.#directory = directory;
    const keep = (chunk: Buffer): void => {
      this.#log = (this.#log + chunk.toString()).slice(-10_000);
    };
    process.stdout?.on("data", keep);
    process.stderr?.on("data", keep);
  }

  /**
   * Start a server and wait until it is ready.
   *
   * *settings* are ROOMFUL_* without the prefix; without *dev* nobody signs in with a name alone.
   */
  static async start(
    settings: Readonly<Record<string, string>> = {},
    { dev = true, port: wanted }: { dev?: boolean; port?: number } = {},
  ): Promise<RoomfulServer> {
    const port = wanted ?? (await claimPort());
    const directory = await mkdtemp(path.join(tmpdir(), "roomful-e2e-"));
    const environment: NodeJS.ProcessEnv = { PATH: process.env.PATH, HOME: directory };
    for (const [name, value] of Object.entries(settings)) environment[`ROOMFUL_${name}`] = value;
    const child = spawn(
      PROGRAM,
      [
        "serve",
        ...(dev ? ["--dev"] : ["--host", "127.0.0.1"]),
        "--port",
        String(port),
        "--state-dir",
        path.join(directory, "state"),
      ],
      {
        cwd: directory,
        env: environment,
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    const server = new RoomfulServer(child, port, directory);
    try {
      await server.#untilReady();
    } catch (fault) {
      await server.stop();
      throw fault;
    }
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** The newest part of what the process wrote. */
  get log(): string {
    return this.#log;
  }

  /** A token for *user*, as the demo page gets it. */
  async token(user: string): Promise<string> {
    const response = await fetch(`${this.url}/api/dev/token`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user }),
    });
    if (!response.ok) throw new Error(`no token: ${response.status} ${await response.text()}`);
    return ((await response.json()) as { token: string }).token;
  }

  /** Stop the process, by force if it does not go. */
  async stop(): Promise<void> {
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      const gone = new Promise((resolve) => this.#process.once("exit", resolve));
      this.#process.kill("SIGTERM");
      const force = setTimeout(() => this.#process.kill("SIGKILL"), STOP_MS);
      await gone;
      clearTimeout(force);
    }
    await rm(this.#directory, { recursive: true, force: true });
  }

  /** Kill the process (SIGKILL): it writes nothing down any more. */
  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.stop();
  }

  async #untilReady(): Promise<void> {
    const end = Date.now() + START_MS;
    for (;;) {
      if (this.#process.exitCode !== null) throw new Error(`roomful serve ended:\n${this.#log}`);
      const response = await fetch(`${this.url}/readyz`).catch(() => undefined);
      if (response?.ok === true) return;
      if (Date.now() > end) throw new Error(`not ready in ${START_MS} ms:\n${this.#log}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}

/** Forwards connections to a port; it can cut them all, and refuse new ones for a while. */
export class Proxy {
  readonly #listener: Server;
  readonly #open = new Set<Socket>();
  #isDown = false;
  /** Connections that it has taken. */
  accepted = 0;

  private constructor(target: number) {
    this.#listener = createServer((inner) => {
      if (this.#isDown) {
        inner.resetAndDestroy();
        return;
      }
      this.accepted += 1;
      this.#join(inner, dial(target, "127.0.0.1"));
    });
  }

  static async before(port: number): Promise<Proxy> {
    const proxy = new Proxy(port);
    await new Promise<void>((resolve) => proxy.#listener.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#listener.address() as AddressInfo).port}`;
  }

  /** Reset every connection, both ways, in the middle of whatever passes. */
  cut(): void {
    for (const socket of this.#open) socket.resetAndDestroy();
  }

  /** Cut, and let nobody through until up(). */
  down(): void {
    this.#isDown = true;
    this.cut();
  }

  up(): void {
    this.#isDown = false;
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#listener.close(resolve));
    this.cut();
    await closed;
  }

  #join(inner: Socket, outer: Socket): void {
    for (const [from, to] of [
      [inner, outer],
      [outer, inner],
    ] as const) {
      this.#open.add(from);
      from.setNoDelay(true);
      from.pipe(to);
      from.on("error", () => to.destroy()); // a reset is what this is for
      from.on("close", () => {
        this.#open.delete(from);
        to.destroy();
      });
    }
  }
}
