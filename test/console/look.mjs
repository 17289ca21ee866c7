// Takes pictures of the console over made-up meshes, to be looked at while working on it:
//
//	node test/console/look.mjs BIN OUT      (BIN holds program rig)
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { launch } from "./browser.mjs";
import { many, outage, shop, startRig } from "./rig.mjs";

const [bin, out] = process.argv.slice(2);
mkdirSync(out, { recursive: true });
const browser = await launch();

async function look(name, fill, shots) {
  const rig = await startRig(bin);
  await fill(rig);
  for (const [suffix, options, act] of shots) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    const page = await context.newPage();
    page.on("console", (m) => console.log(name, m.type(), m.text()));
    page.on("pageerror", (e) => console.log(name, "error", e.message));
    await page.goto(`${rig.url}/`);
    await page.getByLabel("Token").waitFor();
    if (suffix === "signin") {
      await page.screenshot({ path: join(out, `${name}-${suffix}.png`) });
      await context.close();
      continue;
    }
    await page.getByLabel("Token").fill(rig.token);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("Live", { exact: true }).waitFor();
    await act?.(page);
    await page.screenshot({ path: join(out, `${name}-${suffix}.png`), fullPage: suffix.endsWith("full") || suffix.startsWith("narrow") });
    await context.close();
  }
  await rig.stop();
}

const dark = { colorScheme: "dark" };
const narrow = { viewport: { width: 400, height: 800 } };
await look("rest", shop, [["signin", {}], ["light", {}], ["dark", dark], ["light-full", {}], ["narrow", narrow]]);
await look("outage", async (rig) => { await shop(rig); await outage(rig); }, [["light-full", {}], ["dark-full", dark], ["narrow-dark", { ...narrow, ...dark }], ["table", {}, (p) => p.keyboard.press("v")], ["help", {}, (p) => p.keyboard.press("?")]]);
await look("many", (rig) => many(rig, 50), [["dark", dark], ["light", {}]]);
await browser.close();
