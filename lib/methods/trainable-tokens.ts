/**
 * Trainable tokens: some rows of an embedding are trained and nothing else, as for tokens that were
 * added to a vocabulary. A head that is tied to the embedding follows.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import { inputEmbedding, parameterOf } from "../model/model-graph.ts";
import type { Site } from "../model/site.ts";
import { rowsOf } from "../tensor/rows.ts";
import { commonFields, type ConfigSchema, field, parseConfig, type PeftConfig } from "./config.ts";
import type { PeftMethod } from "./method.ts";
import type { ReplaceRule } from "./site-rule.ts";

/** A config of trainable tokens with every field, as {@link trainableTokensConfig} makes it. */
export interface TrainableTokensConfig extends PeftConfig {
  /** `"TRAINABLE_TOKENS"`. */
  readonly peftType: "TRAINABLE_TOKENS";
  /** Which rows are trained, such as the ids of new tokens. */
  readonly tokenIndices: readonly number[];
  /**
   * Which modules: a list of full paths or of their endings, or a regular expression for the whole
   * path; `null` (default) for the input embedding. Rows can be trained of embeddings and linear
   * layers.
   */
  readonly targetModules: readonly string[] | string | null;
  /** Whether rows begin as the base's own; random ones of variance 1 otherwise. */
  readonly initWeights: boolean;
}

const schema: ConfigSchema<TrainableTokensConfig> = {
  peftType: "TRAINABLE_TOKENS",
  keepsTargets: true,
  followsTies: true,
  isIdentityAtInit: true,
  example: { tokenIndices: [5, 41, 3] },
  fields: {
    ...commonFields("TRAINABLE_TOKENS"),
    tokenIndices: z.array(z.int().min(0)).default([]).describe("a list of token ids"),
    targetModules: field.patterns(),
    initWeights: field.boolean(true),
  },
  fit: (config, model) => ({
    ...config,
    targetModules: config.targetModules ?? inputEmbedding(model)?.path ?? null,
  }),
};

/**
 * A complete config of trainable tokens.
 *
 * @param config The fields to set, `tokenIndices` among them; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example
 * ```ts
 * import { trainableTokensConfig } from "@graft/peft";
 * console.log(trainableTokensConfig({ tokenIndices: [7, 8] }).initWeights); // true
 * ```
 */
export function trainableTokensConfig(
  config: Partial<TrainableTokensConfig> = {},
): TrainableTokensConfig {
  return parseConfig(schema, config);
}

const LEAF = "trainable_tokens_delta";

/** The method `TRAINABLE_TOKENS`. */
export const trainableTokens: PeftMethod<TrainableTokensConfig> = {
  name: "trainable_tokens",
  config: schema,
  leaves: {
    site({ config: { tokenIndices, initWeights }, model, site }) {
      checkIndices(tokenIndices, site);
      const width = site.kind === "embedding" ? site.outFeatures : site.inFeatures;
      return {
        [LEAF]: {
          shape: [tokenIndices.length, width],
          tiedTo: LEAF,
          tiedAsIs: true,
          init: ({ random }) =>
            initWeights
              ? rowsOf(parameterOf(model, `${site.path}.weight`), tokenIndices)
              : random.normal(tokenIndices.length * width),
        },
      };
    },
  },
  sites({ tokenIndices }) {
    const rule: ReplaceRule = { replaces: { weight: LEAF }, rows: tokenIndices };
    return { embedding: rule, linear: rule };
  },
};

function checkIndices(indices: readonly number[], site: Site): void {
  const rows = site.kind === "embedding" ? site.inFeatures : site.outFeatures;
  const outside = indices.find((index) => index >= rows);
  if (indices.length > 0 && outside === undefined) return;
  throw new ConfigError(
    "TOKENS_RANGE",
    outside === undefined
      ? "A TRAINABLE_TOKENS config must say which rows are trained: set tokenIndices."
      : `tokenIndices has ${outside}, but ${site.path} has the rows 0 to ${
        rows - 1
      }. For new tokens, resize the base before (resizeTokenEmbeddings).`,
    { path: site.path, index: outside, rows },
  );
}
