/**
 * Fusion: which nodes of a program become one kernel, and which values therefore need a buffer.
 *
 * @module
 */
import type { Leaf } from "../../kernels/expression.ts";
import {
  broadcastMap,
  composeMaps,
  identityMap,
  type IndexMap,
  isIdentity,
} from "../ops/index-map.ts";
import { operationOf } from "../ops/mod.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Program } from "./program.ts";
import { schedule } from "./schedule.ts";
import { type View, viewsOf } from "./views.ts";

/** Nodes that run as one kernel. */
export interface Group {
  /**
   * - `elementwise`: computes its outputs, which have equally many elements, from what it reads.
   * - `reduce`: a `reduce` node with the elementwise nodes before and after it.
   * - `kernel`: a node with its own kernels, and perhaps elementwise nodes after it.
   * - `concat`: a `concat` node.
   */
  readonly kind: "elementwise" | "reduce" | "kernel" | "concat";
  /** The node around which the group is built; null for elementwise groups. */
  readonly node: Value | null;
  /** The values that get a buffer. */
  readonly outputs: readonly Value[];
  /** Values whose buffers it reads: stored ones, or views of such. */
  readonly reads: readonly Value[];
}

/** A program as groups. */
export interface FusedProgram {
  /** What was fused. */
  readonly program: Program;
  /** Where values lie. */
  readonly views: ReadonlyMap<Value, View>;
  /** The groups, each after those that it reads from. */
  readonly groups: readonly Group[];
  /** Constants that need a buffer. */
  readonly constants: readonly Value[];
  /** All values that have a buffer: inputs, constants and the outputs of groups. */
  readonly stored: ReadonlySet<Value>;
}

/** What fusion depends on. */
export interface FuseOptions {
  /** Storage buffers that a kernel may bind; 8 by default, as WebGPU guarantees. */
  readonly storageBuffers?: number;
  /** What the offsets of bound ranges are multiples of; 256 bytes by default, as WebGPU guarantees. */
  readonly alignment?: number;
}

/** Elements up to which a filled constant that must be in memory is uploaded once rather than computed in each run. */
const SMALL_CONSTANT = 65536;
/** Storage bindings that kernels keep free for their epilogue. */
const EPILOGUE_LEAVES = 4;
/** Most work per element (see {@link workOf}) of one expression. */
const MAX_WORK = 240;
/** What reading or writing an element counts as. */
const ACCESS = 4;
/** What starting a kernel counts as, in the same unit. */
const DISPATCH = 20000;
/** How many groups apart two groups are that may still be merged, so that no value lives much longer for it. */
const NEAR = 16;

/** Rough work of one element of a node, where an addition is 1. */
function workOf(node: Value): number {
  switch (node.op) {
    case "constant":
      return 0;
    case "dropoutMask":
      return 14;
    case "unary":
      return ({ exp: 6, log: 8, tanh: 10, sigmoid: 8, sin: 8, cos: 8, erf: 12 } as Record<
        string,
        number
      >)[node.attributes.fn as string] ?? 1;
    case "binary":
      return node.attributes.fn === "pow" ? 16 : node.attributes.fn === "div" ? 2 : 1;
    default:
      return 1;
  }
}

/** What one element of an expression costs. */
interface Expense {
  /** Roots of the buffers that it reads, by range. */
  readonly leaves: ReadonlyMap<string, Value>;
  /** Nodes that it computes. */
  readonly nodes: ReadonlySet<Value>;
  /** Their work. */
  readonly work: number;
}

