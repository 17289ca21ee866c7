// What passes between pairs of services and zones (mesh/flows.go), and what is made of it to be read. Pure arithmetic: the numbers are
// those of `comity top`.

export interface FlowKey {
  /** The proxy that tells, as role~namespace~name, if proxies are told apart. */
  proxy?: string;
  reporter: string;
  source: string;
  sourceNamespace: string;
  sourceZone: string;
  destination: string;
  destinationNamespace: string;
  destinationZone: string;
  protocol: string;
}

/** What was counted of a pair in an interval. */
export interface PairFlow extends FlowKey {
  /** By class of the answer: "2xx". */
  requests?: Record<string, number>;
  grpcErrors?: Record<string, number>;
  /** Upper bounds of the durations' buckets in seconds; the last bucket has none. */
  bounds?: number[];
  durations?: number[];
  connections?: number;
  open?: number;
  sent?: number;
  received?: number;
}

export interface Problem {
  proxy?: string;
  reason: string;
}

/** The data of an event of GET /api/v1/top. */
export interface Flows {
  zone?: string;
  ms: number;
  flows?: PairFlow[];
  proxies: number;
  problems?: Problem[];
}

/** What a row is of. */
export type By = "services" | "pairs" | "proxies";

export interface Row {
  id: string;
  /** Of who counts. */
  zone: string;
  proxy: string;
  reporter: string;
  /** As namespace/name, "" where the row is not of one. */
  source: string;
  sourceZone: string;
  destination: string;
  destinationZone: string;
  /** A second. */
  requests: number;
  count: number;
  failed: number;
  /** Shares and milliseconds; undefined where there was no request. */
  success: number | undefined;
  p50: number | undefined;
  p95: number | undefined;
  p99: number | undefined;
  /** Of TCP, a second, and those that are open. */
  connections: number;
  open: number;
  bytes: number;
}

/** Statuses of gRPC that blame the server. */
const blamed = new Set(["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]);

interface Sum {
  key: Row;
  failed: number;
  bounds: number[];
  durations: number[];
  bytes: number;
}

/** Adds up what zones counted in their last intervals, of the flows that are wanted. What is open is of the last one only. */
export function rowsOf(zones: ReadonlyMap<string, readonly Flows[]>, by: By, wanted: (f: FlowKey, zone: string) => boolean): Row[] {
  const out: Row[] = [];
  for (const [zone, intervals] of zones) {
    const seconds = intervals.reduce((sum, f) => sum + f.ms, 0) / 1000;
    if (seconds === 0) continue;
    const sums = new Map<string, Sum>();
    for (const [i, interval] of intervals.entries()) {
      for (const f of interval.flows ?? []) if (tells(f, by) && wanted(f, zone)) add(sums, zone, f, by, i === intervals.length - 1);
    }
    for (const s of sums.values()) out.push(finish(s, seconds));
  }
  return out;
}

/** Whether what a reporter counts is of such a row: a request is told by both its ends, and is counted once. */
function tells(f: FlowKey, by: By): boolean {
  return by === "proxies" || (by === "services") === (f.reporter === "server");
}

function add(sums: Map<string, Sum>, zone: string, f: PairFlow, by: By, last: boolean): void {
  const to = by === "proxies" ? ["", ""] : [`${f.destinationNamespace}/${f.destination}`, f.destinationZone];
  const from = by === "pairs" ? [`${f.sourceNamespace}/${f.source}`, f.sourceZone] : ["", ""];
  const proxy = by === "proxies" ? (f.proxy ?? "") : "";
  const id = [zone, proxy, f.reporter, ...from, ...to].join(" ");
  let s = sums.get(id);
  if (!s) {
    const [destination = "", destinationZone = ""] = to;
    const [source = "", sourceZone = ""] = from;
    const key: Row = {
      ...{ id, zone, proxy, reporter: f.reporter, source, sourceZone, destination, destinationZone },
      ...{ requests: 0, count: 0, failed: 0, success: undefined, p50: undefined, p95: undefined, p99: undefined, connections: 0, open: 0, bytes: 0 },
    };
    s = { key, failed: 0, bounds: [], durations: [], bytes: 0 };
    sums.set(id, s);
  }
  for (const [type, n] of Object.entries(f.requests ?? {})) {
    s.key.count += n;
    if (type === "5xx" || type === "none") s.failed += n;
  }
  for (const [status, n] of Object.entries(f.grpcErrors ?? {})) if (blamed.has(status)) s.failed += n;
  if (s.bounds.length === 0) s.bounds = f.bounds ?? [];
  for (const [i, n] of (f.durations ?? []).entries()) s.durations[i] = (s.durations[i] ?? 0) + n;
  s.key.connections += f.connections ?? 0;
  if (last) s.key.open += f.open ?? 0;
  s.bytes += (f.sent ?? 0) + (f.received ?? 0);
}

function finish(s: Sum, seconds: number): Row {
  const { count } = s.key;
  const failed = Math.min(s.failed, count);
  return {
    ...s.key,
    failed,
    requests: count / seconds,
    success: count > 0 ? 1 - failed / count : undefined,
    p50: quantile(s, 0.5),
    p95: quantile(s, 0.95),
    p99: quantile(s, 0.99),
    connections: s.key.connections / seconds,
    bytes: s.bytes / seconds,
  };
}

/** The duration in ms below which a share of the requests were: within its bucket in proportion, as Prometheus' histogram_quantile has it. */
function quantile({ bounds, durations }: Pick<Sum, "bounds" | "durations">, share: number): number | undefined {
  const all = durations.reduce((sum, n) => sum + n, 0);
  const last = bounds.at(-1);
  if (all === 0 || last === undefined) return undefined;
  const rank = share * all;
  let below = 0;
  let from = 0;
  for (const [i, bound] of bounds.entries()) {
    const n = durations[i] ?? 0;
    if (n > 0 && below + n >= rank) return (from + ((bound - from) * (rank - below)) / n) * 1000;
    below += n;
    from = bound;
  }
  return last * 1000; // no more is known of what is beyond all bounds
}

/** Columns by which rows are put in order, and whether the larger value comes first unless it is turned round. */
export const columns = ["requests", "success", "p50", "p95", "p99", "connections", "open", "bytes", "name"] as const;
export type Column = (typeof columns)[number];

/** Orders rows: numbers from the largest, success from the worst, names from a to z; the other way with `reverse`. */
export function inOrder(rows: readonly Row[], column: Column, reverse: boolean): Row[] {
  const name = (r: Row): string => [r.destination, r.destinationZone, r.source, r.sourceZone, r.zone, r.proxy, r.reporter].join("\0");
  const byName = (a: Row, b: Row): number => (name(a) < name(b) ? -1 : 1);
  const sign = (column === "success" ? 1 : -1) * (reverse ? -1 : 1);
  return rows.toSorted((a, b) => {
    if (column === "name") return reverse ? byName(b, a) : byName(a, b);
    const [x, y] = [a[column], b[column]];
    // Those that have no value come last, whichever way it goes.
    if (x === undefined || y === undefined) return x === y ? byName(a, b) : x === undefined ? 1 : -1;
    return sign * (x - y) || byName(a, b);
  });
}

/** A proxy's ID, role~namespace~name, as people say it: the sidecar of a workload is called as that is. */
export function proxyName(id: string): string {
  const [role = "", namespace = "", name = ""] = id.split("~");
  return role === "sidecar" ? `${namespace}/${name}` : `${role}/${name}`;
}
