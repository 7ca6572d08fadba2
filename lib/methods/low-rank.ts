/**
 * Deltas that are the product of two matrices.
 *
 * @module
 */
import type { LowRank } from "../model/weight.ts";
import { gather } from "../ops/gather.ts";
import { matmul } from "../ops/matmul.ts";
import type { PeftConfig } from "./config.ts";
import type { SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";

/**
 * Adds left [out, r] · right [r, in] to the weight of a linear layer or a Conv1D, or left [in, r] ·
 * right [r, out] to an embedding.
 */
export function lowRankRule<C extends PeftConfig>(
  factors: (trace: SiteTrace<C>) => LowRank,
  dropout?: (config: C) => number,
): DeltaRule<C> {
  return {
    dropout,
    delta(trace) {
      const { left, right } = factors(trace);
      return trace.site.kind === "conv1d"
        ? matmul(right, left, { transposeA: true, transposeB: true })
        : matmul(left, right);
    },
    apply(trace, x) {
      const { left, right } = factors(trace);
      if (trace.site.kind === "embedding") return matmul(gather(left, x), right);
      return matmul(matmul(x, right, { transposeB: true }), left, { transposeB: true });
    },
  };
}
