// The wire forms of GET /api/v1/overview/stream (api/client/overview.go, mesh/*.go), as far as the page reads them.
// Times are RFC 3339.

export interface About {
  mode: "global" | "zone";
  zone?: string;
  version?: string;
  revision: number;
  proxies: number;
  proxiesConnected: number;
  leftOut?: Record<string, number>;
}

export interface Zone {
  name: string;
  spec: {
    displayName?: string;
    cloud?: string;
    region?: string;
    namespaces?: string[];
    drain?: { over?: string; reason?: string };
    revoked?: { reason?: string };
  };
  status: {
    joined: boolean;
    connected: boolean;
    connectedSince?: string;
    lastSeen?: string;
    trustDomain?: string;
    version?: string;
    wanted: number;
    acked: number;
    certificateExpires?: string;
    ingresses?: { id: string; host: string; ports: number[] }[];
    proxies: number;
    proxiesConnected: number;
    message?: string;
    refused?: string;
  };
  revision: number;
  /** What the zone said is not of now. */
  unheard?: { reason: "NotConnected" | "NotJoined" | "Revoked"; since?: string };
}

export interface Link {
  zone: string;
  to: string;
  probed: boolean;
  reachable: boolean;
  since?: string;
  rttMs?: number;
  reason?: string;
  heardAt?: string;
  heardBy?: string;
  trustUntil?: string;
  observedAt: string;
}

export interface Traffic {
  zone: string;
  to: string;
  namespace: string;
  service: string;
  requests: number;
  failures: number;
  active: number;
  windowMs: number;
  observedAt: string;
}

export type FailoverState = "Normal" | "FailedOver" | "Held" | "Draining" | "Armed" | "Exhausted" | "NoBackend";

export interface Target {
  zone: string;
  tier: number;
  name?: string;
  share: number;
  would: number;
  ready: number;
  whole: number;
  reachable: boolean;
  reason: string;
}

export interface Failover {
  zone: string;
  namespace: string;
  service: string;
  mode: string;
  state: FailoverState;
  reason: string;
  since: string;
  targets: Target[] | null;
  observedAt: string;
}

export interface Key {
  origin: string;
  kind: string;
  namespace?: string;
  name: string;
}

export interface Policy {
  key: Key;
  zones: number;
  /** Zones that had said something of it, and are not heard at present. */
  unheard?: string[];
  acked: number;
  total: number;
  notes?: { zones: string[]; state: "Pending" | "Applied" | "Rejected" | "Unknown"; message?: string }[];
}

export type Severity = "critical" | "warning" | "info";

export interface Attention {
  id: string;
  severity: Severity;
  what: string;
  why: string;
  try?: string;
  link?: string;
  since?: string;
}

export interface Whoami {
  name: string;
  role: string;
  /** What a viewer may do besides. */
  may?: string[];
  mode: string;
  zone?: string;
  version: string;
}

/** The data of an event: records by path, null for what is gone. */
export interface Change {
  records: Record<string, unknown>;
}
