import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // works under any prefix
  plugins: [svelte()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0, // the page's policy allows no data: URLs
    modulePreload: { polyfill: false },
    sourcemap: false,
  },
  // `npm run dev` beside a control plane: COMITY_SERVER names it.
  server: { proxy: { "/api": { target: process.env.COMITY_SERVER ?? "http://127.0.0.1:7400", changeOrigin: true } } },
});
