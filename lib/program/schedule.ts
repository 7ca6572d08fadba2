/**
 * The order in which kernels run.
 *
 * @module
 */
import { storageBytes } from "../../kernels/wgsl.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Value } from "../ops/value.ts";
import type { Group } from "./fuse.ts";
import type { View } from "./views.ts";

/**
 * Puts groups that make less than they read where their last input is made: weight gradients right after the activations' gradients, so that neither waits for
 * the end of the backward pass. All others keep their order.
 *
 * @param groups In an order in which each comes after those that it reads from.
 * @param views Where values lie.
 */
export function schedule(
  groups: readonly Group[],
  views: ReadonlyMap<Value, View>,
): Group[] {
  const maker = new Map<Value, Group>();
  for (const g of groups) for (const o of g.outputs) maker.set(o, g);
  const waiting = new Map<Group, number>();
  const followers = new Map<Group, Group[]>();
  for (const g of groups) {
    const before = new Set(g.reads.map((r) => maker.get(views.get(r)!.root)).filter((m) => m));
    waiting.set(g, before.size);
    for (const m of before) followers.set(m!, [...(followers.get(m!) ?? []), g]);
  }
  const shrinks = (g: Group) => {
    const read = new Set(g.reads.map((r) => views.get(r)!.root).filter((r) => maker.has(r)));
    const bytes = (values: Iterable<Value>) =>
      [...values].reduce((n, v) => n + storageBytes(v.dtype, sizeOf(v.shape)), 0);
    return bytes(g.outputs) < bytes(read);
  };
  const order: Group[] = [];
  const done = new Set<Group>();
  const run = (first: Group) => {
    const queue = [first];
    for (const g of queue) {
      if (done.has(g)) continue;
      done.add(g);
      order.push(g);
      for (const f of followers.get(g) ?? []) {
        const left = waiting.get(f)! - 1;
        waiting.set(f, left);
        if (left === 0 && shrinks(f)) queue.push(f);
      }
    }
  };
  for (const g of groups) run(g);
  return order;
}
