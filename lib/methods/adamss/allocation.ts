/**
 * Adaptive subspace allocation: which subspaces training leaves as they are.
 *
 * @module
 */
import type { Site } from "../../model/site.ts";
import { abs, add, mul, sub } from "../../ops/elementwise.ts";
import type { Value } from "../../ops/value.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import type { MethodTraining, StepTime, TrainedAdapter } from "../training-rule.ts";
import { type AdamssConfig, sizesOf } from "./adamss-config.ts";
import { rowsByCluster } from "./clusters.ts";

/** Leaves the subspaces whose parameters matter least as they are, more and more of them. */
export function allocation(
  { config, sites, nameOf, leavesAt }: TrainedAdapter<AdamssConfig>,
): MethodTraining<AdamssConfig> | undefined {
  if (!config.useAsa) return undefined;
  const { initWarmup, finalWarmup, maskInterval, asaTargetSubspaces: target } = config;
  const shapes = (site: Site) => {
    const { count, rank, r } = sizesOf(config, site);
    return { adamss_A: [count * rank, r], adamss_B: [site.outFeatures, rank] };
  };
  const state: Record<string, Tensor> = {};
  for (const site of sites) {
    for (const [leaf, [rows, columns]] of Object.entries(shapes(site))) {
      const filled = (value: number, shape: readonly number[]) =>
        tensor(new Float32Array(shape.reduce((n, d) => n * d, 1)).fill(value), { shape });
      state[`mean.${site.path}.${leaf}`] = filled(0, [rows, columns]);
      state[`change.${site.path}.${leaf}`] = filled(0, [rows, columns]);
      state[`kept.${site.path}.${leaf}`] = filled(0, [rows, columns]);
      state[`active.${site.path}.${leaf}`] = filled(1, [rows, 1]);
    }
  }
  /** PEFT's callback counts steps from 0. */
  const isMeasured = ({ step }: StepTime) => step > initWarmup && step - 1 <= finalWarmup;
  return {
    state,
    inputs: {
      measured: {
        shape: [1],
        dtype: "f32",
        at: (time) => tensor(Float32Array.of(Number(isMeasured(time)))),
      },
    },
    gradient: ({ gradients, state }) =>
      new Map(sites.flatMap((site) =>
        Object.keys(shapes(site)).map((leaf) => {
          const name = nameOf(leaf, site);
          return [name, mul(gradients.get(name)!, state[`active.${site.path}.${leaf}`])] as const;
        })
      )),
    afterStep({ leaves, gradients, state, inputs: { measured } }) {
      const next: Record<string, Value> = {}, changed = new Map<string, Value>();
      const moved = (old: Value, value: Value, beta: number) =>
        add(old, mul(sub(value, old), mul(measured, 1 - beta)));
      for (const site of sites) {
        for (const leaf of Object.keys(shapes(site))) {
          const name = nameOf(leaf, site), key = `${site.path}.${leaf}`;
          const active = state[`active.${key}`], old = state[`kept.${key}`];
          const value = add(mul(leaves.get(name)!, active), mul(old, sub(1, active)));
          const importance = abs(mul(value, gradients.get(name)!)), mean = state[`mean.${key}`];
          const change = abs(sub(importance, mean));
          next[`mean.${key}`] = moved(mean, importance, config.asaImportanceBeta);
          next[`change.${key}`] = moved(state[`change.${key}`], change, config.asaUncertaintyBeta);
          next[`kept.${key}`] = value;
          changed.set(name, value);
        }
      }
      return { state: next, leaves: changed };
    },
    async betweenSteps(time, run) {
      const step = time.step - 1;
      if (!isMeasured(time) || step % maskInterval !== 0) return;
      const total = sites.reduce((sum, site) => sum + sizesOf(config, site).count, 0);
      const left = 1 - (step - initWarmup) / (finalWarmup - initWarmup);
      const wanted = Math.trunc(target + (total - target) * left ** config.asaScheduleExponent);
      await run.writeState(await allocate(await run.state(), wanted));
    },
  };

  /** The state after a choice of so many subspaces, of those that are still trained. */
  async function allocate(
    state: Readonly<Record<string, Tensor>>,
    wanted: number,
  ): Promise<Readonly<Record<string, Tensor>>> {
    const read = async (key: string) => await toFloat32(state[key]);
    const all = await Promise.all(sites.map(async (site) => {
      const { count, rank, r } = sizesOf(config, site), leaves = leavesAt(site);
      const byCluster = rowsByCluster(await toFloat32(leaves.adamss_clusters));
      const ranks = await toFloat32(leaves.adamss_ranks);
      const products = async (leaf: string) => {
        const change = await read(`change.${site.path}.${leaf}`);
        return (await read(`mean.${site.path}.${leaf}`)).map((x, i) => x * change[i]);
      };
      const [a, b] = [await products("adamss_A"), await products("adamss_B")];
      const active = await read(`active.${site.path}.adamss_A`);
      return Array.from({ length: count }, (_, k) => {
        const own = a.subarray(k * rank * r, (k + 1) * rank * r), rows = byCluster[k];
        const other = rows.flatMap((row) => [...b.subarray(row * rank, (row + 1) * rank)]);
        const total = (values: ArrayLike<number>) => Array.from(values).reduce((x, y) => x + y, 0);
        const score = total(own) / (ranks[k] * r) + total(other) / (ranks[k] * rows.length);
        return { site, k, rows, score: Math.fround(score), active: active[k * rank] > 0 };
      });
    }));
    const trained = all.flat().filter(({ active }) => active);
    const scores = trained.map(({ score }) => score).sort((x, y) => y - x);
    const threshold = wanted >= trained.length ? -Infinity : scores[wanted - 1];
    const next: Record<string, Tensor> = {};
    for (const list of all) {
      const { site } = list[0], { rank } = sizesOf(config, site), { outFeatures } = site;
      const masks = {
        adamss_A: new Float32Array(list.length * rank),
        adamss_B: new Float32Array(outFeatures),
      };
      for (const { k, rows, score, active } of list) {
        if (!active || score <= threshold) continue;
        masks.adamss_A.fill(1, k * rank, (k + 1) * rank);
        for (const row of rows) masks.adamss_B[row] = 1;
      }
      for (const [leaf, mask] of Object.entries(masks)) {
        const key = `${site.path}.${leaf}`, { shape } = state[`mean.${key}`];
        next[`active.${key}`] = tensor(mask, { shape: [mask.length, 1] });
        for (const part of ["mean", "change"]) {
          next[`${part}.${key}`] = tensor(new Float32Array(shape[0] * shape[1]), { shape });
        }
      }
    }
    return next;
  }
}
