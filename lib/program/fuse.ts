/**
 * Fusion: which nodes of a program become one kernel, and which values therefore need a buffer.
 *
 * @module
 */
import { isIdentity } from "../../kernels/index-map.ts";
import { operationOf } from "../ops/mod.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { type Expense, joinExpenses, MAX_WORK, storeShared, weightOf } from "./expense.ts";
import {
  acceptsEpilogue,
  type Group,
  isFusable,
  leafOf,
  type Storage,
  visitLeaves,
} from "./groups.ts";
import type { Program } from "./program.ts";
import { schedule } from "./schedule.ts";
import { type View, viewsOf } from "./views.ts";

/** A program as groups. */
export interface FusedProgram extends Storage {
  /** What was fused. */
  readonly program: Program;
  /** The groups, each after those that it reads from. */
  readonly groups: readonly Group[];
  /** Constants that need a buffer. */
  readonly constants: readonly Value[];
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
/** How many groups apart two groups are that may still be merged, so that no value lives much longer for it. */
const NEAR = 16;

/** Splits a program into kernels. Reductions must run over neighbouring axes (see `lower`). */
export function fuse(program: Program, options: FuseOptions = {}): FusedProgram {
  const storageBuffers = options.storageBuffers ?? 8;
  const maxLeaves = Math.min(storageBuffers - 2, 16);
  const views = viewsOf(program, options.alignment ?? 256);
  const users = usersOf(program);
  const rootOf = (v: Value) => views.get(v)!.root;

  const stored = mustStore(program, views);
  // A view never has a buffer: where what it looks at is part of an expression, so is the view.
  const isFused = (v: Value) => isFusable(v) && !stored.has(v) && rootOf(v) === v;

  const expenses = new Map<Value, Expense>();
  const expenseOf = (v: Value): Expense => {
    const { root, offset } = views.get(v)!;
    if (!isFused(root)) {
      return { leaves: new Map([[`${root.id}+${offset}`, root]]), nodes: new Set(), work: 0 };
    }
    if (operationOf(v).kernel.kind === "view") return expenses.get(v.inputs[0])!;
    return joinExpenses(v, v.inputs.map((i) => expenses.get(i)!));
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
        .sort((a, b) => weightOf(expenses.get(b)!) - weightOf(expenses.get(a)!))[0];
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

interface Context {
  readonly program: Program;
  readonly views: ReadonlyMap<Value, View>;
  readonly stored: Set<Value>;
  readonly users: ReadonlyMap<Value, readonly Value[]>;
  readonly storageBuffers: number;
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
    const kind = operationOf(v).kernel.kind;
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

/** One group per stored value that is computed. */
function plainGroups(context: Context): Group[] {
  const groups: Group[] = [];
  for (const v of context.program.nodes) {
    const { kind } = operationOf(v).kernel;
    if (kind === "decompose") {
      throw new TypeError(`The operation "${v.op}" must be decomposed before fusion.`);
    }
    if (kind === "reduce" || kind === "kernel" || kind === "concat") {
      groups.push({ kind, node: v, outputs: [v], reads: [] });
    } else if (isFusable(v) && context.stored.has(v) && !isUploaded(v)) {
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
    const free = isKernel
      ? Math.min(EPILOGUE_LEAVES, context.storageBuffers - 1 - node.inputs.length)
      : context.storageBuffers - 2 - g.reads.length;
    if (extra > free) continue;
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
