/**
 * CodeGen (Nijkamp et al., 2022, arXiv:2203.13474): GPT-J with fused projections.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { rule } from "../options.ts";
import { configReader } from "./config-reader.ts";
import { readGptj } from "./gptj.ts";
import { languageHead } from "./heads.ts";
import { transformerRules } from "./transformer.ts";

/** In how many groups heads lie, one for each of the chips that it was trained on. */
const GROUPS = 4;

const HEADS = rule(`a multiple of ${GROUPS}`, (heads) => Number(heads) % GROUPS === 0);

/** CodeGen. */
export const codegen: Architecture = {
  ...transformerRules((config) => {
    configReader(config).number("n_head", undefined, HEADS);
    const c = readGptj(config);
    return {
      ...c,
      layer: (i) => ({
        ...c.layer(i),
        attention: { at: "attn", qkv: "qkv_proj", output: "out_proj" },
      }),
      fused: { groups: GROUPS, order: ["q", "v", "k"] },
    };
  }),
  name: "codegen",
  modelTypes: ["codegen"],
  bodyPath: "transformer",
  heads: { CAUSAL_LM: languageHead({ tied: false, bias: true }), FEATURE_EXTRACTION: null },
  ignoredKeys: /\.attn\.(causal_mask|embed_positions)$/,
};