/** Splits a program into kernels. Reductions must run over neighbouring axes (see `lower`). */
export function fuse(program: Program, options: FuseOptions = {}): FusedProgram {
  const storageBuffers = options.storageBuffers ?? 8;
  const maxLeaves = Math.min(storageBuffers - 2, 16);
  const views = viewsOf(program, options.alignment ?? 256);
  const users = usersOf(program);
  const rootOf = (v: Value) => views.get(v)!.root;

  const stored = mustStore(program, views);
  const isFused = (v: Value) => isFusable(v) && !stored.has(v);

  const expenses = new Map<Value, Expense>();
  const expenseOf = (v: Value): Expense => {
    const { root, offset } = views.get(v)!;
    if (!isFused(root)) {
      return { leaves: new Map([[`${root.id}+${offset}`, root]]), nodes: new Set(), work: 0 };
    }
    if (operationOf(v).kernel?.kind === "view") return expenses.get(v.inputs[0])!;
    return join(v, v.inputs.map((i) => expenses.get(i)!));
  };
  for (const v of program.nodes) {
    let expense = expenseOf(v);
    if (isFused(v) && (expense.leaves.size > 4 * maxLeaves || expense.work > 4 * MAX_WORK)) {
      stored.add(v);
      expense = expenseOf(v);
    }
    expenses.set(v, expense);
  }

  storeShared({ program, users, stored, isFused, expenses });

  // With the final set of buffers, no expression may read too many or grow too long.
  for (const v of program.nodes) {
    let expense = expenseOf(v);
    while (isFused(v) && (expense.leaves.size > maxLeaves || expense.work > MAX_WORK)) {
      const heavy = v.inputs.map(rootOf).filter((x) => isFused(x) && expenses.get(x)!.work > 0)
        .sort((a, b) => weight(expenses.get(b)!) - weight(expenses.get(a)!))[0];
      if (!heavy) break;
      stored.add(heavy);
      for (const w of program.nodes) {
        if (w === v) break;
        if (w === heavy || expenses.get(w)!.nodes.has(heavy)) expenses.set(w, expenseOf(w));
      }
      expense = expenseOf(v);
    }
    expenses.set(v, expense);
  }

  const context: Context = { program, views, stored, users, storageBuffers };
  const ordered = schedule(withEpilogues(plainGroups(context), context), { program, views });
  const groups = mergeNeighbours(ordered, context);
  const kept = new Set(groups.flatMap((g) => g.outputs));
  for (const v of [...stored]) {
    if (v.op !== "input" && v.op !== "constant" && !kept.has(v)) stored.delete(v);
  }
  const read = new Set(groups.flatMap((g) => g.reads.map(rootOf)));
  for (const v of program.outputs.values()) read.add(rootOf(v));
  const constants = program.nodes.filter((v) =>
    v.op === "constant" && stored.has(v) && read.has(v) && !kept.has(v)
  );
  return { program, views, groups, constants, stored };
}

/** The buffer in which a value lies for a group that reads it, or null where the group computes it. */
export function leafOf(
  fused: Pick<FusedProgram, "views" | "stored">,
  group: Pick<Group, "outputs">,
): (value: Value) => Leaf | null {
  return (value) => {
    const { root, offset } = fused.views.get(value)!;
    if (!fused.stored.has(root) || group.outputs.includes(root)) return null;
    return { key: `${root.id}+${offset}`, value };
  };
}

/** Keys of the leaves that an elementwise group reads only at the index of the element that it computes. */
export function pointwiseLeaves(
  fused: Pick<FusedProgram, "views" | "stored">,
  group: Group,
): ReadonlySet<string> {
  const leaf = leafOf(fused, group);
  const all = new Set<string>(), moved = new Set<string>();
  for (const o of group.outputs) {
    visitLeaves(o, {
      leaf,
      visit: (v, map) => {
        const { key } = leaf(v)!;
        all.add(key);
        if (map === null || !isIdentity(map)) moved.add(key);
      },
    });
  }
  return all.difference(moved);
}

interface Context {
  readonly program: Program;
  readonly views: ReadonlyMap<Value, View>;
  readonly stored: Set<Value>;
  readonly users: ReadonlyMap<Value, readonly Value[]>;
  readonly storageBuffers: number;
}

function isFusable(v: Value): boolean {
  const kind = operationOf(v).kernel?.kind;
  return kind === "elementwise" || kind === "layout";
}

/** Whether the kernel of a node can apply an elementwise function to its result. */
function acceptsEpilogue(node: Value): boolean {
  const rule = operationOf(node).kernel;
  return node.dtype === "f32" &&
    (rule?.kind === "reduce" || (rule?.kind === "kernel" && rule.epilogue === true));
}

function isUploaded(v: Value): boolean {
  return v.op === "constant" &&
    (typeof v.attributes.value !== "number" || sizeOf(v.shape) <= SMALL_CONSTANT);
}

function usersOf(program: Program): Map<Value, Value[]> {
  const users = new Map<Value, Value[]>(program.nodes.map((v) => [v, []]));
  for (const v of program.nodes) for (const i of new Set(v.inputs)) users.get(i)!.push(v);
  return users;
}

/** Inputs, what is read or written by kernels of their own, and what is asked for. */
function mustStore(program: Program, views: ReadonlyMap<Value, View>): Set<Value> {
  const stored = new Set<Value>();
  for (const v of program.nodes) {
    const kind = operationOf(v).kernel?.kind;
    if (kind === "external" || (v.op === "constant" && typeof v.attributes.value !== "number")) {
      stored.add(v);
    }
    if (kind === "reduce" || kind === "kernel" || kind === "concat") stored.add(v);
    if (kind === "kernel" || kind === "concat") {
      for (const i of v.inputs) stored.add(views.get(i)!.root);
    }
  }
  for (const v of program.outputs.values()) stored.add(views.get(v)!.root);
  return stored;
}

