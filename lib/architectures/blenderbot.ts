/**
 * Blenderbot (Roller et al., 2020, arXiv:2004.13637): mBART without norms of embeddings.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { bartRules } from "./bart.ts";
import { configReader } from "./config-reader.ts";
import { normsBefore } from "./mbart.ts";

/** Blenderbot. */
export const blenderbot: Architecture = {
  ...bartRules((c, config) => ({
    names: { ...c.names, norm: undefined, last: "layer_norm" },
    layer: (i) => normsBefore(c.layer(i)),
    positions: { rows: configReader(config).size("max_position_embeddings", 128) },
  })),
  name: "blenderbot",
  modelTypes: ["blenderbot"],
};
