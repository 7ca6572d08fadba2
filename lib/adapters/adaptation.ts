/**
 * How the active adapters of a model take part in a forward pass.
 *
 * @module
 */
import type { Adaptation, ForwardPass } from "../model/forward-pass.ts";
import type { Site } from "../model/site.ts";
import { lookup } from "../model/weight.ts";
import { add, equal, mul, sub } from "../ops/binary.ts";
import { cast } from "../ops/cast.ts";
import { constant } from "../ops/constant.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { parameterLeaf, tokensLeaf, traceLeaves } from "./leaves.ts";
import { activeAdapters, type PeftModel } from "./peft-model.ts";

/** The part that a model's active adapters take; `undefined` where none does. */
export function adaptationOf(model: PeftModel): Adaptation | undefined {
  const active = activeAdapters(model);
  if (active.length === 0) return undefined;
  return {
    site: (pass, site, x, base) =>
      active.reduce((before, adapter, position) => {
        const leaves = traceLeaves(pass, { adapter, position, site });
        const multiplier = model.multipliers.get(adapter.name) ?? 1;
        const result = leaves
          ? adapter.method.forward({
            pass,
            site,
            config: adapter.config,
            leaves,
            multiplier,
            x,
            result: before,
            base,
          })
          : before;
        const tokens = tokensLeaf(adapter, site.path, position);
        if (!tokens) return result;
        const rows = pass.leaf(tokens.leaf, tokens.tensor);
        return replaceTokens(pass, { site, x, result, rows, indices: tokens.indices });
      }, base(x)),
    parameter(name) {
      // Where several active adapters train the same parameter, the last one's stands, as it does
      // in PEFT.
      for (let position = active.length - 1; position >= 0; position--) {
        const found = parameterLeaf(active[position], name, position);
        if (found) return found;
      }
      return undefined;
    },
  };
}

/**
 * Puts trained rows in the place of an embedding's own, or of the rows of a head that is tied to
 * it.
 */
function replaceTokens(
  pass: ForwardPass,
  at: {
    readonly site: Site;
    readonly x: Value;
    readonly result: Value;
    readonly rows: Value;
    readonly indices: readonly number[];
  },
): Value {
  const { site, x, result, rows } = at;
  const n = at.indices.length;
  const indices = constant(pass.graph, at.indices, { dtype: "i32" });
  if (site.kind === "embedding") {
    const hits = cast(equal(reshape(x, [...x.shape, 1]), indices), "f32");
    const kept = sub(1, sum(hits, { axes: [-1], keepDims: true }));
    return add(mul(result, kept), matmul(hits, rows));
  }
  const old = lookup(pass.weight(`${site.path}.weight`), indices);
  const change = matmul(x, sub(rows, old), { transposeB: true });
  const columns = equal(
    iota(pass.graph, [n, site.outFeatures], { axis: 1 }),
    reshape(indices, [n, 1]),
  );
  return add(result, matmul(change, cast(columns, "f32")));
}
