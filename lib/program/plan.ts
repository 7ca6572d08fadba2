/**
 * Memory: which buffer each value of a fused program lies in.
 *
 * Buffers are whole: no dispatch ever reads one part of a buffer while it writes another, which WebGPU forbids. The exceptions are a group that overwrites what it
 * reads element by element (bound once), and pieces that are written straight into the concatenation they are part of.
 *
 * @module
 */
import { operationOf } from "../ops/mod.ts";
import { bytesOf, exactBytes } from "../ops/shapes.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { FusedProgram } from "./fuse.ts";
import { type Group, pointwiseLeaves } from "./groups.ts";

/** A buffer of a program. */
export type Place =
  | { readonly kind: "input"; readonly name: string }
  | { readonly kind: "constant"; readonly index: number }
  | { readonly kind: "scratch"; readonly index: number };

/** A range of a buffer. */
export interface Location {
  /** The buffer. */
  readonly place: Place;
  /** Bytes from its start. */
  readonly offset: number;
  /** Length in bytes, rounded up to 16. */
  readonly bytes: number;
}

/** What is done, in order. */
export type Step =
  | {
    readonly kind: "group";
    readonly group: Group;
    /** For outputs (by number) that overwrite what the group reads: the key of the leaf. */
    readonly inPlace: ReadonlyMap<number, string>;
    /** Where the temporaries of its kernel lie. */
    readonly temporaries: readonly Location[];
  }
  | {
    readonly kind: "copy";
    readonly from: Location;
    readonly to: Location;
    readonly bytes: number;
  };

/** Where everything lies and what is done. */
export interface Plan {
  /** The steps of a run. */
  readonly steps: readonly Step[];
  /** Bytes of each scratch buffer. */
  readonly scratch: readonly number[];
  /** Where a stored value, or a view of one, lies. */
  readonly locate: (value: Value) => Location;
}

/** What planning depends on. */
export interface PlanOptions {
  /** What the offsets of bound ranges are multiples of; 256 bytes by default. */
  readonly alignment?: number;
  /** Bytes of the temporaries that a group's kernel asks for. */
  readonly temporaries?: (group: Group) => readonly number[];
}

/** Something that takes up a scratch buffer for a while. */
interface Resident {
  bytes: number;
  /** First step that writes it and last one that reads it. */
  from: number;
  to: number;
  /** Number of the buffer, once it has one. */
  buffer: number;
}

