/**
 * What functions that measure where a LoRA begins take: a config with their initialization.
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import type { LoraConfig } from "../../methods/lora/lora-config.ts";

/** Codes of errors by initialization. */
const CODES = { corda: "CONFIG_CORDA", eva: "CONFIG_EVA", lora_ga: "CONFIG_LORA_GA" } as const;

/**
 * The config of a LoRA that begins so.
 *
 * @param config Any complete config.
 * @param asked The initialization, and the name of the function that was called.
 * @throws {ConfigError} for another config.
 */
export function checkBegins(
  config: PeftConfig,
  asked: { readonly with: keyof typeof CODES; readonly of: string },
): LoraConfig {
  const { initLoraWeights: init } = config as LoraConfig, { with: name, of } = asked;
  if (config.peftType === "LORA" && init === name) return config as LoraConfig;
  throw new ConfigError(
    CODES[name],
    `${of} is for configs with initLoraWeights "${name}"; this one is of the method ${config.peftType}${
      config.peftType === "LORA" ? `, with initLoraWeights ${JSON.stringify(init)}` : ""
    }. Make it with loraConfig({ initLoraWeights: "${name}" }).`,
    { peftType: config.peftType, initLoraWeights: init },
  );
}
