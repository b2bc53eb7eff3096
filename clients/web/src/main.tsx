import { createRoot } from "react-dom/client";

import { App } from "./ui/app.tsx";
import "./styles/page.css";
import "./styles/chat.css";

const root = document.getElementById("root");
if (root !== null) createRoot(root).render(<App />);
