import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** One classic script instead of a module, so that an exported page also runs from file://, where modules do not load. */
function classicScript(): Plugin {
  return {
    name: "classic-script",
    enforce: "post",
    transformIndexHtml: (html) =>
      html
        .replace(/<script type="module" crossorigin src="([^"]+)"><\/script>/, '<script defer src="$1"></script>')
        .replace(/<link rel="stylesheet" crossorigin /g, '<link rel="stylesheet" '),
  };
}

export default defineConfig({
  base: "./",
  plugins: [react(), classicScript()],
  build: {
    outDir: "../src/contralens/explorer/static",
    emptyOutDir: true,
    assetsDir: "",
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    rollupOptions: {
      output: {
        format: "iife",
        entryFileNames: "explorer.js",
        assetFileNames: "explorer[extname]",
      },
    },
  },
  server: { proxy: { "/api": "http://127.0.0.1:8787", "/openapi.json": "http://127.0.0.1:8787" } },
  test: { environment: "jsdom", include: ["test/**/*.test.ts", "test/**/*.test.tsx"] },
} as Parameters<typeof defineConfig>[0]);