function join(v: Value, parts: readonly Expense[]): Expense {
  const leaves = new Map<string, Value>(), nodes = new Set<Value>([v]);
  for (const p of parts) {
    for (const [key, root] of p.leaves) leaves.set(key, root);
    for (const n of p.nodes) nodes.add(n);
  }
  let work = 0;
  for (const n of nodes) work += workOf(n);
  return { leaves, nodes, work };
}

function weight(e: Expense): number {
  return e.leaves.size * ACCESS + e.work;
}

/** Stores what would be computed several times at a higher price than writing and reading it again. */
function storeShared(
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
      u === v || ((nodes.has(u) || operationOf(u).kernel?.kind === "view") &&
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
      if (operationOf(u).kernel?.kind === "reduce" || (stored.has(u) && isFusable(u))) own.add(u);
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

/** One group per stored value that is computed. */
function plainGroups(context: Context): Group[] {
  const groups: Group[] = [];
  for (const v of context.program.nodes) {
    const rule = operationOf(v).kernel;
    if (rule === undefined) {
      throw new TypeError(`The operation "${v.op}" has no kernel rule.`);
    }
    if (rule.kind === "decompose") {
      throw new TypeError(`The operation "${v.op}" must be decomposed before fusion.`);
    }
    if (rule.kind === "reduce") groups.push({ kind: "reduce", node: v, outputs: [v], reads: [] });
    if (rule.kind === "kernel") groups.push({ kind: "kernel", node: v, outputs: [v], reads: [] });
    if (rule.kind === "concat") groups.push({ kind: "concat", node: v, outputs: [v], reads: [] });
    if (isFusable(v) && context.stored.has(v) && !isUploaded(v)) {
      groups.push({ kind: "elementwise", node: null, outputs: [v], reads: [] });
    }
  }
  return groups.map((g) => withReads(g, context));
}

function withReads(group: Group, context: Context): Group {
  const leaf = leafOf(context, group);
  const reads = new Map<string, Value>();
  const visit = (v: Value, from?: Value) =>
    visitLeaves(v, {
      leaf,
      stop: from,
      visit: (x) => reads.set(leaf(x)?.key ?? `${x.id}`, x),
    });
  const { node } = group;
  if (group.kind === "elementwise") { for (const o of group.outputs) visit(o); }
  else {
    if (group.kind === "reduce") visit(node!.inputs[0]);
    else {for (const i of node!.inputs) {
        reads.set(`${context.views.get(i)!.root.id}+${context.views.get(i)!.offset}`, i);
      }}
    if (group.outputs[0] !== node) visit(group.outputs[0], node!);
  }
  return { ...group, reads: [...reads.values()] };
}

/** Calls `visit` with each leaf of an expression, and how it is indexed (null where that is not affine). */
function visitLeaves(
  root: Value,
  options: {
    readonly leaf: (v: Value) => Leaf | null;
    /** Taken as a leaf, but not visited. */
    readonly stop?: Value;
    readonly visit: (v: Value, map: IndexMap | null) => void;
    readonly visitStop?: (map: IndexMap | null) => void;
  },
): void {
  const seen = new Map<Value, Set<string>>();
  const go = (v: Value, map: IndexMap | null) => {
    const key = map ? JSON.stringify(map) : "";
    const known = seen.get(v) ?? new Set();
    seen.set(v, known);
    if (known.has(key)) return;
    known.add(key);
    if (v === options.stop) return options.visitStop?.(map);
    if (options.leaf(v)) return options.visit(v, map);
    const rule = operationOf(v).kernel;
    if (rule?.kind === "view") return go(v.inputs[0], map);
    for (const x of v.inputs) {
      const inner = rule?.kind === "layout"
        ? rule.map(v)
        : sizeOf(x.shape) === sizeOf(v.shape)
        ? null
        : broadcastMap(x.shape, v.shape);
      go(x, inner === null || isIdentity(inner) ? map : map && composeMaps(map, inner));
    }
  };
  go(root, identityMap(sizeOf(root.shape)));
}

/** Moves elementwise groups that read one kernel's result and nothing else reads into that kernel. */
function withEpilogues(groups: readonly Group[], context: Context): Group[] {
  const { views, stored } = context;
  const readers = new Map<Value, Set<Group>>();
  for (const g of groups) {
    for (const r of g.reads) {
      const { root } = views.get(r)!;
      readers.set(root, (readers.get(root) ?? new Set()).add(g));
    }
  }
  const asked = new Set([...context.program.outputs.values()].map((v) => views.get(v)!.root));
  const taken = new Map<Group, Group>();
  const gone = new Set<Group>();
  for (const g of [...groups].reverse()) {
    const node = g.node;
    if (!node || asked.has(node) || !acceptsEpilogue(node)) continue;
    const isKernel = g.kind === "kernel";
    const [reader, ...others] = readers.get(node) ?? [];
    if (!reader || others.length || reader.kind !== "elementwise" || taken.has(reader)) continue;
    const [root] = reader.outputs;
    if (root.dtype !== "f32" || sizeOf(root.shape) !== sizeOf(node.shape)) continue;
    const extra = reader.reads.filter((r) => views.get(r)!.root !== node).length;
    if (extra > (isKernel ? EPILOGUE_LEAVES : context.storageBuffers - 2 - g.reads.length)) {
      continue;
    }
    let inPlace = true;
    stored.delete(node);
    visitLeaves(root, {
      leaf: leafOf(context, reader),
      stop: node,
      visit: () => {},
      visitStop: (map) => inPlace &&= map !== null && isIdentity(map),
    });
    if (!inPlace) {
      stored.add(node);
      continue;
    }
    taken.set(reader, g);
    gone.add(g);
  }
  return groups.filter((g) => !gone.has(g)).map((g) => {
    const kernel = taken.get(g);
    return kernel ? withReads({ ...kernel, outputs: g.outputs }, context) : g;
  });
}

/** Joins elementwise groups of one size that read the same buffers, or each other's results, into kernels with several outputs. */
function mergeNeighbours(groups: readonly Group[], context: Context): Group[] {
  const { views, stored } = context;
  const result: Group[] = [];
  /** Position in `result` of the group that computes a value. */
  const home = new Map<Value, number>();
  const asked = new Set([...context.program.outputs.values()].map((v) => views.get(v)!.root));
  /** For what replaces a state: the state. */
  const replaced = new Map<Value, Value>();
  for (const [state, output] of context.program.updates) {
    const { root } = views.get(context.program.outputs.get(output)!)!;
    replaced.set(root, context.program.inputs.get(state)!);
  }
  for (const g of groups) {
    const into = g.kind === "elementwise" ? partner(g) : -1;
    if (into >= 0) {
      result[into] = withReads({
        ...result[into],
        outputs: [...result[into].outputs, ...g.outputs],
      }, context);
    } else result.push(g);
    for (const o of g.outputs) home.set(o, into >= 0 ? into : result.length - 1);
  }
  // What only its own group reads needs no buffer.
  const read = new Set<Value>(asked);
  for (const g of result) for (const r of g.reads) read.add(views.get(r)!.root);
  return result.map((g) => {
    const outputs = g.outputs.filter((o) => read.has(o));
    if (outputs.length === g.outputs.length || outputs.length === 0) return g;
    for (const o of g.outputs) if (!read.has(o)) stored.delete(o);
    return withReads({ ...g, outputs }, context);
  });

  function partner(g: Group): number {
    const roots = g.reads.map((r) => views.get(r)!.root);
    const [first] = g.outputs;
    for (let i = result.length - 1; i >= Math.max(0, result.length - NEAR); i--) {
      const other = result[i];
      if (other.kind !== "elementwise") continue;
      if (sizeOf(other.outputs[0].shape) !== sizeOf(first.shape)) continue;
      // A new state must not be written before all have read the old one.
      const old = g.outputs.map((o) => replaced.get(o)).filter((o) => o);
      const later = result.slice(i + 1).flatMap((r) => r.reads.map((x) => views.get(x)!.root));
      if (old.some((o) => later.includes(o!))) continue;
      // Everything that is read must be there when the other group runs.
      if (!roots.every((r) => (home.get(r) ?? -1) <= i)) continue;
      const known = new Set(other.reads.map((r) => views.get(r)!.root));
      if (!roots.some((r) => known.has(r) || other.outputs.includes(r))) continue;
      const joined = withReads({ ...other, outputs: [...other.outputs, ...g.outputs] }, context);
      if (joined.reads.length + joined.outputs.length > Math.min(context.storageBuffers, 16)) {
        continue;
      }
      return i;
    }
    return -1;
  }
}
