import type { About, Attention, Failover, FailoverState, Key, Link, Policy, Traffic, Zone } from "./types";

/** How something stands; each has a colour, an icon and a word. */
export type Tone = "good" | "warn" | "bad" | "calm" | "quiet";

export interface Standing {
  word: string;
  tone: Tone;
  /** What it means, in a few words. */
  note: string;
}

/** Whether what a zone says is of now. What it said before it went away is shown, and shown as old. */
export function isHeard(zone: Zone, about: About): boolean {
  return !zone.unheard && (about.mode === "global" || zone.name === about.zone);
}

/** How a zone stands, the worst first. */
export function standing(zone: Zone, about: About, links: readonly Link[], heard: ReadonlySet<string>): Standing {
  const { spec, status } = zone;
  if (spec.revoked) return { word: "Revoked", tone: "bad", note: "not trusted any more" };
  if (status.refused) return { word: "Refused", tone: "bad", note: status.refused };
  const probes = links.filter((l) => l.to === zone.name && l.probed && heard.has(l.zone));
  const cut = probes.filter((l) => !l.reachable).length;
  if (about.mode === "zone" && zone.name !== about.zone) return asSeenFrom(zone, probes.length, cut);
  if (!status.joined) return about.mode === "zone" ? { word: "Alone", tone: "calm", note: "has joined no mesh" } : { word: "Not joined", tone: "quiet", note: "no control plane yet" };
  if (!status.connected && about.mode === "global") {
    if (cut > 0 && cut === probes.length) return { word: "Down", tone: "bad", note: "no session, and no zone reaches it" };
    return { word: "Away", tone: "warn", note: "no session; its traffic goes on" };
  }
  if (cut > 0 && cut === probes.length) return { word: "Unreachable", tone: "bad", note: "no zone reaches it" };
  if (cut > 0) return { word: "Partly unreachable", tone: "warn", note: `${cut} of ${probes.length} zones do not reach it` };
  if (spec.drain) return { word: "Draining", tone: "calm", note: spec.drain.reason ?? "its traffic moves away" };
  if (!status.connected) return { word: "On its own", tone: "warn", note: "global is away" };
  if (status.acked < status.wanted) return { word: "Behind", tone: "warn", note: `revision ${status.acked} of ${status.wanted}` };
  if (status.proxiesConnected < status.proxies) return { word: "Degraded", tone: "warn", note: "some proxies are not connected" };
  return { word: "Healthy", tone: "good", note: "in step" };
}

/** What one zone knows of another: whether its ingresses answer. */
function asSeenFrom(zone: Zone, probes: number, cut: number): Standing {
  if (cut > 0) return { word: "Unreachable", tone: "bad", note: "its ingresses do not answer" };
  if (zone.spec.drain) return { word: "Draining", tone: "calm", note: zone.spec.drain.reason ?? "its traffic moves away" };
  if (probes > 0) return { word: "Reachable", tone: "good", note: "its ingresses answer" };
  return { word: "Not probed", tone: "quiet", note: "nothing is known of the way there" };
}

/** Everything that goes from one zone to another. */
export interface Flow {
  from: string;
  to: string;
  requests: number;
  failures: number;
  services: Traffic[];
  link: Link | undefined;
  /** The zone that says it is not heard at present. */
  stale: boolean;
  /** One of the two is revoked, and nothing goes there any more. */
  ended: boolean;
}

export function flowKey(from: string, to: string): string {
  return `${from}>${to}`;
}

/** Sums traffic and links by pairs of zones; within a zone, from and to are the same. */
export function flows(traffic: readonly Traffic[], links: readonly Link[], heard: ReadonlySet<string>, revoked: ReadonlySet<string>): Map<string, Flow> {
  const out = new Map<string, Flow>();
  const of = (from: string, to: string): Flow => {
    const key = flowKey(from, to);
    let flow = out.get(key);
    if (!flow) {
      flow = { from, to, requests: 0, failures: 0, services: [], link: undefined, stale: !heard.has(from), ended: false };
      out.set(key, flow);
    }
    return flow;
  };
  for (const t of traffic) {
    const flow = of(t.zone, t.to);
    flow.requests += t.requests;
    flow.failures += t.failures;
    flow.services.push(t);
  }
  for (const l of links) of(l.zone, l.to).link = l;
  for (const flow of out.values()) {
    flow.services.sort((a, b) => b.requests - a.requests);
    flow.ended = flow.from !== flow.to && flow.requests === 0 && (revoked.has(flow.from) || revoked.has(flow.to));
  }
  return out;
}

