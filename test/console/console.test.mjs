// The console in a real browser: over program rig, whose zones say what a test wants, and over real control planes.
// console_test.go builds the programs, and runs this with their folder in BIN.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, test } from "node:test";
import { launch } from "./browser.mjs";
import { startMesh, until } from "./programs.mjs";
import { counts, many, outage, pair, put, request, shop, startRig, status, traffic } from "./rig.mjs";

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
    await attention(page).getByText("gcp-west is down", { exact: true }).waitFor();
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

describe("over a made-up mesh whose zones are watched", () => {
  let rig;
  before(async () => {
    rig = await startRig(bin);
    await shop(rig);
  });
  after(() => rig.stop());

  /** Waits until so many zones are watched. */
  const watched = (kind, n) => until(`${n} ${kind}`, async () => ((await rig.watched())[kind] === n ? true : undefined));
  const words = async (table) => (await table.getByRole("row").allInnerTexts()).map((t) => t.split(/\s+/).filter(Boolean).join(" "));

  test("traffic: signals of services and pairs, in order, filtered, held, by the address", async () => {
    const { page, context, complaints } = await open(`${rig.url}/ui/`);
    await signIn(page, rig.token);
    await page.keyboard.press("2");
    await page.getByText("Counting…").waitFor();
    await accessible(page, "counting");
    await watched("tops", 3);
    await counts(rig);
    const table = page.getByRole("region", { name: "What passes between services" });
    await table.getByRole("row", { name: /^shop\/pay gcp-west 14 96\.42 % 8\.1 ms 40 ms 208 ms/ }).waitFor();
    assert.deepEqual(
      (await words(table)).slice(1).map((t) => t.split(" ").slice(0, 3).join(" ")),
      ["shop/ledger onprem 41", "shop/cart aws-east 22", "shop/cart gcp-west 20", "shop/pay gcp-west 14"],
      "what servers count, the most requests first",
    );
    await table.getByText("15 proxies count in 3 zones").waitFor();
    await table.getByText("1 proxy or zone does not tell").click();
    await table.getByText("onprem: shop/old-1: its agent is of an older release").waitFor();
    await accessible(page, "services");

    await table.getByRole("button", { name: "Pairs" }).click();
    await table.getByRole("row", { name: /^shop\/pay@gcp-west to shop\/ledger@onprem 34 100 %/ }).waitFor();
    await table.getByRole("row", { name: /^shop\/ledger@onprem to shop\/db@onprem – – – – – 1\.5 12 459 KiB/ }).waitFor();
    const column = table.getByRole("columnheader", { name: "p99" });
    await column.getByRole("button").press("Enter");
    assert.equal(await column.getAttribute("aria-sort"), "descending");
    assert.match((await words(table))[1], /^shop\/web@aws-east .*shop\/pay@gcp-west 14 96\.42 %/, "the slowest first");
    await column.getByRole("button").press("Enter");
    assert.equal(await column.getAttribute("aria-sort"), "ascending");
    assert.match((await words(table))[1], /^shop\/pay@onprem/);
    await table.getByLabel("To zone").selectOption("gcp-west");
    assert.equal((await words(table)).length, 3);
    await page.keyboard.press("/");
    await page.keyboard.type("aws");
    assert.equal((await words(table)).length, 2);
    await accessible(page, "pairs");

    // The address keeps all of it; the counts are asked for anew.
    await page.reload();
    await table.getByRole("button", { name: "Pairs", pressed: true }).waitFor();
    await until("the page before has let go", async () => ((await rig.watched()).tops === 3 ? true : undefined));
    await counts(rig);
    await table.getByRole("row").nth(1).waitFor();
    assert.equal((await words(table)).length, 2);
    assert.equal(await table.getByLabel("To zone").inputValue(), "gcp-west");

    // Held, nothing is asked and what was shown stays; then it goes on.
    await table.getByRole("button", { name: "Hold" }).click();
    await watched("tops", 0);
    assert.equal((await words(table)).length, 2);
    await page.keyboard.press("h");
    await watched("tops", 3);
    await rig.flows({ zone: "aws-east", ms: 2000, proxies: 6, flows: [pair("web@aws-east", "pay@gcp-west", { "2xx": 400 }, [400])] });
    await table.getByRole("row", { name: /shop\/pay@gcp-west 200 100 % 0\.5 ms/ }).waitFor();

    // What a row is about is a link; back leads back; whoever leaves asks no more.
    await table.getByRole("link", { name: /^Live requests of shop\/web to shop\/pay in gcp-west$/ }).click();
    assert.deepEqual(Object.fromEntries(new URL(page.url()).searchParams), { page: "tap", service: "shop/pay", at: "client", from: "@aws-east", to: "@gcp-west" });
    await watched("tops", 0);
    await page.goBack();
    await table.getByRole("button", { name: "Pairs", pressed: true }).waitFor();
    await watched("tops", 3);
    await context.close();
    await watched("tops", 0);
    await watched("taps", 0);
    assert.deepEqual(complaints, []);
  });

  test("live requests: who decided, held, kept within bounds, ended with the page", async () => {
    const { page, context, complaints } = await open(`${rig.url}/ui/?page=tap`);
    await signIn(page, rig.token);
    const panel = page.getByRole("region", { name: "Live requests" });
    await panel.getByText("Name a service or a proxy and start.").waitFor();
    await accessible(page, "before a tap");
    await panel.getByLabel("Service", { exact: true }).fill("shop/pay");
    await panel.getByLabel("Status").fill("4xx, 503");
    const asked = page.waitForRequest((r) => r.url().includes("/tap?"));
    await panel.getByLabel("Status").press("Enter");
    assert.deepEqual([...new URL((await asked).url()).searchParams], [["namespace", "shop"], ["service", "pay"], ["status", "4xx"], ["status", "503"], ["seconds", "60"]]);
    await watched("taps", 3);
    await panel.getByText("comity tap service/pay -n shop --status 4xx,503").waitFor();
    await rig.tap("gcp-west", { watching: { zone: "gcp-west", proxies: ["sidecar~shop~pay-g1"] } });
    await rig.tap("onprem", { watching: { zone: "onprem", problems: [{ reason: "the session of zone onprem has ended" }] } });
    await panel.getByText("1 proxy watched, 0 requests").waitFor();
    await panel.getByText("1 proxy or zone is not watched").waitFor();
    await rig.tap("gcp-west", { request: request({ status: 403, policy: "shop/only-web", path: "/refund", details: "rbac_access_denied_matched_policy[none]" }) });
    await panel.getByRole("row", { name: /shop\/web@aws-east to shop\/pay@gcp-west POST \/refund 403 [\d.]+ ms refused by shop\/only-web/ }).waitFor();
    await panel.getByRole("row").nth(1).getByRole("button").press("Enter");
    await panel.getByText("spiffe://aws-east.example/ns/shop/sa/web").waitFor();
    await accessible(page, "a tap");

    // Held, what comes is counted and kept aside.
    await page.keyboard.press("Escape");
    await panel.getByRole("button", { name: "Hold" }).click();
    for (let i = 0; i < 3; i++) await rig.tap("gcp-west", { request: request({ status: 503, path: `/held/${i}` }) });
    await panel.getByRole("button", { name: "Go on (3 wait)" }).waitFor();
    assert.equal(await panel.getByText("/held/").count(), 0);
    await panel.getByRole("button", { name: "Go on (3 wait)" }).click();
    await panel.getByText("/held/2").waitFor();
    assert.match((await words(panel))[1], /\/held\/2/, "the newest first");

    // Of many, the last are kept, held or not.
    for (let i = 0; i < 700; i++) await rig.tap("gcp-west", { request: request({ status: 404, path: `/many/${i}` }) });
    await rig.tap("gcp-west", { left: { zone: "gcp-west", count: 1200, share: 0.1 } });
    await panel.getByText("/many/699").waitFor();
    await panel.getByText("the last 500 are kept").waitFor();
    await panel.getByText("some 1,200 not shown").waitFor();
    assert.equal((await panel.getByRole("row").count()) - 1, 500);

    await panel.getByRole("button", { name: "Stop" }).click();
    await watched("taps", 0);
    await panel.getByText(/^Ended after 704 requests: you stopped it$/).waitFor();

    // What the control plane ends says why.
    await panel.getByRole("button", { name: "Start" }).click();
    await watched("taps", 3);
    await rig.tap("gcp-west", { request: request({ path: "/again" }) });
    await panel.getByText("/again").waitFor();
    assert.equal((await panel.getByRole("row").count()) - 1, 1, "it begins anew");
    await page.close();
    await watched("taps", 0);
    assert.deepEqual(complaints, []);
    await context.close();
  });

  test("live requests are not for every token", async () => {
    for (const [name, may] of [["eyes", []], ["watcher", ["tap"]]]) {
      const { page, context, complaints } = await open(`${rig.url}/ui/?page=tap&service=shop/pay`);
      await signIn(page, await rig.viewer(name, ...may));
      const refused = page.getByRole("alert").filter({ hasText: "This token may not see live requests." });
      if (may.length > 0) {
        await watched("taps", 3); // a link that names somebody begins at once
        assert.equal(await refused.count(), 0);
      } else {
        await refused.getByText("comity token create NAME --role viewer --may tap").waitFor();
        assert.ok(await page.getByRole("button", { name: "Start" }).isDisabled());
        await accessible(page, "not allowed");
        assert.equal((await rig.watched()).taps, 0);
        // What the page knows is for the words only: the control plane refuses.
        const status = await page.evaluate(async () => (await fetch("../api/v1/tap?namespace=shop&service=pay")).status);
        assert.equal(status, 403);
        complaints.splice(0); // the browser tells of that itself
        // Traffic is for every viewer.
        await page.keyboard.press("2");
        await watched("tops", 3);
      }
      assert.deepEqual(complaints, []);
      await context.close();
      await watched("tops", 0);
      await watched("taps", 0);
    }
  });

  test("a service: what is counted, where it goes, and what acts on it", async () => {
    await rig.apply({ apiVersion: "mesh.comity.dev/v1alpha1", kind: "AuthorizationPolicy", metadata: { name: "web-to-pay", namespace: "shop" }, spec: { targetRef: { kind: "Service", name: "pay" }, action: "Allow" } });
    await put.policy(rig, "gcp-west", "global/AuthorizationPolicy/shop/web-to-pay", { acked: 2 });
    const { page, context, complaints } = await open(`${rig.url}/ui/`);
    await signIn(page, rig.token);
    await page.getByRole("region", { name: "Where requests go" }).getByRole("link", { name: "shop/pay" }).click();
    await page.getByRole("heading", { name: "shop/pay" }).waitFor();
    await watched("tops", 3);
    await counts(rig);
    await page.getByRole("region", { name: "What its servers count" }).getByRole("row", { name: /^shop\/pay gcp-west 14/ }).waitFor();
    await page.getByRole("region", { name: "Who asks it" }).getByRole("row", { name: /^shop\/web@aws-east to shop\/pay@gcp-west 14/ }).waitFor();
    const acts = page.getByRole("region", { name: "Policies and routes" });
    await acts.getByRole("row", { name: /^AuthorizationPolicy shop\/web-to-pay this service global 2 of 2 proxies in 1 zone In force/ }).waitFor();
    assert.equal(await acts.getByRole("row").count(), 2, "and nothing else: there are no resources behind the other words of the zones");
    // What is made meanwhile appears.
    await rig.apply({ apiVersion: "mesh.comity.dev/v1alpha1", kind: "TrafficPolicy", metadata: { name: "slow", namespace: "shop" }, spec: { timeouts: { request: "1s" } } });
    await acts.getByRole("row", { name: /^TrafficPolicy shop\/slow its namespace/ }).waitFor();
    await accessible(page, "a service");
    assert.equal(await page.title(), "shop/pay · global · Comity");
    assert.deepEqual(complaints, []);
    await context.close();
    await watched("tops", 0);
  });

  test("traffic and live requests fit 400 pixels", async () => {
    const { page, context } = await open(`${rig.url}/ui/?page=top&by=pairs`, { viewport: { width: 400, height: 800 }, colorScheme: "dark" });
    await signIn(page, rig.token);
    const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
    await watched("tops", 3);
    await counts(rig);
    await page.getByText("shop/db").waitFor();
    assert.ok(await fits(), "traffic");
    await accessible(page, "narrow traffic");
    await page.evaluate(() => history.pushState(null, "", "?page=tap&service=shop/pay"));
    await page.reload();
    await watched("taps", 3);
    await rig.tap("gcp-west", { request: request({ path: `/${"long".repeat(60)}`, details: "x".repeat(200) }) });
    await page.getByText("/longlong").waitFor();
    assert.ok(await fits(), "live requests");
    await accessible(page, "narrow live requests");
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

    // Traffic is asked of the zone itself, for as long as somebody sees it.
    const streams = (n) =>
      until(`${n} streams of global`, async () => ((await (await fetch(`${mesh.global.url}/metrics`)).text()).includes(`comity_api_streams ${n}\n`) ? true : undefined));
    await streams(1);
    await page.keyboard.press("2");
    await page.getByText("0 proxies count in 1 zone").waitFor();
    await streams(2);
    const other = await context.newPage();
    await other.goto(`${mesh.global.url}/ui/?page=tap&service=shop/pay`);
    await streams(4);
    await other.close();
    await streams(2);
    await page.keyboard.press("1");
    await streams(1);

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
