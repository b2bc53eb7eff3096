import { fileURLToPath } from "node:url";

import { defineConfig } from "vitest/config";

const root = fileURLToPath(new URL(".", import.meta.url));
const conditions = ["roomful-source"];
const shared = { resolve: { conditions }, ssr: { resolve: { conditions } } };

/** The tests against a real server; they start it themselves. */
export default defineConfig({
  root,
  test: {
    projects: [
      {
        ...shared,
        test: {
          name: "integration",
          root,
          include: ["integration.test.ts"],
          testTimeout: 30_000,
          hookTimeout: 45_000,
        },
      },
      {
        ...shared,
        test: {
          name: "browser",
          root,
          include: ["browser.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 45_000,
        },
      },
    ],
  },
});