/** Whether a way is cut: probed, and not answered though it should be. */
export function isCut(flow: Flow): boolean {
  return !flow.ended && flow.link !== undefined && flow.link.probed && !flow.link.reachable;
}

export function flowTone(flow: Flow): Tone {
  if (flow.stale || flow.ended) return "quiet";
  if (isCut(flow)) return "bad";
  if (flow.requests === 0) return "quiet";
  const failed = flow.failures / flow.requests;
  return failed > 0.05 ? "bad" : failed > 0.001 ? "warn" : "good";
}

const urgency: readonly FailoverState[] = ["NoBackend", "Exhausted", "Armed", "FailedOver", "Draining", "Held", "Normal"];

/**
 * Whether a service without a backend should have one. What needs attention says so (the control plane judges that);
 * any other is one that no zone offers to this one.
 */
function isMissed(f: Failover, attention: readonly Attention[]): boolean {
  return attention.some((a) => a.id === `failover/${f.namespace}/${f.service}/NoBackend`);
}

export function failoverStanding(f: Failover, attention: readonly Attention[]): Standing {
  switch (f.state) {
    case "NoBackend":
      if (!isMissed(f, attention)) return { word: "Not offered", tone: "quiet", note: "no zone offers it to this one" };
      return { word: "No backend", tone: "bad", note: "nobody is ready anywhere" };
    case "Exhausted":
      return { word: "Exhausted", tone: "bad", note: "less capacity than the policy wants" };
    case "FailedOver":
      return { word: "Failed over", tone: "warn", note: "later tiers carry some or all" };
    case "Armed":
      return { word: "Waits for you", tone: "warn", note: "would move, and waits for a person" };
    case "Held":
      return { word: "Going back soon", tone: "calm", note: "the better tier is whole again" };
    case "Draining":
      return { word: "Draining", tone: "calm", note: "a drain moves the traffic" };
    case "Normal":
      return { word: "Normal", tone: "good", note: "the first tier carries everything" };
    default:
      return { word: f.state, tone: "quiet", note: "" }; // of a newer control plane
  }
}

export interface ServiceRow {
  name: string;
  rows: Failover[];
}

/** Groups failover by service; services that are not normal come first. */
export function byService(list: readonly Failover[], attention: readonly Attention[]): ServiceRow[] {
  const out = new Map<string, ServiceRow>();
  for (const f of list) {
    const name = `${f.namespace}/${f.service}`;
    const row = out.get(name) ?? { name, rows: [] };
    row.rows.push(f);
    out.set(name, row);
  }
  const rank = (s: ServiceRow): number => Math.min(...s.rows.map((f) => (f.state !== "NoBackend" || isMissed(f, attention) ? urgency.indexOf(f.state) : urgency.length)));
  return [...out.values()].sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
}

/** The identity of a resource, as the control plane writes it (mesh.Key). */
export function keyText(k: Key): string {
  return `${k.origin}/${k.kind}/${k.namespace ?? ""}/${k.name}`;
}

/** How far a resource about traffic is in force. */
export function policyStanding(p: Policy): Standing {
  const notes = p.notes ?? [];
  if (notes.some((n) => n.state === "Rejected")) return { word: "Refused", tone: "bad", note: "the last good one stays in force there" };
  if (notes.some((n) => n.state === "Unknown")) return { word: "Unknown", tone: "warn", note: "a zone of another release does not know the kind" };
  if (p.acked < p.total || notes.some((n) => n.state === "Pending")) return { word: "On its way", tone: "calm", note: `${p.acked} of ${p.total} proxies run it` };
  if (notes.some((n) => n.message?.startsWith("risk:"))) return { word: "Risk", tone: "warn", note: "it is in force, and nothing of Comity checks it" };
  if (notes.length > 0) return { word: "In part", tone: "warn", note: "some of it can't take effect" };
  if (p.unheard) return { word: "Unknown", tone: "warn", note: `how it is in ${p.unheard.join(", ")} is not known: not heard of at present` };
  if (p.total === 0) return { word: "Nobody", tone: "quiet", note: "it shapes no connected proxy" };
  return { word: "In force", tone: "good", note: `all of ${p.total} proxies run it` };
}
