// Takes pictures of the console over made-up meshes, to be looked at while working on it:
//
//	node test/console/look.mjs BIN OUT      (BIN holds program rig)
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { launch } from "./browser.mjs";
import { counts, many, outage, request, shop, startRig } from "./rig.mjs";

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
    await act?.(page, rig);
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
/** Opens a page, and has zones tell when they are asked. */
const open = (address, kind, tell) => async (page, rig) => {
  await page.evaluate((to) => history.pushState(null, "", to), address);
  await page.reload();
  while ((await rig.watched())[kind] < 3) await new Promise((resolve) => setTimeout(resolve, 20));
  await tell(rig);
  await page.getByRole("row").nth(2).waitFor();
};
const tell = async (rig) => {
  await rig.tap("gcp-west", { watching: { zone: "gcp-west", proxies: ["sidecar~shop~pay-g1", "sidecar~shop~pay-g2"] } });
  await rig.tap("onprem", { watching: { zone: "onprem", problems: [{ reason: "the session of zone onprem has ended" }] } });
  for (let i = 0; i < 14; i++) await rig.tap("gcp-west", { request: request() });
  await rig.tap("gcp-west", { request: request({ status: 403, policy: "shop/only-web", details: "rbac_access_denied_matched_policy[none]", path: "/refund", source: { namespace: "shop", name: "cart", zone: "onprem" } }) });
  await rig.tap("gcp-west", { request: request({ status: 503, flags: "UH", details: "no_healthy_upstream", policy: undefined, route: "shop/canary", attempts: 3, path: "/charge/with/a/path/that/is/rather/long/for/a/table" }) });
  await rig.tap("gcp-west", { request: request({ method: undefined, path: undefined, status: undefined, protocol: "TCP", policy: undefined, open: true }) });
  await rig.tap("gcp-west", { left: { zone: "gcp-west", count: 1200, share: 0.1 } });
};
const top = (query) => open(`?page=top${query}`, "tops", counts);
const tap = open("?page=tap&service=shop/pay", "taps", async (rig) => { await tell(rig); });
const detail = async (page, rig) => { await tap(page, rig); await page.getByRole("button", { expanded: false }).filter({ hasText: ":" }).nth(1).click(); };
const service = open("?page=service&service=shop/pay", "tops", counts);
await look("top", shop, [["services", {}, top("")], ["pairs-dark", dark, top("&by=pairs&sort=p99")], ["narrow", narrow, top("&by=pairs")], ["forbidden", {}, async (page) => { await page.evaluate(() => history.pushState(null, "", "?page=tap")); await page.reload(); await page.getByText("Name a service").waitFor(); }]]);
await look("tap", shop, [["light", {}, detail], ["dark", dark, tap], ["narrow-dark", { ...narrow, ...dark }, tap]]);
await look("service", shop, [["full", {}, service], ["narrow-dark", { ...narrow, ...dark }, service]]);
await browser.close();
