/**
 * Combining adapters of methods whose leaves can be averaged, such as IA³.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { tensor } from "../tensor/tensor.ts";
import type { CombinePart, CombineRule } from "./combine.ts";
import type { PeftConfig } from "./config.ts";

/** What a method says to have its leaves averaged. */
export interface AverageOptions<C extends PeftConfig> {
  /** The value of a leaf that changes nothing: what an adapter that lacks a module counts as. */
  readonly neutral: number;
  /** See {@link CombineRule.patterns}. */
  readonly patterns?: CombineRule<C>["patterns"];
}

/**
 * A rule by which each leaf is the weighted sum of the adapters' own (`linear`), which is their
 * average where weights add up to 1; or by which the combined adapter is as far from changing
 * nothing as all of them together (`sum`).
 *
 * An adapter that does not adapt a module counts there with the value that changes nothing. In PEFT
 * it counts as zero, so that a module that only some of the adapters have loses strength.
 *
 * @param options See {@link AverageOptions}.
 *
 * @example
 * ```ts
 * import { averageCombine } from "@graft/peft";
 * console.log(averageCombine({ neutral: 1 }).types); // ["linear"]
 * ```
 */
export function averageCombine<C extends PeftConfig>(options: AverageOptions<C>): CombineRule<C> {
  const { neutral, patterns } = options;
  return {
    patterns,
    types: ["linear"],
    exact: "sum",
    config(parts) {
      checkShapes(parts);
      return parts[0].config;
    },
    async combine({ site, parts, options: { combinationType } }) {
      const held = parts.map((part) => part.leavesAt(site.path));
      const shapes = new Map(
        held.flatMap((leaves) =>
          Object.entries(leaves ?? {}).map(([leaf, { shape }]) => [leaf, shape] as const)
        ),
      );
      const weights = parts.map(({ weight }) => weight);
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      // Σ w·x with x written as neutral + (x − neutral).
      const start = combinationType === "sum" ? neutral : total * neutral;
      const combined = [...shapes].map(async ([leaf, shape]) => {
        const values = await Promise.all(
          held.map((leaves) => leaves?.[leaf] && toFloat32(leaves[leaf])),
        );
        const size = shape.reduce((n, d) => n * d, 1);
        const out = new Float64Array(size).fill(start);
        values.forEach((own, p) => {
          if (own) { for (let i = 0; i < size; i++) out[i] += weights[p] * (own[i] - neutral); }
        });
        return [leaf, tensor(Float32Array.from(out), { shape })] as const;
      });
      return Object.fromEntries(await Promise.all(combined));
    },
  };
}

/** Refuses adapters that act on different sides of one module. */
function checkShapes<C extends PeftConfig>(parts: readonly CombinePart<C>[]): void {
  const known = new Map<string, { readonly adapter: string; readonly shape: readonly number[] }>();
  for (const { adapter, sites, leavesAt } of parts) {
    for (const { path } of sites) {
      for (const [leaf, { shape }] of Object.entries(leavesAt(path)!)) {
        const other = known.get(`${path}.${leaf}`);
        known.set(`${path}.${leaf}`, other ?? { adapter, shape });
        if (!other || other.shape.join() === shape.join()) continue;
        throw new ValueError(
          "COMBINE_SHAPES",
          `${JSON.stringify(other.adapter)} and ${
            JSON.stringify(adapter)
          } do not adapt ${path} alike: ` +
            `${leaf} has shape [${other.shape}] in one and [${shape}] in the other. Combine adapters whose configs agree on it.`,
          { path, leaf, adapters: [other.adapter, adapter] },
        );
      }
    }
  }
}
