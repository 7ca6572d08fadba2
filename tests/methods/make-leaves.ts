/**
 * What a method's leaves start from, for the tests of methods.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import type { InitSource, LeafRule, Leaves } from "../../lib/methods/method.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";

/** Leaves as a method declares them. */
export type LeafRules = Readonly<Record<string, LeafRule>>;

/** Makes leaves in their order, as an adapter does, and checks that they have the shapes declared. */
export async function makeLeaves(rules: LeafRules, from: InitSource): Promise<Leaves> {
  const made: Record<string, Tensor> = {};
  for (const [leaf, { shape, kind, shares, init }] of Object.entries(rules)) {
    if (kind === "derived" || shares) continue;
    const contents = await init!(from);
    if (contents instanceof Float32Array) assertEquals(contents.length, sizeOf(shape), leaf);
    else assertEquals(contents.shape, shape, leaf);
    made[leaf] = contents instanceof Float32Array ? tensor(contents, { shape }) : contents;
  }
  return made;
}

/** Those of some leaves that are of a kind. */
export function ofKind(rules: LeafRules, leaves: Leaves, kind: LeafRule["kind"]): Leaves {
  return Object.fromEntries(
    Object.entries(leaves).filter(([leaf]) => (rules[leaf].kind ?? "trained") === kind),
  );
}
