/**
 * Checks that the committed page is what its source gives: builds it into a folder of its own, and
 * compares byte by byte. Checks its size too: everything together at most 300 KB.
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const LIMIT_BYTES = 300_000;
const clients = fileURLToPath(new URL("..", import.meta.url));
const committed = path.join(clients, "../services/roomful/web");

/** All files below *folder*, by their path in it. */
function readTree(folder) {
    return new Map(
        readdirSync(folder, { recursive: true, withFileTypes: true })
            .filter((entry) => entry.isFile())
            .map((entry) => path.join(entry.parentPath, entry.name))
            .map((file) => [path.relative(folder, file), readFileSync(file)])
            .sort(([a], [b]) => (a < b ? -1 : 1)),
    );
}

const fresh = mkdtempSync(path.join(tmpdir(), "roomful-web-"));
try {
    execFileSync("npm", ["run", "--silent", "build", "-w", "web", "--", "--logLevel", "warn"], {
        cwd: clients,
        env: { ...process.env, ROOMFUL_WEB_OUT: fresh },
        stdio: ["ignore", "ignore", "inherit"],
    });
    const [expected, actual] = [readTree(fresh), readTree(committed)];
    const names = [...new Set([...expected.keys(), ...actual.keys()])];
    const stale = names.filter(
        (name) => !expected.get(name)?.equals(actual.get(name) ?? Buffer.of()),
    );
    const bytes = [...expected.values()].reduce((sum, file) => sum + file.length, 0);
    for (const name of stale) console.error(`not what the source gives: ${name}`);
    if (bytes > LIMIT_BYTES) console.error(`${bytes} bytes; at most ${LIMIT_BYTES} are wanted`);
    if (stale.length > 0) console.error("run: npm --prefix clients run build");
    if (stale.length > 0 || bytes > LIMIT_BYTES) process.exitCode = 1;
    else console.log(`the page is fresh: ${expected.size} files, ${bytes} bytes`);
} finally {
    rmSync(fresh, { recursive: true, force: true });
}
