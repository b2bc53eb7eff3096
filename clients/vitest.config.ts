import { defineConfig } from "vitest/config";

const conditions = ["roomful-source"];
// A machine that does other things too is slow, not wrong.
const testTimeout = 30_000;

/** The unit tests: no server but a small one in the process, no network but loopback. */
export default defineConfig({
  test: {
    projects: [
      {
        resolve: { conditions },
        ssr: { resolve: { conditions } },
        test: { name: "js", root: "js", include: ["test/**/*.test.ts"], testTimeout },
      },
      {
        resolve: { conditions },
        test: {
          name: "react",
          root: "react",
          environment: "jsdom",
          include: ["test/**/*.test.tsx"],
          testTimeout,
        },
      },
      {
        resolve: { conditions },
        test: {
          name: "web",
          root: "web",
          environment: "jsdom",
          include: ["test/**/*.test.ts"],
          testTimeout,
        },
      },
    ],
  },
});
