// Starts the pinned Chromium, with nothing of the machine's but its kernel and its C library.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** The folder that `tools/console browser` made. */
export function browserFolder() {
  const tools = join(root, ".cache/tools");
  const name = readdirSync(tools).find((f) => f.startsWith("chromium-"));
  if (!name) throw new Error("Chromium is not installed: run tools/console browser");
  return join(tools, name);
}

export function launch() {
  const folder = browserFolder();
  return chromium.launch({
    executablePath: join(folder, "chromium"),
    // The package's libraries come after the system's own.
    env: { ...process.env, LD_LIBRARY_PATH: join(folder, "lib"), FONTCONFIG_PATH: folder, FONTCONFIG_FILE: join(folder, "fonts.conf") },
    args: [
      "--no-sandbox", // as root there is none
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--disable-quic",
      "--font-render-hinting=none",
    ],
  });
}
