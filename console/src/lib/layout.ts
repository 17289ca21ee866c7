// Where zones are on the map: on an ellipse, in the order of cloud and region, so that what belongs together is
// side by side. Pure arithmetic.

import type { Zone } from "./types";

export interface Point {
  x: number;
  y: number;
}

export interface Placed extends Point {
  zone: Zone;
  /** Direction from the middle, in radians. */
  angle: number;
}

export interface Curve {
  d: string;
  /** Where the label goes: nearer to where the way begins, so that the two of a pair stay apart. */
  label: Point;
  middle: Point;
  /** Where an arrow shows the direction, and how far it is turned, in degrees. */
  arrow: Point & { turn: number };
}

/** The room that the map has, and how large a zone's card is in it. */
export interface Room {
  width: number;
  height: number;
  card: { width: number; height: number };
  /** There is room for words of one kind only. */
  narrow: boolean;
}

/** The room of an element so many pixels wide. Narrow ones keep the size of the letters, not of the map. */
export function roomFor(pixels: number): Room {
  if (pixels > 0 && pixels < 560) return { width: Math.max(320, pixels), height: 400, card: { width: 126, height: 62 }, narrow: true };
  return { width: 760, height: 420, card: { width: 158, height: 62 }, narrow: false };
}

/** With up to so many zones each has a card, with more a dot. */
export function mostCards(room: Room): number {
  return room.narrow ? 4 : 8;
}

export function place(zones: readonly Zone[], room: Room): Placed[] {
  const { width, height, card, narrow } = room;
  const key = (z: Zone): string => `${z.spec.cloud ?? "~"}\0${z.spec.region ?? "~"}\0${z.name}`;
  const list = [...zones].sort((a, b) => (key(a) < key(b) ? -1 : 1));
  const n = list.length;
  const middle = { x: width / 2, y: height / 2 };
  if (n === 1 && list[0]) return [{ zone: list[0], ...middle, angle: -Math.PI / 2 }];
  const margin = n <= mostCards(room) ? { x: card.width / 2 + (narrow ? 6 : 22), y: card.height / 2 + 26 } : { x: narrow ? 92 : 130, y: 84 };
  const radius = { x: width / 2 - margin.x, y: height / 2 - margin.y };
  const first = n === 2 ? Math.PI : -Math.PI / 2;
  const angles = list.map((_, i) => first + (2 * Math.PI * i) / n);
  // A triangle fills half of its ellipse only: what is there is stretched over all of the room.
  const x = stretch(angles.map(Math.cos), middle.x, radius.x);
  const y = stretch(angles.map(Math.sin), middle.y, radius.y);
  return list.map((zone, i) => ({ zone, angle: angles[i] ?? 0, x: x[i] ?? middle.x, y: y[i] ?? middle.y }));
}

/** Moves values so that they reach from middle - radius to middle + radius; alike ones to the middle. */
function stretch(values: readonly number[], middle: number, radius: number): number[] {
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (high - low < 0.01) return values.map(() => middle);
  return values.map((v) => middle + radius * ((2 * (v - low)) / (high - low) - 1));
}

/**
 * The way from one zone to another: bowed to its left, so that the way back lies beside it; and drawn toward the middle
 * of the map, so that many ways run together and leave the rim free.
 */
export function curve(a: Point, b: Point, bow: number, inward: number, room: Room): Curve {
  const dx = b.x - a.x;
  const dy = b.y - a.y;
  const length = Math.hypot(dx, dy) || 1;
  const toward = (half: number, middle: number): number => half + (middle - half) * inward;
  const control = { x: toward((a.x + b.x) / 2, room.width / 2) + (dy / length) * bow, y: toward((a.y + b.y) / 2, room.height / 2) - (dx / length) * bow };
  const at = (t: number): Point => ({
    x: (1 - t) ** 2 * a.x + 2 * (1 - t) * t * control.x + t ** 2 * b.x,
    y: (1 - t) ** 2 * a.y + 2 * (1 - t) * t * control.y + t ** 2 * b.y,
  });
  const before = at(0.57);
  const after = at(0.63);
  return {
    d: `M${round(a.x)} ${round(a.y)}Q${round(control.x)} ${round(control.y)} ${round(b.x)} ${round(b.y)}`,
    label: at(0.42),
    middle: at(0.5),
    arrow: { ...at(0.6), turn: (Math.atan2(after.y - before.y, after.x - before.x) * 180) / Math.PI },
  };
}

export interface Group {
  cloud: string;
  /** Through the zones of the cloud, to be drawn as a broad band. */
  d: string;
}

/** The clouds that have several zones side by side. */
export function groups(placed: readonly Placed[]): Group[] {
  const by = new Map<string, Placed[]>();
  for (const p of placed) if (p.zone.spec.cloud) by.set(p.zone.spec.cloud, [...(by.get(p.zone.spec.cloud) ?? []), p]);
  return [...by].filter(([, list]) => list.length > 1).map(([cloud, list]) => ({ cloud, d: `M${list.map((p) => `${round(p.x)} ${round(p.y)}`).join("L")}` }));
}

function round(v: number): number {
  return Math.round(v * 10) / 10;
}
