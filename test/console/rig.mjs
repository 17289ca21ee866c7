// A control plane whose zones say what a test wants them to say: program rig, and the words for it.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** Starts the program; every record goes through the real store and comes to the page by the real stream. */
export async function startRig(bin) {
  const dir = mkdtempSync(join(tmpdir(), "comity-rig-"));
  const child = spawn(join(bin, "rig"), ["-dir", dir], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const { url, token } = JSON.parse((await lines.next()).value);
  // One line, one answer: how many watch zones.
  const say = async (line) => {
    child.stdin.write(`${JSON.stringify(line)}\n`);
    return JSON.parse((await lines.next()).value);
  };
  return {
    url,
    token,
    put: (bucket, key, value) => say({ bucket, key, value }),
    /** What a zone counts (mesh.Flows), for those who watch it. */
    flows: (flows) => say({ flows }),
    /** What a zone shows of its requests (mesh.TapEvent). */
    tap: (zone, tap) => say({ zone, tap }),
    watched: () => say({}),
    /** A token of a viewer, with what it may do besides. */
    async viewer(name, ...may) {
      const res = await fetch(`${url}/api/v1/tokens`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
        body: JSON.stringify({ name, role: "viewer", may }),
      });
      if (!res.ok) throw new Error(await res.text());
      return (await res.json()).token;
    },
    async apply(resource) {
      const res = await fetch(`${url}/api/v1/_apply`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
        body: JSON.stringify(resource),
      });
      if (!res.ok) throw new Error(await res.text());
    },
    zone(name, spec) {
      return this.apply({ apiVersion: "mesh.comity.dev/v1alpha1", kind: "Zone", metadata: { name }, spec: { namespaces: ["shop"], ...spec } });
    },
    async stop() {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.stdin.end();
      await ended;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

export const ago = (seconds) => new Date(Date.now() - seconds * 1000).toISOString();

export const status = (more = {}) => ({
  joined: true,
  connected: true,
  connectedSince: ago(3 * 3600),
  lastSeen: ago(2),
  trustDomain: "demo.example",
  version: "0.2.0",
  wanted: 14,
  acked: 14,
  certificateExpires: ago(-20 * 3600),
  ingresses: [{ id: "in1", host: "127.0.0.1", ports: [15443] }],
  proxies: 6,
  proxiesConnected: 6,
  ...more,
});

export const link = (zone, to, more = {}) => ({ zone, to, probed: true, reachable: true, since: ago(3600), rttMs: 1.4, heardAt: ago(4), heardBy: "peer", observedAt: ago(1), ...more });

export const traffic = (zone, to, service, requests, failures = 0) => ({
  zone,
  to,
  namespace: "shop",
  service,
  requests,
  failures,
  active: 1,
  windowMs: 5000,
  observedAt: ago(1),
});

export function failover(zone, service, state, reason, ...targets) {
  return {
    zone,
    namespace: "shop",
    service,
    mode: "Auto",
    state,
    reason,
    since: ago(95),
    observedAt: ago(1),
    targets: targets.map(([to, tier, share, ready, whole, why = ""]) => ({ zone: to, tier, share, would: share, ready, whole, reachable: ready > 0, reason: why })),
  };
}

export const put = {
  link: (rig, l) => rig.put(`links/${l.zone}`, l.to, l),
  traffic: (rig, t) => rig.put(`traffic/${t.zone}`, `${t.namespace}/${t.service}/${t.to}`, t),
  policy: (rig, zone, key, w) => rig.put(`status/${zone}`, key, { zone, wanted: 14, applied: 14, state: "Applied", total: w.acked, observedAt: ago(1), ...w }),
  failover: (rig, f) => rig.put(`failover/${f.zone}`, `${f.namespace}/${f.service}`, f),
};

/** The demo's shop in three zones, at rest. */
export async function shop(rig) {
  const zones = { "aws-east": ["aws", "us-east-1"], "gcp-west": ["gcp", "us-west1"], onprem: ["onprem", "cellar"] };
  for (const [name, [cloud, region]] of Object.entries(zones)) {
    await rig.zone(name, { cloud, region });
    await rig.put("zones", name, status({ proxies: name === "onprem" ? 4 : 6, proxiesConnected: name === "onprem" ? 4 : 6 }));
    for (const to of Object.keys(zones)) if (to !== name) await put.link(rig, link(name, to, { rttMs: 1 + name.length / 7 + to.length / 9 }));
  }
  for (const [from, to, service, rate] of [
    ["aws-east", "aws-east", "web", 22.4],
    ["aws-east", "aws-east", "cart", 21.8],
    ["aws-east", "gcp-west", "pay", 14.2],
    ["aws-east", "onprem", "pay", 7.1],
    ["gcp-west", "gcp-west", "web", 20.1],
    ["gcp-west", "gcp-west", "cart", 19.7],
    ["gcp-west", "gcp-west", "pay", 19.9],
    ["gcp-west", "onprem", "ledger", 33.5],
    ["onprem", "onprem", "ledger", 7],
  ])
    await put.traffic(rig, traffic(from, to, service, rate));
  const local = "Its own endpoints carry everything.";
  for (const f of [
    failover("aws-east", "web", "Normal", local, ["aws-east", 0, 1, 2, 2], ["gcp-west", 3, 0, 1, 1]),
    failover("gcp-west", "web", "Normal", local, ["gcp-west", 0, 1, 1, 1], ["aws-east", 3, 0, 2, 2]),
    failover("aws-east", "pay", "Normal", "No endpoint in this zone; the others by capacity.", ["gcp-west", 3, 2 / 3, 2, 2], ["onprem", 3, 1 / 3, 1, 1]),
    failover("gcp-west", "pay", "Normal", local, ["gcp-west", 0, 1, 2, 2], ["onprem", 3, 0, 1, 1]),
    failover("gcp-west", "ledger", "Normal", "Only onprem offers it.", ["onprem", 3, 1, 2, 2]),
  ])
    await put.failover(rig, f);
  for (const zone of Object.keys(zones))
    for (const [key, acked, message] of [
      ["MeshConfig//default", 6],
      ["Service/shop/web", 6],
      ["AuthorizationPolicy/shop/web-to-cart", zone === "onprem" ? 0 : 2],
      ["HTTPRoute/shop/canary", 6, zone === "onprem" ? "rules[0]: no service shop/web-v2 here" : undefined],
      ["Extension/comity-system/buffers", 6, "risk: it changes Envoy's Listener \"inbound\" by hand, which nothing of Comity checks or promises"],
    ])
      await put.policy(rig, zone, `global/${key}`, { acked, message });
}

/** What passes between a pair in two seconds: requests by class, and how long they took, by the first buckets. */
export const pair = (from, to, requests, durations, more = {}) => {
  const [source, sourceZone] = from.split("@");
  const [destination, destinationZone] = to.split("@");
  return {
    ...{ reporter: "client", source, sourceNamespace: "shop", sourceZone, destination, destinationNamespace: "shop", destinationZone, protocol: "http" },
    ...{ requests, bounds: [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1], durations },
    ...more,
  };
};

/** What the shop's zones count, both ends of each. */
export async function counts(rig) {
  const both = (p) => [p, { ...p, reporter: "server", source: "unknown", sourceNamespace: "unknown" }];
  const east = [pair("web@aws-east", "cart@aws-east", { "2xx": 44 }, [0, 30, 12, 2]), pair("web@aws-east", "pay@gcp-west", { "2xx": 27, "5xx": 1 }, [0, 0, 4, 16, 6, 1, 0, 1])];
  const west = [pair("web@gcp-west", "cart@gcp-west", { "2xx": 40 }, [2, 30, 8]), pair("pay@gcp-west", "ledger@onprem", { "2xx": 60, "4xx": 7 }, [0, 0, 0, 20, 40, 7])];
  const ledger = pair("pay@onprem", "ledger@onprem", { "2xx": 14 }, [10, 4]);
  const db = pair("ledger@onprem", "db@onprem", undefined, undefined, { protocol: "tcp", connections: 3, open: 12, sent: 40_000, received: 900_000 });
  await rig.flows({ zone: "aws-east", ms: 2000, proxies: 6, flows: [...both(east[0]), east[1]] });
  await rig.flows({ zone: "gcp-west", ms: 2000, proxies: 6, flows: [...both(west[0]), west[1], { ...both(east[1])[1] }] });
  await rig.flows({ zone: "onprem", ms: 2000, proxies: 3, flows: [...both(ledger), both(west[1])[1], db], problems: [{ proxy: "sidecar~shop~old-1", reason: "its agent is of an older release" }] });
}

let calls = 0;
/** A live request of the shop. */
export const request = (more = {}) => ({
  ...{ time: ago(1), durationMs: 3.2 + (calls++ % 7), zone: "gcp-west", proxy: "sidecar~shop~pay-g1", side: "server", protocol: "HTTP/2" },
  source: { namespace: "shop", name: "web", zone: "aws-east", identity: "spiffe://aws-east.example/ns/shop/sa/web" },
  destination: { namespace: "shop", name: "pay", zone: "gcp-west", port: 80, identity: "spiffe://gcp-west.example/ns/shop/sa/pay" },
  ...{ method: "POST", host: "pay.shop.svc.clusterset.local", path: `/charge/${calls}`, status: 200, details: "via_upstream", bytesIn: 120, bytesOut: 64 },
  ...{ policy: "shop/web-to-pay", traceId: "4bf92f3577b34da6a3ce929d0e0e4736", requestId: "5b1d" },
  ...more,
});

/** What an outage of gcp-west looks like. */
export async function outage(rig) {
  await rig.put("zones", "gcp-west", status({ connected: false, lastSeen: ago(48), acked: 14, wanted: 15, message: "transport is closing" }));
  for (const from of ["aws-east", "onprem"]) await put.link(rig, link(from, "gcp-west", { reachable: false, since: ago(46), reason: "no answer for 750ms", rttMs: 0 }));
  await put.failover(rig, failover("aws-east", "pay", "FailedOver", "gcp-west cannot be reached; onprem takes all.", ["onprem", 3, 1, 1, 1], ["gcp-west", 3, 0, 0, 2, "unreachable"]));
  await put.traffic(rig, traffic("aws-east", "onprem", "pay", 21.3, 0.4));
  await rig.put("traffic/aws-east", "shop/pay/gcp-west", undefined);
  await rig.put("status/onprem", "global/HTTPRoute/shop/checkout", {
    zone: "onprem",
    wanted: 15,
    applied: 14,
    state: "Rejected",
    message: "",
    acked: 3,
    total: 4,
    rejections: [{ proxy: "sidecar~shop~ledger-o1", resource: "route outbound", error: "regex is too large: maximum 100" }],
    observedAt: ago(300),
  });
  await rig.zone("onprem", { cloud: "onprem", region: "cellar", drain: { over: "60s", reason: "CHG-812, new disks" } });
}

/** A mesh of many zones. */
export async function many(rig, n) {
  const clouds = ["aws", "azure", "gcp", "onprem", "ovh"];
  const name = (i) => `${clouds[i % clouds.length]}-${String(i).padStart(2, "0")}`;
  for (let i = 0; i < n; i++) {
    await rig.zone(name(i), { cloud: clouds[i % clouds.length], region: `r${i % 7}` });
    await rig.put("zones", name(i), status({ proxies: 100, proxiesConnected: i === 7 ? 93 : 100, connected: i !== 13 }));
    for (const by of [1, 4, 9]) {
      const to = name((i + by) % n);
      await put.link(rig, link(name(i), to));
      await put.traffic(rig, traffic(name(i), to, "web", 10 * by + i, i % 11 === 0 ? 4 : 0));
    }
    await put.failover(rig, failover(name(i), "web", "Normal", "Its own endpoints carry everything.", [name(i), 0, 1, 4, 4]));
  }
}