/** Assigns a buffer to every value. */
export function plan(fused: FusedProgram, options: PlanOptions = {}): Plan {
  const { alignment = 256, temporaries = () => [] } = options;
  const { program, views, groups } = fused;
  const rootOf = (v: Value) => views.get(v)!.root;
  const end = groups.length;

  const made = new Map<Value, number>();
  const lastRead = new Map<Value, number>();
  groups.forEach((g, i) => {
    for (const o of g.outputs) made.set(o, i);
    for (const r of g.reads) lastRead.set(rootOf(r), i);
  });
  for (const v of program.outputs.values()) lastRead.set(rootOf(v), end);

  /** Where a root lies: in a resident or an input's buffer, from some offset on. */
  const homes = new Map<
    Value,
    { resident: Resident | null; place: Place | null; offset: number }
  >();
  for (const [name, v] of program.inputs) {
    homes.set(v, { resident: null, place: { kind: "input", name }, offset: 0 });
  }
  fused.constants.forEach((v, index) => {
    homes.set(v, { resident: null, place: { kind: "constant", index }, offset: 0 });
  });
  const inPlace = groups.map(() => new Map<number, string>());
  const residents: Resident[] = [];

  const direct = placePieces();
  const endCopies = placeUpdates();
  placeOthers();
  const held = groups.map((g, at) => temporaries(g).map((bytes) => resident(bytes, at)));
  const scratch = assign(residents);

  const located = new Map<Value, Location>();
  const locate = (value: Value): Location => {
    const known = located.get(value);
    if (known) return known;
    const { root, offset } = views.get(value)!;
    const home = homes.get(root);
    if (!home) throw new TypeError(`The value of ${root.op} has no buffer.`);
    const place: Place = home.place ?? { kind: "scratch", index: home.resident!.buffer };
    const location = { place, offset: home.offset + offset, bytes: bytesOf(value) };
    located.set(value, location);
    return location;
  };
  return { steps: stepsOf(), scratch, locate };

  /** Gives values that are only pieces of a concatenation along its first axis their place in it. */
  function placePieces(): Map<Group, Set<number>> {
    const placed = new Map<Group, Set<number>>();
    const readers = new Map<Value, Group[]>();
    for (const g of groups) {
      for (const r of g.reads) readers.set(rootOf(r), [...(readers.get(rootOf(r)) ?? []), g]);
    }
    for (const [position, group] of groups.entries()) {
      if (group.kind !== "concat") continue;
      const whole = group.node!;
      const home = homes.get(whole) ??
        { resident: resident(bytesOf(whole), position), place: null, offset: 0 };
      homes.set(whole, home);
      if (home.resident) home.resident.to = Math.max(home.resident.to, lastRead.get(whole) ?? 0);
      const inside = new Set<Value>([whole]);
      const writers = new Set<Group>([group]);
      const numbers = new Set<number>();
      placed.set(group, numbers);
      if (!isLeading(whole) || !home.resident) continue;
      const roots = whole.inputs.map(rootOf);
      let offset = home.offset;
      whole.inputs.forEach((piece, n) => {
        const start = offset, root = roots[n], view = views.get(piece)!;
        offset += exactBytes(piece);
        const maker = made.get(root);
        const last = n === whole.inputs.length - 1;
        if (
          maker === undefined || homes.has(root) || view.offset !== 0 ||
          sizeOf(piece.shape) !== sizeOf(root.shape) || start % alignment !== 0 ||
          (exactBytes(piece) % 16 !== 0 && !last) || groups[maker].outputs.length > 1 ||
          roots.filter((r) => r === root).length > 1
        ) return;
        // Neither who writes it nor who reads it may touch another part of the buffer the other way.
        const makes = groups[maker];
        if (makes.reads.some((r) => inside.has(rootOf(r)))) return;
        if (readers.get(root)!.some((g) => g !== group && writers.has(g))) return;
        const { resident } = home;
        homes.set(root, { resident, place: null, offset: start });
        inside.add(root);
        writers.add(makes);
        resident!.from = Math.min(resident!.from, maker);
        resident!.to = Math.max(resident!.to, lastRead.get(root) ?? maker);
        numbers.add(n);
      });
    }
    return placed;
  }

  /** Lets new values of states be written over the old ones where nothing reads those any more; the rest is copied at the end. */
  function placeUpdates(): { from: Value; to: Value }[] {
    const copies: { from: Value; to: Value }[] = [];
    for (const [name, output] of program.updates) {
      const state = program.inputs.get(name)!;
      const value = program.outputs.get(output)!;
      const { root, offset } = views.get(value)!;
      const at = made.get(root);
      const last = lastRead.get(state) ?? -1;
      const free = at !== undefined && !homes.has(root) && offset === 0 &&
        sizeOf(root.shape) === sizeOf(state.shape) && root.dtype === state.dtype;
      if (free && (last < at || (last === at && overwrites(at, root, state)))) {
        homes.set(root, { resident: null, place: { kind: "input", name }, offset: 0 });
      } else copies.push({ from: value, to: state });
    }
    return copies;
  }

  /** Whether group number `at` may write `output` over `input`, which it reads; notes how it does. */
  function overwrites(at: number, output: Value, input: Value): boolean {
    const group = groups[at];
    if (group.kind === "elementwise") {
      const key = `${input.id}+0`;
      const others = [...inPlace[at].values()];
      const single = group.reads.filter((r) => rootOf(r) === input).length === 1;
      if (!single || others.includes(key) || input.dtype !== output.dtype) return false;
      if (!pointwiseLeaves(fused, group).has(key)) return false;
      inPlace[at].set(group.outputs.indexOf(output), key);
      return true;
    }
    return startsFrom(group) === input && group.outputs[0] === group.node &&
      group.node!.inputs.filter((x) => rootOf(x) === input).length === 1;
  }

  /** The stored value whose contents a kernel's output starts from, where it lies in a buffer of its own. */
  function startsFrom(group: Group): Value | null {
    const rule = group.kind === "kernel" ? operationOf(group.node!).kernel : undefined;
    if (rule?.kind !== "kernel" || rule.inPlace === undefined) return null;
    const { root, offset } = views.get(group.node!.inputs[rule.inPlace])!;
    return offset === 0 && bytesOf(root) === bytesOf(group.node!) ? root : null;
  }

  function placeOthers(): void {
    groups.forEach((group, at) => {
      for (const output of group.outputs) {
        if (homes.has(output)) continue;
        const heir = group.reads.map(rootOf).find((r) => {
          const home = homes.get(r);
          return home?.resident && home.offset === 0 && home.resident.bytes === bytesOf(output) &&
            home.resident.to === at && lastRead.get(r) === at && made.has(r) &&
            overwrites(at, output, r);
        });
        const home = heir
          ? homes.get(heir)!
          : { resident: resident(bytesOf(output), at), place: null, offset: 0 };
        home.resident!.to = Math.max(home.resident!.to, lastRead.get(output) ?? at);
        homes.set(output, home);
      }
    });
  }

  function resident(bytes: number, at: number): Resident {
    const r = { bytes, from: at, to: at, buffer: -1 };
    residents.push(r);
    return r;
  }

  function stepsOf(): Step[] {
    const steps: Step[] = [];
    groups.forEach((group, at) => {
      if (group.kind === "concat" && isLeading(group.node!)) {
        const to = locate(group.node!);
        let offset = to.offset;
        group.node!.inputs.forEach((piece, n) => {
          const bytes = exactBytes(piece);
          if (!direct.get(group)!.has(n)) {
            steps.push({ kind: "copy", from: locate(piece), to: { ...to, offset }, bytes });
          }
          offset += bytes;
        });
        return;
      }
      const rule = group.kind === "kernel" ? operationOf(group.node!).kernel : undefined;
      if (rule?.kind === "kernel" && rule.inPlace !== undefined) {
        const old = group.node!.inputs[rule.inPlace];
        const from = locate(old), to = locate(group.node!);
        if (!samePlace(from, to)) steps.push({ kind: "copy", from, to, bytes: exactBytes(old) });
      }
      steps.push({
        kind: "group",
        group,
        inPlace: inPlace[at],
        temporaries: held[at].map((r) => ({
          place: { kind: "scratch", index: r.buffer },
          offset: 0,
          bytes: r.bytes,
        })),
      });
    });
    for (const { from, to } of endCopies) {
      steps.push({
        kind: "copy",
        from: locate(from),
        to: locate(to),
        bytes: exactBytes(to),
      });
    }
    return steps;
  }
}

/** Whether a concatenation runs along the first axis that is longer than 1, so that its pieces lie one after the other. */
export function isLeading(concat: Value): boolean {
  return sizeOf(concat.shape.slice(0, concat.attributes.axis as number)) === 1;
}

function samePlace(a: Location, b: Location): boolean {
  return a.offset === b.offset && a.place.kind === b.place.kind &&
    (a.place.kind === "input"
      ? a.place.name === (b.place as { name: string }).name
      : a.place.index === (b.place as { index: number }).index);
}

/** Gives each resident a buffer, the largest first, and returns the buffers' sizes. */
function assign(residents: readonly Resident[]): number[] {
  const buffers: { bytes: number; held: Resident[] }[] = [];
  for (const r of [...residents].sort((a, b) => b.bytes - a.bytes)) {
    // Buffers come in order of size, so the last one that is free wastes least.
    let number = buffers.findLastIndex(({ held }) =>
      held.every((h) => h.to < r.from || r.to < h.from)
    );
    if (number < 0) {
      number = buffers.length;
      buffers.push({ bytes: r.bytes, held: [] });
    }
    buffers[number].held.push(r);
    r.buffer = number;
  }
  return buffers.map((b) => b.bytes);
}
