/**
 * What configs say about rotary position embeddings.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { type OptionRule, POSITIVE, rule } from "../options.ts";
import { configReader } from "./config-reader.ts";

/** The `rope_scaling` (or newer `rope_parameters`) entry of a config, with the base frequency. */
export interface RopeConfig {
  /** Kind of scaling. */
  readonly type: string;
  /** Base of the frequencies. */
  readonly theta: number;
  /** Size of what is rotated. */
  readonly size: number;
  /** Whether what turns together lies side by side, not half of the size apart. */
  readonly interleaved?: boolean;
  /** The other entries as they stand in the config. */
  readonly parameters: Readonly<Record<string, unknown>>;
  /** `max_position_embeddings`. */
  readonly maxPositions: number;
  /**
   * The length that a model was trained on before it was stretched, for the kinds that ask for it;
   * `maxPositions` for the others, whatever the config says, as in transformers.
   */
  readonly original: number;
}

/** What is above nothing, and not more than all. */
const PART: OptionRule = rule(
  "a number above 0, and 1 at most",
  (x) => typeof x === "number" && x > 0 && x <= 1,
);

/** The kinds of scaling that know an original length beside `max_position_embeddings`. */
const FROM_ORIGINAL: readonly unknown[] = ["llama3", "yarn", "longrope"];

/** Reads the rotary settings of a config in its older and newer spelling. */
export function ropeConfig(config: ModelConfig, headSize: number): RopeConfig {
  const parameters = config.rope_scaling ?? config.rope_parameters ?? {};
  if (typeof parameters !== "object" || Array.isArray(parameters)) {
    throw new ConfigError(
      "ROPE_PARAMETER",
      `rope_scaling (or rope_parameters) must be an object or null; found ${
        JSON.stringify(parameters)
      }.`,
    );
  }
  // What stands in the inner object comes first.
  const { number } = configReader({ ...config, ...parameters });
  const { rope_type, type: older } = parameters as Readonly<Record<string, unknown>>;
  const type = String(rope_type ?? older ?? "default");
  const maxPositions = configReader(config).size("max_position_embeddings", 2048);
  // Here what stands outside comes first.
  const outside = configReader({ ...parameters, ...config });
  const part = number("partial_rotary_factor", 1, PART);
  const size = Math.floor(headSize * part);
  if (size === 0 || size % 2) {
    throw new ConfigError(
      "ROPE_PARAMETER",
      `The partial_rotary_factor ${part} of heads of size ${headSize} has ${size} of each rotated, and should have an even number.`,
      { part, headSize },
    );
  }
  return {
    type,
    theta: number("rope_theta", 10000, POSITIVE),
    size,
    parameters: parameters as Readonly<Record<string, unknown>>,
    maxPositions,
    original: FROM_ORIGINAL.includes(type)
      ? outside.size("original_max_position_embeddings", maxPositions)
      : maxPositions,
  };
}

/** How many positions a rotation can tell apart: those of its config, or more by what stretches them. */
export function ropeLimit({ type, parameters, maxPositions, original }: RopeConfig): number {
  const { factor } = parameters;
  const stretch = type !== "default" && typeof factor === "number" ? factor : 1;
  return Math.max(maxPositions, Math.floor(original * stretch));
}
