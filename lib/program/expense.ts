/**
 * What the elements of expressions cost, and which values are therefore better stored than computed again.
 *
 * @module
 */
import { operationOf } from "../ops/mod.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { acceptsEpilogue, isFusable } from "./groups.ts";
import type { Program } from "./program.ts";

/** Most work per element (see `Operation`) of one expression. */
export const MAX_WORK = 240;
/** What reading or writing an element counts as. */
const ACCESS = 4;
/** What starting a kernel counts as, in the same unit. */
const DISPATCH = 20000;
/** How far apart in depth two values may be that are likely to be computed by one kernel. */
const NEAR = 16;

/** What one element of an expression costs. */
export interface Expense {
  /** Roots of the buffers that it reads, by range. */
  readonly leaves: ReadonlyMap<string, Value>;
  /** Nodes that it computes. */
  readonly nodes: ReadonlySet<Value>;
  /** Their work. */
  readonly work: number;
}

/** The cost of an element of a node, from those of what it is made of. */
export function joinExpenses(v: Value, parts: readonly Expense[]): Expense {
  const leaves = new Map<string, Value>(), nodes = new Set<Value>([v]);
  for (const p of parts) {
    for (const [key, root] of p.leaves) leaves.set(key, root);
    for (const n of p.nodes) nodes.add(n);
  }
  let work = 0;
  for (const n of nodes) work += operationOf(n).work?.(n) ?? 1;
  return { leaves, nodes, work };
}

/** One number for a cost. */
export function weightOf(e: Expense): number {
  return e.leaves.size * ACCESS + e.work;
}

/** Stores what would be computed several times at a higher price than writing and reading it again. */
export function storeShared(
  { program, users, stored, isFused, expenses }: {
    readonly program: Program;
    readonly users: ReadonlyMap<Value, readonly Value[]>;
    readonly stored: Set<Value>;
    readonly isFused: (v: Value) => boolean;
    readonly expenses: ReadonlyMap<Value, Expense>;
  },
): void {
  /** Whether all that is made of a kernel's result goes through `v`, element by element. */
  const endsIn = (x: Value, v: Value) => {
    if (!acceptsEpilogue(x) || sizeOf(x.shape) !== sizeOf(v.shape) || v.dtype !== "f32") {
      return false;
    }
    const { nodes } = expenses.get(v)!;
    const inside = (u: Value): boolean =>
      u === v || ((nodes.has(u) || operationOf(u).kernel.kind === "view") &&
        users.get(u)!.length > 0 && users.get(u)!.every(inside));
    return users.get(x)!.length > 0 && users.get(x)!.every(inside);
  };
  /** For each value, the stored values and reductions whose kernels compute it. */
  const homes = new Map<Value, Set<Value>>();
  const depth = new Map<Value, number>();
  for (const v of program.nodes) {
    depth.set(v, 1 + v.inputs.reduce((most, x) => Math.max(most, depth.get(x)!), 0));
  }
  for (let n = program.nodes.length - 1; n >= 0; n--) {
    const v = program.nodes[n];
    const own = new Set<Value>();
    for (const u of users.get(v)!) {
      if (operationOf(u).kernel.kind === "reduce" || (stored.has(u) && isFusable(u))) own.add(u);
      else for (const h of homes.get(u)!) own.add(h);
    }
    homes.set(v, own);
    if (!isFused(v) || v.op === "constant" || own.size === 0) continue;
    const { leaves, work } = expenses.get(v)!;
    if (work === 0) continue;
    const size = sizeOf(v.shape), once = leaves.size * ACCESS + work;
    const kernels = likelyKernels(own, depth);
    let fusedPrice = 0;
    for (const h of kernels) {
      const computed = sizeOf((h.op === "reduce" ? h.inputs[0] : h).shape);
      // Along a broadcast axis one computation serves four elements, and reads come from the cache.
      const repeats = computed > size ? Math.max(1, computed / size / 4) : 1;
      fusedPrice += size * (repeats * work + leaves.size * ACCESS);
    }
    // Stored in the place of a kernel's own result, it needs no kernel and no buffer more, and the result none at all.
    const isEpilogue = [...leaves.values()].some((x) => endsIn(x, v));
    const storedPrice = size * (once + ACCESS * (kernels.length + (isEpilogue ? -2 : 1))) +
      (isEpilogue ? 0 : DISPATCH);
    const isShared = kernels.length > 1;
    // Values that live from the forward to the backward pass cost memory as well, hence the margin.
    const margin = isShared && !isEpilogue ? 1.5 : 1;
    if (fusedPrice > margin * storedPrice && (isShared || fusedPrice > size * once * 1.01)) {
      stored.add(v);
    }
  }
}

/** One of the values of each kernel that is likely to compute several of them (see {@link mergeNeighbours}). */
function likelyKernels(
  values: ReadonlySet<Value>,
  depth: ReadonlyMap<Value, number>,
): readonly Value[] {
  const sorted = [...values].sort((a, b) => depth.get(a)! - depth.get(b)!);
  return sorted.filter((v, i) => {
    const last = sorted[i - 1];
    const joins = last && last.op !== "reduce" && v.op !== "reduce" &&
      sizeOf(last.shape) === sizeOf(v.shape) && depth.get(v)! - depth.get(last)! < NEAR;
    return !joins;
  });
}
