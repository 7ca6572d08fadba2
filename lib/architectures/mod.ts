/**
 * The registry of architectures.
 *
 * @module
 */
import { ConfigError, UnsupportedError } from "../errors.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { show } from "../options.ts";
import * as all from "./all.ts";

/** All architectures that the library brings. */
export const ARCHITECTURES: readonly Architecture[] = Object.values(all);

/**
 * The architecture for a config.
 *
 * @throws {UnsupportedError} where no architecture serves its `model_type`.
 * @throws {ConfigError} for what is no config.
 *
 * @example
 * ```ts
 * import { architectureOf } from "@graft/peft";
 * console.log(architectureOf({ model_type: "mistral" }).name); // llama
 * ```
 */
export function architectureOf(
  config: ModelConfig,
  architectures: readonly Architecture[] = ARCHITECTURES,
): Architecture {
  if (typeof config !== "object" || config === null) {
    throw new ConfigError(
      "MODEL_CONFIG",
      `The contents of a config.json are needed; found ${show(config)}.`,
    );
  }
  const found = architectures.find((a) => a.modelTypes.includes(config.model_type as string));
  if (!found) {
    throw new UnsupportedError(
      "ARCHITECTURE_UNKNOWN",
      `No architecture serves the model_type ${
        JSON.stringify(config.model_type) ?? "(config.json has none)"
      }; known are ${architectures.flatMap((a) => a.modelTypes).sort().join(", ")}. ` +
        "Describe it in an Architecture and give that as the option `architectures: [...ARCHITECTURES, yours]`; " +
        "docs/extending.md shows one, and how a model of your own does without (defineModel).",
    );
  }
  return found;
}
