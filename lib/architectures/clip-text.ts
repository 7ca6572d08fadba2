/**
 * The text tower of CLIP (Radford et al., 2021, arXiv:2103.00020).
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { TEXT_INPUTS } from "../model/batch-input.ts";
import type { Modules } from "../model/modules.ts";
import { add, equal, greater, mul, sub } from "../ops/elementwise.ts";
import { cast } from "../ops/cast.ts";
import { gather } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { reduceMax } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { readTower, type Tower, towerAlone, towerConfig } from "./clip-tower.ts";
import { configReader } from "./config-reader.ts";
import { transformer } from "./transformer.ts";

/** Of ViT-B/32. */
const USUAL = {
  vocab_size: 49408,
  hidden_size: 512,
  intermediate_size: 2048,
  num_hidden_layers: 12,
  num_attention_heads: 8,
  eos_token_id: 49407,
};

/** Declares the tower, of a config of its own or of both towers. */
export function textTower(m: Modules, given: ModelConfig): Tower {
  const config = towerConfig(given, { name: "text", usual: USUAL });
  const { size, number } = configReader(config), eos = number("eos_token_id");
  const text = transformer(m, {
    ...readTower(config),
    vocab: size("vocab_size"),
    names: {
      embedding: "embeddings.token_embedding",
      positions: "embeddings.position_embedding",
      layers: "encoder.layers",
      last: "final_layer_norm",
    },
    positions: { rows: size("max_position_embeddings", 77) },
  });
  return {
    ...text,
    run(pass, { ids, positions }) {
      const lastHiddenState = text.run(pass, { ids, positions });
      const [b, t, d] = lastHiddenState.shape;
      const rows = add(firstEnds(ids, eos), mul(iota(ids.graph, [b], { axis: 0 }), t));
      const poolerOutput = gather(reshape(lastHiddenState, [b * t, d]), rows);
      return { lastHiddenState, poolerOutput };
    },
  };
}

/**
 * Place of the first end of each text, `i32` [B], or 0 where there is none. Configs of the first
 * release say 2, and mean the largest id.
 */
function firstEnds(ids: Value, eos: number): Value {
  const t = ids.shape[1], back = sub(t, iota(ids.graph, ids.shape, { axis: 1 }));
  const largest = reduceMax(ids, { axes: [1], keepDims: true });
  const ends = mul(cast(equal(ids, eos === 2 ? largest : eos), "i32"), back);
  const first = reduceMax(ends, { axes: [1] });
  return mul(sub(t, first), cast(greater(first, 0), "i32"));
}

/** The text tower of CLIP. */
export const clipText: Architecture = {
  name: "clip text",
  modelTypes: ["clip_text_model"],
  reads: () => TEXT_INPUTS,
  ...towerAlone({
    at: "text_model",
    projection: "text_projection",
    output: "textEmbeds",
    tower: textTower,
  }),
};
