// The console in a real browser: over program rig, whose zones say what a test wants, and over real control planes.
// console_test.go builds the programs, and runs this with their folder in BIN.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, test } from "node:test";
import { launch } from "./browser.mjs";
import { startMesh } from "./programs.mjs";
import { many, outage, put, shop, startRig, status, traffic } from "./rig.mjs";

const bin = process.env.BIN;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await launch();
after(() => browser.close());

/** What a browser complains of, and what it asks other hosts for. */
async function open(url, options = {}) {
  // bypassCSP stays off: the policy is a part of what is tested.
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && complaints.push(m.text()));
  page.on("pageerror", (e) => complaints.push(e.message));
  page.on("request", (r) => new URL(r.url()).origin !== new URL(url).origin && complaints.push(`asked for ${r.url()}`));
  page.setDefaultTimeout(30_000);
  await page.goto(url);
  return { page, context, complaints };
}

async function signIn(page, token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await live(page);
}

const live = (page) => page.getByRole("status").filter({ hasText: /^Live$/ }).waitFor();
const card = (page, name) => page.getByRole("article", { name });
const attention = (page) => page.getByRole("region", { name: "Needs attention" });

/** Fails on anything that axe finds. It is given to the page by the debugger, past the policy that it tests nothing of. */
async function accessible(page, where) {
  const client = await page.context().newCDPSession(page);
  const { exceptionDetails } = await client.send("Runtime.evaluate", { expression: axe });
  assert.equal(exceptionDetails, undefined);
  const found = await page.evaluate(async () => (await globalThis.axe.run(document, { resultTypes: ["violations"] })).violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(" | ")}`));
  assert.deepEqual(found, [], where);
}

describe("over a made-up mesh", () => {
  let rig;
  before(async () => {
    rig = await startRig(bin);
    await shop(rig);
  });
  after(() => rig.stop());

  test("signs in, shows the mesh, and complains of nothing", async () => {
    const { page, context, complaints } = await open(`${rig.url}/`);
    assert.equal(new URL(page.url()).pathname, "/ui/");
    await accessible(page, "sign in");
    await page.getByLabel("Token").fill("cmt_wrong_token");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("alert").filter({ hasText: "no valid token" }).waitFor();
    assert.match(complaints.splice(0).join(), /^[^,]*401[^,]*$/, "the browser tells of the refusal itself");
    await signIn(page, rig.token);
    for (const zone of ["aws-east", "gcp-west", "onprem"]) await card(page, zone).getByText("Healthy").waitFor();
    await page.getByText("All is well").waitFor();
    await page.getByText("Nothing needs attention.").waitFor();
    await page.getByRole("button", { name: /^aws-east to gcp-west, reachable, .* ms, 14 requests a second$/ }).waitFor();
    await page.getByRole("row", { name: /shop\/pay aws-east gcp-west 67 %, onprem 33 % Normal/ }).waitFor();
    const policies = page.getByRole("region", { name: "Policies and routes" });
    assert.deepEqual(
      (await policies.getByRole("row").allInnerTexts()).slice(1).map((t) => t.split(/\s+/).slice(0, 2).join(" ")),
      ["Extension comity-system/buffers", "HTTPRoute shop/canary", "AuthorizationPolicy shop/web-to-cart", "MeshConfig default"],
      "what is not as it should be comes first; Services are no policies",
    );
    await policies.getByRole("row", { name: /AuthorizationPolicy shop\/web-to-cart global 4 of 4 proxies in 3 zones In force/ }).waitFor();
    await policies.getByRole("row", { name: /HTTPRoute shop\/canary global 18 of 18 proxies in 3 zones In part onprem: rules\[0\]: no service shop\/web-v2 here/ }).waitFor();
    await policies.getByRole("row", { name: /Extension comity-system\/buffers .* Risk aws-east, gcp-west, onprem: risk: it changes Envoy's Listener/ }).waitFor();
    await accessible(page, "at rest");

    // The token is where no script is: neither in an address, nor in what the page can read.
    const kept = await page.evaluate(() => JSON.stringify([document.cookie, { ...localStorage }, { ...sessionStorage }, location.href]));
    assert.ok(!kept.includes(rig.token.slice(10)), kept);
    const [cookie] = await context.cookies(`${rig.url}/api/`);
    assert.ok(cookie.httpOnly && cookie.sameSite === "Strict" && cookie.expires === -1, JSON.stringify(cookie));
    assert.deepEqual(complaints, []);

    // Another page of the session needs no token, and signing out ends both.
    const other = await context.newPage();
    await other.goto(`${rig.url}/ui/`);
    await live(other);
    await other.getByRole("button", { name: "Sign out" }).click();
    await other.getByLabel("Token").waitFor();
    assert.deepEqual(await context.cookies(`${rig.url}/api/`), []);
    await context.close();
  });

  test("the policy holds", async () => {
    const { page, context, complaints } = await open(`${rig.url}/ui/`);
    const inline = await page.evaluate(() => {
      const script = document.createElement("script");
      try {
        script.textContent = "window.bad = 1";
        document.head.append(script);
      } catch {
        // Trusted types refuse it already.
      }
      return window.bad;
    });
    assert.equal(inline, undefined);
    assert.ok(complaints.length > 0, "and the browser says so");
    const res = await fetch(`${rig.url}/ui/`);
    const [, asset] = /src="\.\/(assets\/[^"]+\.js)"/.exec(await res.text());
    assert.match((await fetch(`${rig.url}/ui/${asset}`)).headers.get("cache-control"), /immutable/);
    assert.equal(res.headers.get("cache-control"), "no-store");
    await context.close();
  });

  test("keys, filter, table, colours", async () => {
    const { page, context, complaints } = await open(`${rig.url}/ui/`, { colorScheme: "dark" });
    await signIn(page, rig.token);
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await ground();
    await page.keyboard.press("t");
    const light = await ground();
    assert.notEqual(light, dark);
    await page.reload();
    await live(page);
    assert.equal(await ground(), light, "the choice is remembered");
    await page.keyboard.press("t");
    assert.equal(await ground(), dark);
    await accessible(page, "in the dark");

    await page.keyboard.press("?");
    await page.getByRole("dialog", { name: "Keyboard" }).waitFor();
    await accessible(page, "help");
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });

    const focused = () => page.evaluate(() => document.activeElement?.id);
    for (const [key, at] of [["j", "zones/aws-east"], ["j", "zones/gcp-west"], ["k", "zones/aws-east"], ["ArrowDown", "zones/gcp-west"]]) {
      await page.keyboard.press(key);
      assert.equal(await focused(), at, key);
    }
    await page.keyboard.press("f");
    assert.match(await focused(), /^failover\//);

    await page.keyboard.press("/");
    await page.keyboard.type("gcp");
    await card(page, "onprem").waitFor({ state: "detached" });
    await card(page, "gcp-west").waitFor();
    assert.equal(new URL(page.url()).searchParams.get("q"), "gcp");
    await page.reload();
    await card(page, "gcp-west").waitFor();
    assert.equal(await card(page, "onprem").count(), 0, "the address keeps the filter");
    await page.keyboard.press("Escape");
    await card(page, "onprem").waitFor();

    await page.keyboard.press("v");
    await page.getByRole("row", { name: /^aws-east gcp-west Reachable .* 14 0 % shop\/pay 14$/ }).waitFor();
    await accessible(page, "table");
    await page.keyboard.press("v");
    // By Tab alone one comes to the zones of the map, and Enter leads to their cards.
    await page.getByRole("button", { name: /^onprem onprem · cellar Healthy/ }).focus();
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement?.id === "zones/onprem");
    assert.deepEqual(complaints, []);
    await context.close();
  });

  test("fits 400 pixels, and holds still where that is asked for", async () => {
    const { page, context } = await open(`${rig.url}/ui/`, { viewport: { width: 400, height: 800 }, reducedMotion: "reduce" });
    await signIn(page, rig.token);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing to scroll sideways");
    const dots = page.locator("path.dots").first();
    await dots.waitFor({ state: "attached" });
    assert.equal(await dots.evaluate((e) => getComputedStyle(e).animationName), "none");
    const smallest = await page.evaluate(() => Math.min(...[...document.querySelectorAll("svg text")].map((e) => e.getBoundingClientRect().height)));
    assert.ok(smallest >= 10, `text of ${smallest} px`);
    await accessible(page, "narrow");
    await context.close();
  });

  test("what happens shows at once", async () => {
    const { page, context, complaints } = await open(`${rig.url}/ui/`);
    await signIn(page, rig.token);
    const loads = [];
    page.on("request", (r) => loads.push(r.url()));
    const began = Date.now();
    await outage(rig);
    await attention(page).getByText("gcp-west is down").waitFor();
    const took = Date.now() - began;
    await attention(page).getByText("shop/pay has failed over").waitFor();
    await attention(page).getByText("HTTPRoute shop/checkout is refused in onprem").waitFor();
    await attention(page).getByText("onprem is draining").waitFor();
    await card(page, "gcp-west").getByText("Down").waitFor();
    await card(page, "gcp-west").getByText(/^As of .* ago$/).waitFor();
    await card(page, "onprem").getByText("Draining over 60s: CHG-812, new disks").waitFor();
    await page.getByRole("button", { name: /^aws-east to gcp-west, unreachable/ }).waitFor();
    await page.getByRole("row", { name: /shop\/pay aws-east onprem 100 % Failed over .* onprem takes all/ }).waitFor();
    await page.getByText("1 thing is critical").waitFor();
    await accessible(page, "outage");
    await attention(page).getByRole("link", { name: "HTTPRoute shop/checkout is refused in onprem" }).press("Enter");
    await page.waitForFunction(() => document.activeElement?.id === "policies/global/HTTPRoute/shop/checkout");
    await attention(page).getByRole("link", { name: "shop/pay has failed over" }).press("Enter");
    await page.waitForFunction(() => document.activeElement?.id === "failover/aws-east/shop/pay");

    await shop(rig); // all is well again
    await rig.put("status/onprem", "global/HTTPRoute/shop/checkout", undefined);
    await page.getByText("All is well").waitFor();
    assert.deepEqual(loads, [], "all by the one stream");
    assert.deepEqual(complaints, []);
    console.log(`# an outage of several records was on the page ${took} ms after its first one was written`);
    await context.close();
  });
});

