import { fileURLToPath } from "node:url";

import { defineConfig } from "vite";

const OUTPUT = fileURLToPath(new URL("../../services/roomful/web", import.meta.url));
const SERVER = "http://127.0.0.1:8080";

/** The page is written for React and built with Preact: a tenth of its size. */
export default defineConfig({
  resolve: {
    conditions: ["roomful-source", "module", "browser", "production"],
    alias: [
      { find: /^react\/jsx-runtime$/, replacement: "preact/jsx-runtime" },
      { find: /^react\/jsx-dev-runtime$/, replacement: "preact/jsx-runtime" },
      { find: /^react-dom\/client$/, replacement: "preact/compat/client" },
      { find: /^react$/, replacement: "preact/compat" },
    ],
  },
  build: {
    outDir: process.env.ROOMFUL_WEB_OUT ?? OUTPUT,
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
  // npm run dev -w web: the page from here, everything else from `roomful serve --dev`.
  server: {
    proxy: {
      "/api": SERVER,
      "/socket.io": { target: SERVER, ws: true },
    },
  },
});
