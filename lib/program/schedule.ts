/**
 * The order in which kernels run.
 *
 * @module
 */
import { bytesOf } from "../ops/shapes.ts";
import type { Value } from "../ops/value.ts";
import type { Group } from "./groups.ts";
import type { Program } from "./program.ts";
import type { View } from "./views.ts";

/**
 * Puts groups that make less than they read where their last input is made: weight gradients right after the activations' gradients, so that neither waits for
 * the end of the backward pass. Groups that replace a state come after those that read its old value. All others keep their order.
 *
 * @param groups In an order in which each comes after those that it reads from.
 * @param context The program that they are made of, and where its values lie.
 */
export function schedule(
  groups: readonly Group[],
  context: { readonly program: Program; readonly views: ReadonlyMap<Value, View> },
): Group[] {
  const { program, views } = context;
  const maker = new Map<Value, Group>();
  for (const g of groups) for (const o of g.outputs) maker.set(o, g);
  const before = new Map<Group, Set<Group>>(groups.map((g) => [g, new Set()]));
  const after = new Map<Group, Set<Group>>(groups.map((g) => [g, new Set()]));
  const readers = new Map<Value, Group[]>();
  const link = (first: Group, second: Group) => {
    before.get(second)!.add(first);
    after.get(first)!.add(second);
  };
  for (const g of groups) {
    for (const r of g.reads) {
      const { root } = views.get(r)!;
      const made = maker.get(root);
      if (made) link(made, g);
      readers.set(root, [...(readers.get(root) ?? []), g]);
    }
  }
  for (const [state, output] of program.updates) {
    const writer = maker.get(views.get(program.outputs.get(output)!)!.root);
    if (!writer) continue;
    const later = reachable(writer, after);
    for (const r of readers.get(program.inputs.get(state)!) ?? []) {
      if (!later.has(r)) link(r, writer);
    }
  }

  const shrinks = (g: Group) => {
    const read = new Set(g.reads.map((r) => views.get(r)!.root).filter((r) => maker.has(r)));
    const bytes = (values: Iterable<Value>) => [...values].reduce((n, v) => n + bytesOf(v), 0);
    return bytes(g.outputs) < bytes(read);
  };
  const done = new Set<Group>();
  const isReady = (g: Group) => !done.has(g) && [...before.get(g)!].every((b) => done.has(b));
  /** Runs a group, and then those that this lets shrink what is alive. */
  const run = (first: Group) => {
    const queue = [first];
    for (const g of queue) {
      if (done.has(g)) continue;
      done.add(g);
      queue.push(...[...after.get(g)!].filter((f) => isReady(f) && shrinks(f)));
    }
  };
  for (const g of groups) {
    const stack = [g];
    while (stack.length) {
      const top = stack[stack.length - 1];
      const missing = [...before.get(top)!].filter((b) => !done.has(b));
      if (missing.length) stack.push(...missing.reverse());
      else {
        stack.pop();
        if (!done.has(top)) run(top);
      }
    }
  }
  return [...done];
}

function reachable(from: Group, after: ReadonlyMap<Group, ReadonlySet<Group>>): Set<Group> {
  const found = new Set([from]);
  for (const g of found) for (const next of after.get(g)!) found.add(next);
  return found;
}
