/**
 * mBART (Liu et al., 2020, arXiv:2001.08210): BART with norms before what they normalise.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { bartRules } from "./bart.ts";
import type { LayerNames } from "./transformer-layer.ts";

/** The same norms before attention and feed forward, not behind. */
export function normsBefore(names: LayerNames): LayerNames {
  const moved = Object.entries(names).map((
    [role, name],
  ) => [role.replace("after", "before"), name]);
  return Object.fromEntries(moved);
}

/** mBART. */
export const mbart: Architecture = {
  ...bartRules((c) => ({
    names: { ...c.names, last: "layer_norm" },
    layer: (i) => normsBefore(c.layer(i)),
  })),
  name: "mbart",
  modelTypes: ["mbart"],
};
