/**
 * A model's definition, run in a pass.
 *
 * @module
 */
import type { Value } from "../ops/value.ts";
import type { PassInputs, PassOutputs } from "./architecture.ts";
import type { ForwardPass } from "./forward-pass.ts";
import { declareModel } from "./model-graph.ts";
import { type Modules, modulesAt } from "./modules.ts";

/** Traces a whole model with its head: `lastHiddenState` [B, T, D] and, of most, `logits`. */
export function runModel(pass: ForwardPass, inputs: PassInputs): PassOutputs {
  return declareModel(modulesOf(pass), pass.model)(pass, inputs);
}

/** The modules of a pass; one that is run twice on the same value runs once. */
function modulesOf(pass: ForwardPass): Modules {
  return modulesAt("", {
    site({ path }) {
      const known = new Map<Value, Value>();
      return (x) => {
        const y = known.get(x) ?? pass.site(path, x);
        known.set(x, y);
        return y;
      };
    },
    parameter: (name) => () => pass.adaptedWeight(name),
    attention: ({ path }) => (call) => pass.attention(path, call),
    layerOrder: pass.model.layerOrder,
  });
}
