import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app";
import { readTheme, setTheme } from "./state";
import "./style/base.css";
import "./style/overview.css";
import "./style/neuron.css";
import "./style/pages.css";
import "./style/audit.css";
import "./style/layers.css";
import "./style/home.css";
import "./style/print.css";

setTheme(readTheme());
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
