/**
 * Adaption prompt: LLaMA-Adapter (Zhang et al., 2023, arXiv:2303.16199). In the upper layers queries
 * attend to a few trained vectors as well, apart from the tokens, and what comes of it is added to the
 * output of attention by a gate that begins closed.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError, UnsupportedError } from "../errors.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { attention } from "../ops/attention.ts";
import { add, mul } from "../ops/elementwise.ts";
import { broadcast } from "../ops/broadcast.ts";
import { constant } from "../ops/constant.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { commonFields, type ConfigSchema, field, parseConfig, type PeftConfig } from "./config.ts";
import type { PeftMethod } from "./method.ts";
import type { AttentionRule } from "./site-rule.ts";

/** An adaption prompt config with every field, as {@link adaptionPromptConfig} makes it. */
export interface AdaptionPromptConfig extends PeftConfig {
  /** `"ADAPTION_PROMPT"`. */
  readonly peftType: "ADAPTION_PROMPT";
  /** Name of the attention modules; `null` (default) for the architecture's own. */
  readonly targetModules: string | null;
  /** Number of vectors in each layer; must be given. */
  readonly adapterLen: number | null;
  /** How many layers, counted from the last, have them; 0 for all. Must be given. */
  readonly adapterLayers: number | null;
}

/** What PEFT calls attention modules, by `model_type`; it knows no other models. */
const ATTENTION: Readonly<Record<string, string>> = {
  gpt2: "attn",
  llama: "self_attn",
  mistral: "self_attn",
};

const schema: ConfigSchema<AdaptionPromptConfig> = {
  peftType: "ADAPTION_PROMPT",
  isIdentityAtInit: true,
  example: { adapterLen: 4, adapterLayers: 2 },
  fields: {
    ...commonFields("ADAPTION_PROMPT"),
    targetModules: field.text(),
    adapterLen: z.int().min(1).nullable().default(null).describe("a whole number above 0"),
    adapterLayers: z.int().nullable().default(null).describe("a whole number"),
  },
  fit: (config, model) => ({
    ...config,
    targetModules: config.targetModules ?? attentionName(model),
  }),
  select: upperLayers,
};

function attentionName({ config }: ModelGraph): string {
  const type = config.model_type as string;
  if (Object.hasOwn(ATTENTION, type)) return ATTENTION[type];
  throw new UnsupportedError(
    "ADAPTION_MODEL",
    `Unsupported model type for adaption prompt: ${JSON.stringify(type)}; supported are ${
      Object.keys(ATTENTION).join(", ")
    }.`,
    { modelType: type },
  );
}

function upperLayers(config: AdaptionPromptConfig, model: ModelGraph): readonly string[] {
  const { targetModules, adapterLen, adapterLayers } = config;
  attentionName(model);
  if (adapterLen === null || adapterLayers === null) {
    const name = adapterLen === null ? "adapterLen" : "adapterLayers";
    throw new ConfigError(
      "CONFIG_ADAPTION",
      `An ADAPTION_PROMPT config must say ${
        adapterLen === null ? "how many vectors each layer has" : "how many layers have them"
      }: set ${name}.`,
      { field: name },
    );
  }
  const found = [...model.sites.values()].filter(({ kind, path }) =>
    kind === "attention" && path.endsWith(`.${targetModules}`)
  ).map(({ path }) => path);
  if (found.length >= adapterLayers) return found.slice(-adapterLayers);
  throw new ConfigError(
    "CONFIG_ADAPTION",
    `Config specifies more adapter layers '${adapterLayers}' than the model has '${found.length}': attention modules named ${
      JSON.stringify(targetModules)
    }.`,
    { adapterLayers, layers: found.length },
  );
}

/**
 * A complete adaption prompt config (Zhang et al., 2023, arXiv:2303.16199).
 *
 * @param config The fields to set, `adapterLen` and `adapterLayers` among them.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example
 * ```ts
 * import { adaptionPromptConfig } from "@graft/peft";
 * console.log(adaptionPromptConfig({ adapterLen: 10, adapterLayers: 30 }).targetModules); // null
 * ```
 */
export function adaptionPromptConfig(
  config: Partial<AdaptionPromptConfig> = {},
): AdaptionPromptConfig {
  return parseConfig(schema, config);
}

const rule: AttentionRule<AdaptionPromptConfig> = {
  attention({ pass, leaves }, { q, keyValues, project }, output) {
    const { graph } = q, [batch, , heads, size] = q.shape;
    const { k, v } = keyValues(leaves.adaption_prompt);
    const [, length, keyHeads] = k.shape;
    const every = (x: Value) => broadcast(x, [batch, length, keyHeads, size]);
    const ones = (width: number) => constant(graph, 1, { shape: [batch, width], dtype: "i32" });
    const attended = mul(
      attention(q, {
        k: every(k),
        v: every(v),
        querySegments: ones(q.shape[1]),
        keySegments: ones(length),
        offset: constant(graph, 0, { shape: [1], dtype: "i32" }),
        causal: false,
        window: null,
        scale: 1 / Math.sqrt(size),
      }),
      leaves.adaption_gate,
    );
    // PEFT's GPT-2 adds it without the output projection, and adapters are trained so.
    const isPlain = pass.model.config.model_type === "gpt2";
    return add(
      output,
      isPlain ? reshape(attended, [...q.shape.slice(0, 2), heads * size]) : project(attended),
    );
  },
};

/** The method `ADAPTION_PROMPT`. */
export const adaptionPrompt: PeftMethod<AdaptionPromptConfig> = {
  name: "adaption_prompt",
  prefix: "adaption_",
  config: schema,
  leaves: {
    site({ config: { adapterLen }, site: { inFeatures } }) {
      const shape = [1, adapterLen!, inFeatures];
      return {
        adaption_prompt: {
          shape,
          init: ({ random }) => random.normal(adapterLen! * inFeatures),
        },
        adaption_gate: { shape: [1], init: () => new Float32Array(1) },
      };
    },
  },
  sites: () => ({ attention: rule }),
};
