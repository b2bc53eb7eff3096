/** The page's few icons; all are decoration, words stand beside them. */

import type { ReactNode } from "react";

function Icon({ children }: { readonly children: ReactNode }) {
  return (
    <svg
      className="icon"
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth="2"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
    >
      {children}
    </svg>
  );
}

const strokes = (...paths: string[]) =>
  function Strokes() {
    return (
      <Icon>
        {paths.map((path) => (
          <path key={path} d={path} />
        ))}
      </Icon>
    );
  };

export const MenuIcon = strokes("M4 6h16", "M4 12h16", "M4 18h16");
export const CloseIcon = strokes("M6 6l12 12", "M18 6L6 18");
export const PlusIcon = strokes("M12 5v14", "M5 12h14");
export const SendIcon = strokes("M5 12h14", "M13 6l6 6-6 6");
export const CheckIcon = strokes("M5 12.5l4.5 4.5L19 7.5");
export const DownIcon = strokes("M12 5v14", "M6 13l6 6 6-6");
export const ClockIcon = strokes("M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18", "M12 7v5l3 2");
export const AlertIcon = strokes("M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18", "M12 8v5", "M12 16.5v.01");
export const PeopleIcon = strokes(
  "M9 11a3.5 3.5 0 1 0 0-7a3.5 3.5 0 0 0 0 7",
  "M2.5 20a6.5 6.5 0 0 1 13 0",
  "M16.5 4.5a3.5 3.5 0 0 1 0 6",
  "M18 14.5a6 6 0 0 1 3.5 5.5",
);
export const ThemeIcon = strokes(
  "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18",
  "M12 3v18",
  "M12 8h5M12 12h9M12 16h5",
);
export const LeaveIcon = strokes(
  "M14 4h4a2 2 0 0 1 2 2v12a2 2 0 0 1-2 2h-4",
  "M10 8l-4 4 4 4",
  "M6 12h9",
);

export function Logo() {
  return (
    <svg className="logo" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8" />
      <path d="M8 10.5A2.5 2.5 0 0 1 10.5 8h11a2.5 2.5 0 0 1 2.5 2.5v7a2.5 2.5 0 0 1-2.5 2.5H15l-4.5 4v-4A2.5 2.5 0 0 1 8 17.5z" />
    </svg>
  );
}
