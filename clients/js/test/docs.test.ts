import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

import ts from "typescript";
import { describe, expect, it } from "vitest";

import { DEFAULT_OPTIONS } from "../src/options.ts";

const clients = fileURLToPath(new URL("../../", import.meta.url));
const page = readFileSync(path.join(clients, "../docs/clients.md"), "utf8");

/** The cells of the rows that begin with a name in backquotes, below *heading*. */
function rowsBelow(heading: string): string[][] {
  const section = page.split(`### ${heading}\n`)[1]?.split("\n### ")[0] ?? "";
  return section
    .split("\n")
    .filter((row) => row.startsWith("| `"))
    .map((row) => row.split("|").map((cell) => cell.trim().replaceAll("`", "")));
}

describe("docs/clients.md", () => {
  it("lists every option with its default", () => {
    const documented = rowsBelow("Options").map(([, name, value]) => [name, value]);
    const shown = (value: unknown): string =>
      value === Infinity ? "Infinity" : JSON.stringify(value);
    const actual = Object.entries(DEFAULT_OPTIONS).map(([name, value]) => [name, shown(value)]);

    expect(Object.fromEntries(documented)).toEqual({
      token: "none",
      ...(Object.fromEntries(actual) as Record<string, string>),
    });
  });

  it("lists every error of the client's own", () => {
    const source = readFileSync(path.join(clients, "js/src/errors.ts"), "utf8");
    const own = source.split("export type ClientErrorCode =")[1]?.split("\n\n")[0] ?? "";
    const codes = [...own.matchAll(/\| "([A-Z_]+)"/g)].map(([, code]) => code);

    expect(codes.length).toBeGreaterThan(5);
    expect(rowsBelow("Errors").map(([, code]) => code)).toEqual(expect.arrayContaining(codes));
  });

  it("has examples that compile", () => {
    const examples = [...page.matchAll(/```(tsx?)\n([^]*?)```/g)];
    expect(examples).toHaveLength(3);
    const folder = mkdtempSync(path.join(clients, "node_modules/.examples-"));
    try {
      const files = examples.map(([, extension = "ts", code = ""], index) => {
        const file = path.join(folder, `example-${index}.${extension}`);
        writeFileSync(file, code);
        return file;
      });
      const program = ts.createProgram(files, {
        strict: true,
        noEmit: true,
        skipLibCheck: true,
        target: ts.ScriptTarget.ES2022,
        module: ts.ModuleKind.NodeNext,
        lib: ["lib.es2023.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"],
        jsx: ts.JsxEmit.ReactJSX,
        customConditions: ["roomful-source"],
        rewriteRelativeImportExtensions: true,
        types: [],
      });
      const faults = ts
        .getPreEmitDiagnostics(program)
        .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
      expect(faults).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }, 30_000);
});