describe("over fifty zones", () => {
  test("shows them all, the worst first", async () => {
    const rig = await startRig(bin);
    await many(rig, 50);
    const { page, context, complaints } = await open(`${rig.url}/ui/`);
    await signIn(page, rig.token);
    await page.getByRole("article").nth(49).waitFor();
    assert.deepEqual(await page.getByRole("article").getByRole("heading").evaluateAll((list) => list.slice(0, 2).map((e) => e.textContent)), ["gcp-07", "onprem-13"]);
    const began = Date.now();
    await put.traffic(rig, traffic("aws-00", "azure-01", "web", 77));
    await page.getByRole("button", { name: /^aws-00 to azure-01, .* 77 requests/ }).waitFor();
    console.log(`# a change in a mesh of fifty zones was on the page after ${Date.now() - began} ms`);
    await rig.put("zones", "onprem-13", status({ proxies: 100, proxiesConnected: 100 }));
    await attention(page).getByText("onprem-13 is away").waitFor({ state: "detached" });
    assert.deepEqual(complaints, []);
    await context.close();
    await rig.stop();
  });
});

describe("over real control planes", () => {
  let mesh;
  before(async () => {
    mesh = await startMesh(bin);
  });
  after(() => mesh.stop());

  test("a zone joins, global dies and returns, and each page says so", async () => {
    const { page, context, complaints } = await open(`${mesh.global.url}/`);
    await signIn(page, mesh.global.token);
    await page.getByText("There are no zones yet.").waitFor();
    const alone = await open(`${mesh.zone.url}/`);
    await signIn(alone.page, mesh.zone.token);
    await card(alone.page, "east").getByText("Alone").waitFor();

    await mesh.join();
    await card(page, "east").getByText("Healthy").waitFor();
    await card(page, "east").getByText("aws · us-east-1").waitFor();
    await card(alone.page, "east").getByText("Healthy").waitFor();
    assert.deepEqual([complaints, alone.complaints], [[], []]);

    const resumed = [];
    page.on("request", (r) => r.url().endsWith("/overview/stream") && resumed.push(r.headers()["last-event-id"]));
    await mesh.global.kill();
    await page.getByRole("alert").filter({ hasText: "The control plane does not answer. This is what it said at" }).waitFor();
    await card(page, "east").waitFor(); // old, and still there
    await attention(alone.page).getByText("Global is away").waitFor();
    await card(alone.page, "east").getByText("On its own").waitFor();

    await mesh.global.start();
    await live(page);
    await page.getByRole("alert").waitFor({ state: "detached" });
    await card(page, "east").getByText("Healthy").waitFor();
    assert.ok(resumed.length > 0 && resumed.every((id) => /^[0-9a-f]{32}$/.test(id)), `resumed from ${resumed}`);
    await card(alone.page, "east").getByText("Healthy").waitFor();

    await mesh.zone.kill();
    await attention(page).getByText("east is away from global").waitFor();
    await card(page, "east").getByText("Away").waitFor();
    await alone.page.getByRole("status").filter({ hasText: "Reconnecting" }).waitFor();
    await mesh.zone.start();
    await page.getByText("All is well").waitFor();
    await live(alone.page);
    await context.close();
    await alone.context.close();
  });
});
