/**
 * Merging task vectors, element by element: task arithmetic, TIES (Yadav et al., 2023,
 * arXiv:2306.01708) and DARE (Yu et al., 2023, arXiv:2311.03099).
 *
 * @module
 */
import type { MajoritySignMethod } from "./combine.ts";
import type { TorchRandom } from "./torch-random.ts";

/** How task vectors are merged: what is pruned, and whether signs are elected. */
export type MergeKind = "linear" | "ties" | "dare_linear" | "dare_ties" | "magnitude_prune";

/** What {@link mergeTasks} needs to know. */
export interface MergeTasksOptions {
  /** How to merge. */
  readonly kind: MergeKind;
  /** A weight for each task vector, applied after pruning and election. */
  readonly weights: readonly number[];
  /** Share of the elements that pruning leaves; 1 leaves all. */
  readonly density: number;
  /** How signs are elected. */
  readonly majoritySignMethod: MajoritySignMethod;
  /** Random numbers for DARE. */
  readonly random: TorchRandom;
}

/**
 * Merges task vectors.
 *
 * @param tasks Vectors of one length.
 * @param options How.
 * @returns A vector of that length.
 */
export function mergeTasks(
  tasks: readonly Float64Array[],
  options: MergeTasksOptions,
): Float64Array {
  const { kind, weights, density, random, majoritySignMethod } = options;
  const pruned = tasks.map((task) =>
    kind === "linear" || density >= 1
      ? task
      : kind.startsWith("dare")
      ? dropAndRescale(task, { density, random })
      : keepLargest(task, density)
  );
  return kind.endsWith("ties")
    ? disjointMerge(pruned, { weights, signs: electSigns(pruned, majoritySignMethod) })
    : weightedSum(pruned, weights);
}

/** Task arithmetic (Ilharco et al., 2022, arXiv:2212.04089): the weighted sum. */
export function weightedSum(
  tasks: readonly Float64Array[],
  weights: readonly number[],
): Float64Array {
  const out = new Float64Array(tasks[0].length);
  tasks.forEach((task, t) => {
    for (let i = 0; i < out.length; i++) out[i] += weights[t] * task[i];
  });
  return out;
}

/**
 * The trim step of TIES: the largest elements by magnitude stay, the others become zero.
 *
 * @param density Share that stays, rounded down; of equal magnitudes the first ones stay.
 */
export function keepLargest(task: Float64Array, density: number): Float64Array {
  const count = Math.min(Math.trunc(density * task.length), task.length);
  const out = new Float64Array(task.length);
  if (count === 0) return out;
  const magnitudes = task.map(Math.abs);
  const limit = magnitudes.slice().sort()[task.length - count];
  let atLimit = count;
  for (let i = 0; i < task.length; i++) {
    if (magnitudes[i] > limit) atLimit--;
  }
  for (let i = 0; i < task.length; i++) {
    if (magnitudes[i] > limit || (magnitudes[i] === limit && atLimit-- > 0)) out[i] = task[i];
  }
  return out;
}

/**
 * DARE: each element is dropped with probability 1 − density, and what stays is divided by the
 * density, so that the expectation stays. A density of 0 leaves nothing.
 */
export function dropAndRescale(
  task: Float64Array,
  options: { readonly density: number; readonly random: TorchRandom },
): Float64Array {
  const { density, random } = options;
  const kept = random.bernoulli(task.length, density);
  return density > 0
    ? task.map((x, i) => kept[i] ? x / density : 0)
    : new Float64Array(task.length);
}

/**
 * The elect step of TIES: for each element the sign, 1 or −1, of what the tasks add up to
 * (`"total"`), or of most of them (`"frequency"`); 1 where neither wins.
 */
export function electSigns(
  tasks: readonly Float64Array[],
  method: MajoritySignMethod,
): Int8Array {
  const votes = new Float64Array(tasks[0].length);
  for (const task of tasks) {
    for (let i = 0; i < votes.length; i++) {
      votes[i] += method === "total" ? task[i] : Math.sign(task[i]);
    }
  }
  return Int8Array.from(votes, (vote) => vote >= 0 ? 1 : -1);
}

/**
 * The merge step of TIES: for each element the mean, over the tasks that have the elected sign, of
 * the weighted elements.
 */
export function disjointMerge(
  tasks: readonly Float64Array[],
  options: { readonly weights: readonly number[]; readonly signs: Int8Array },
): Float64Array {
  const { weights, signs } = options;
  const out = new Float64Array(signs.length);
  const counts = new Uint32Array(signs.length);
  tasks.forEach((task, t) => {
    for (let i = 0; i < out.length; i++) {
      if (Math.sign(task[i]) !== signs[i]) continue;
      out[i] += weights[t] * task[i];
      counts[i]++;
    }
  });
  return out.map((sum, i) => sum / Math.max(counts[i], 1));
}
