/**
 * LN tuning (Zhao et al., 2023, arXiv:2312.11420): the norms of a model are trained and nothing else.
 * A trained copy of each module's parameters stands in their place.
 *
 * @module
 */
import { parameterOf } from "../model/model-graph.ts";
import { parameterShapes } from "../model/site.ts";
import { castTensor } from "../tensor/convert.ts";
import {
  commonFields,
  type ConfigSchema,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import type { PeftMethod } from "./method.ts";
import type { ReplaceRule } from "./site-rule.ts";

/** An LN tuning config with every field, as {@link lnTuningConfig} makes it. */
export interface LnTuningConfig
  extends PeftConfig, Required<Pick<TargetConfig, "excludeModules" | "modulesToSave">> {
  /** `"LN_TUNING"`. */
  readonly peftType: "LN_TUNING";
  /**
   * Which modules: a list of full paths or of their endings, a regular expression for the whole
   * path, or `"all-linear"`; `null` (default) for the norms of the architecture. Linear layers and
   * embeddings can be trained whole, too.
   */
  readonly targetModules: readonly string[] | string | null;
}

const NORMS: readonly string[] = ["input_layernorm", "post_attention_layernorm", "norm"];
const FUSED_NORMS: readonly string[] = ["input_layernorm", "post_attention_layernorm", "ln_f"];
const SANDWICH: readonly string[] = [
  "input_layernorm",
  "post_attention_layernorm",
  "pre_feedforward_layernorm",
  "post_feedforward_layernorm",
  "norm",
];

/** Which norms are trained by default, by `model_type`: PEFT's own choice. */
const NORM_TARGETS: Readonly<Record<string, readonly string[]>> = {
  bart: ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
  "blip-2": ["layernorm", "LayerNorm", "final_layer_norm", "self_attn_layer_norm"],
  bloom: FUSED_NORMS,
  falcon: FUSED_NORMS,
  gemma: NORMS,
  gemma2: SANDWICH,
  gemma3_text: SANDWICH,
  gpt2: ["ln_1", "ln_2", "ln_f"],
  gptj: ["ln_1", "ln_f"],
  llama: NORMS,
  llava: ["multi_modal_projector", ...NORMS, "embed_tokens", "lm_head"],
  mistral: NORMS,
  mt5: ["layer_norm", "final_layer_norm"],
  phi: ["input_layernorm", "final_layernorm"],
  qwen2: ["post_attention_layernorm"],
  qwen3: ["post_attention_layernorm"],
  t5: ["layer_norm", "final_layer_norm"],
};

const { targetModules, excludeModules, modulesToSave } = targetFields();

const schema: ConfigSchema<LnTuningConfig> = {
  peftType: "LN_TUNING",
  targets: NORM_TARGETS,
  isIdentityAtInit: true,
  fields: { ...commonFields("LN_TUNING"), targetModules, excludeModules, modulesToSave },
};

/**
 * A complete LN tuning config (Zhao et al., 2023, arXiv:2312.11420).
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example
 * ```ts
 * import { lnTuningConfig } from "@graft/peft";
 * console.log(lnTuningConfig({ targetModules: ["norm"] }).targetModules); // ["norm"]
 * ```
 */
export function lnTuningConfig(config: Partial<LnTuningConfig> = {}): LnTuningConfig {
  return parseConfig(schema, config);
}

const rule: ReplaceRule = { replaces: { weight: "weight", bias: "bias" } };

/** The method `LN_TUNING`. */
export const lnTuning: PeftMethod<LnTuningConfig> = {
  name: "ln_tuning",
  config: schema,
  leaves: {
    site: ({ model, site }) =>
      Object.fromEntries(
        Object.entries(parameterShapes(site)).map(([leaf, shape]) => [leaf, {
          shape,
          key: `ln_tuning_layers.${leaf}`,
          init: () => castTensor(parameterOf(model, `${site.path}.${leaf}`), "f32"),
        }]),
      ),
  },
  sites: () => ({ norm: rule, linear: rule, conv1d: rule, conv: rule, embedding: rule }),
};
