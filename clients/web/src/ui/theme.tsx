import { useEffect, useState } from "react";

import { Memory } from "../chat/memory.ts";
import { ThemeIcon } from "./icons.tsx";

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const memory = new Memory(() => localStorage, "roomful:");

function rememberedTheme(): Theme {
  const theme = memory.read("theme");
  return THEMES.find((known) => known === theme) ?? "auto";
}

/** Goes round the themes: as the system says, light, dark. */
export function ThemeButton() {
  const [theme, setTheme] = useState(rememberedTheme);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    memory.write("theme", theme);
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto";
  const label = `Theme: ${theme}. Change to ${next}`;
  return (
    <button
      type="button"
      className="quiet"
      aria-label={label}
      title={label}
      onClick={() => setTheme(next)}
    >
      <ThemeIcon />
    </button>
  );
}
