/**
 * The special tokens that configs name.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import { show } from "../options.ts";
import type { ModelConfig } from "./architecture.ts";

const NAMES = ["bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"];

/**
 * Refuses ids of special tokens that are no whole numbers, by which a text would never end. Some
 * configs have -1 for a token that there is not, and ids that the vocabulary does not reach.
 *
 * @param config A `config.json` or `generation_config.json`.
 * @throws {ConfigError} `MODEL_CONFIG`.
 */
export function checkTokenIds(config: ModelConfig): void {
  for (const name of NAMES) {
    const ids: readonly unknown[] = [config[name] ?? []].flat();
    const bad = ids.find((id) => !Number.isSafeInteger(id) || id as number < -1);
    if (bad === undefined) continue;
    throw new ConfigError(
      "MODEL_CONFIG",
      `The config of a model needs whole numbers from -1 on, or null, for ${
        JSON.stringify(name)
      }; found ${show(bad)}.`,
      { name, value: bad },
    );
  }
}
