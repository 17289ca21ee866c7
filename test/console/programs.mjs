// Real control planes: global-cp and zone-cp as processes, on loopback.
import { spawn } from "node:child_process";
import { createWriteStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Asks until the answer is not undefined; a fact is waited for, never time. */
export async function until(what, ask, limit = 20_000) {
  const end = Date.now() + limit;
  for (;;) {
    const answer = await ask().catch(() => undefined);
    if (answer !== undefined) return answer;
    if (Date.now() > end) throw new Error(`waited ${limit} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** A program that keeps its addresses and its data over restarts. */
class Program {
  constructor(bin, name, dir, config) {
    Object.assign(this, { bin, name, dir, config, url: `http://${config.listen.api}` });
    mkdirSync(dir, { recursive: true });
    // JSON is YAML.
    writeFileSync(join(dir, "config.yaml"), JSON.stringify(config));
  }

  async start() {
    this.child = spawn(join(this.bin, this.name), ["serve", "--config", join(this.dir, "config.yaml")], { stdio: ["ignore", "ignore", "pipe"] });
    this.child.stderr.pipe(createWriteStream(join(this.dir, "log"), { flags: "a" }));
    this.ended = new Promise((resolve) => this.child.once("exit", resolve));
    await until(`${this.name} to be ready`, async () => ((await fetch(`${this.url}/readyz`)).ok && existsSync(this.config.adminTokenFile) ? true : undefined)).catch((err) => {
      throw new Error(`${err.message}:\n${readFileSync(join(this.dir, "log"), "utf8")}`);
    });
    this.token = readFileSync(this.config.adminTokenFile, "utf8").trim();
  }

  async kill() {
    this.child?.kill("SIGKILL");
    await this.ended;
  }

  async call(method, path, body) {
    const res = await fetch(`${this.url}/api/v1${path}`, {
      method,
      headers: { Authorization: `Bearer ${this.token}`, "Content-Type": "application/json" },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    if (!res.ok) throw new Error(`${method} ${path}: ${res.status} ${await res.text()}`);
    return res.status === 204 ? undefined : await res.json();
  }
}

/** A global with one zone, not joined yet. */
export async function startMesh(bin) {
  const dir = mkdtempSync(join(tmpdir(), "comity-mesh-"));
  const at = async () => `127.0.0.1:${await freePort()}`;
  const program = async (name, folder, more) =>
    new Program(bin, name, join(dir, folder), { dataDir: join(dir, folder, "data"), adminTokenFile: join(dir, folder, "token"), ...more });
  const global = await program("global-cp", "global", { trustDomain: "global.example", listen: { api: await at(), federation: await at() } });
  const zone = await program("zone-cp", "east", { zone: "east", trustDomain: "east.example", listen: { api: await at(), proxies: await at() } });
  await Promise.all([global.start(), zone.start()]);
  return {
    global,
    zone,
    async join() {
      await global.call("POST", "/_apply", { apiVersion: "mesh.comity.dev/v1alpha1", kind: "Zone", metadata: { name: "east" }, spec: { cloud: "aws", region: "us-east-1", namespaces: ["shop"] } });
      const { token } = await global.call("POST", "/zones/east/jointokens", {});
      await zone.call("POST", "/_join", { token });
    },
    async stop() {
      await Promise.all([global.kill(), zone.kill()]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
