/**
 * What an optimizer is: a pair of functions over vectors, as in optax. Adding one is a file with a
 * function that makes it, and a line in the battery of tests.
 *
 * @module
 */
import type { ModelGraph } from "../model/model-graph.ts";
import type { Site } from "../model/site.ts";
import type { Value } from "../ops/value.ts";
import { type Packing, packLeaves } from "./packing.ts";

/** A trained tensor as optimizers see it, to choose its group. */
export interface TrainedLeaf {
  /** Its name, as in `trainableLeaves`: `a0.model.layers.0.self_attn.q_proj.lora_B`. */
  readonly name: string;
  /** Its shape. */
  readonly shape: readonly number[];
  /** The module that it belongs to, where it belongs to one. */
  readonly site?: Site;
}

/** Where a run stands when a step is taken. */
export interface OptimizerTime {
  /** The step, from 1. */
  readonly step: number;
  /** Peak learning rate. */
  readonly learningRate: number;
  /** What the schedule multiplies learning rates by at this step. */
  readonly factor: number;
}

/** Values of one group's vectors, all of one length. */
export interface OptimizerStep {
  /** What is trained. */
  readonly parameters: Value;
  /** Its gradient. */
  readonly gradient: Value;
  /** What {@link Optimizer.init} asked for. */
  readonly state: Readonly<Record<string, Value>>;
  /** A number of {@link Optimizer.rates} [1], by name. */
  rate(name: string): Value;
}

/** A rule by which gradients change parameters. */
export interface Optimizer {
  /** Its name. */
  readonly name: string;
  /**
   * The group of a leaf: leaves of one group lie in one vector and share their rates. Without it
   * there is one group, `""`.
   */
  group?(leaf: TrainedLeaf): string;
  /** The group of leaves that stay as they are, and count for no gradient's norm. */
  readonly frozen?: string;
  /**
   * Traces other gradients for some leaves, from those of the whole step after clipping, which it
   * then gets.
   */
  precondition?(step: {
    readonly leaves: ReadonlyMap<string, Value>;
    readonly gradients: ReadonlyMap<string, Value>;
  }): ReadonlyMap<string, Value>;
  /**
   * What it keeps of a vector of parameters from step to step, each under a name and of the shape
   * given here; zero at first. What has the vector's own shape, `[size]`, is kept in checkpoints by
   * leaf.
   */
  init(size: number): Readonly<Record<string, readonly number[]>>;
  /** The numbers that change from step to step. They reach programs as data and compile nothing. */
  rates(time: OptimizerTime, group: string): Readonly<Record<string, number>>;
  /** Traces one update of a group's vectors; gives all of them anew. */
  update(step: OptimizerStep): Pick<OptimizerStep, "parameters" | "state">;
}

/**
 * The pairs of matrices of LoRA among leaves, by the part of their names that they share.
 *
 * @param ends What their names end with.
 */
export function loraPairs<T>(
  leaves: ReadonlyMap<string, T>,
  ends: readonly (readonly [a: string, b: string])[] = [[".lora_A", ".lora_B"]],
): readonly { readonly a: string; readonly b: string }[] {
  return [...leaves.keys()].flatMap((a) =>
    ends.flatMap(([endA, endB]) => {
      const b = a.slice(0, -endA.length) + endB;
      return a.endsWith(endA) && leaves.has(b) ? [{ a, b }] : [];
    })
  );
}

/** Lays out what a model trains, in the groups of an optimizer. */
export function packFor(
  optimizer: Optimizer,
  model: ModelGraph,
  leaves: ReadonlyMap<string, { readonly shape: readonly number[] }>,
): Packing {
  return packLeaves(
    leaves,
    (name, shape) => optimizer.group?.({ name, shape, site: siteOfLeaf(model, name) }) ?? "",
  );
}

/** The module of a leaf: that of the longest part of its name that is a path of one. */
function siteOfLeaf(model: ModelGraph, name: string): Site | undefined {
  let path = name.replace(/^a\d+\.((param|tokens)\.)?/, "");
  for (let end = path.length; end > 0; end = path.lastIndexOf(".")) {
    path = path.slice(0, end);
    const site = model.sites.get(path);
    if (site) return site;
  }
  return undefined;
}
