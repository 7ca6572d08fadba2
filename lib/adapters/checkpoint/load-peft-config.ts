/**
 * `loadPeftConfig`: the config of an adapter, without its weights.
 *
 * @module
 */
import type { PeftConfig } from "../../methods/config.ts";
import { REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import { fromPeftJson } from "../../methods/peft-json.ts";
import { checkOptions, type OptionRules } from "../../options.ts";
import { ADAPTER_SOURCE_RULES, type AdapterSource, readAdapterConfig } from "./read-adapter.ts";

/** How to find a config. */
export interface LoadPeftConfigOptions extends AdapterSource, RegistryOptions {}

/** What each option must be. */
export const PEFT_CONFIG_OPTIONS: OptionRules<LoadPeftConfigOptions> = {
  ...ADAPTER_SOURCE_RULES,
  registry: REGISTRY,
};

/**
 * Reads the config of an adapter (PEFT's `PeftConfig.from_pretrained`), for example to learn which
 * base it is for. Only `adapter_config.json` is read. For a config that is in memory, see
 * `fromPeftJson`; `toPeftJson` writes one.
 *
 * @param source A folder, or the id of an adapter on the hub.
 * @param options Where in the source, and how to reach the hub.
 * @throws {FileError} where the file is missing or damaged, or the hub cannot be reached.
 * @throws {ConfigError} for a config that is not valid.
 * @throws {UnsupportedError} for a method that is not registered.
 * @throws {ValueError} for an option that cannot be.
 *
 * @example
 * ```ts
 * import { getPeftModel, loadPeftConfig, loraConfig, savePretrained, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const folder = await Deno.makeTempDir();
 * await savePretrained(getPeftModel(base, loraConfig({ taskType: "CAUSAL_LM" })), folder);
 * const { peftType, taskType } = await loadPeftConfig(folder);
 * console.log(peftType, taskType); // LORA CAUSAL_LM
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function loadPeftConfig(
  source: string | URL,
  options: LoadPeftConfigOptions = {},
): Promise<PeftConfig> {
  checkOptions(options, PEFT_CONFIG_OPTIONS, { code: "LOAD_OPTION", of: "loadPeftConfig" });
  const { registry } = options;
  return fromPeftJson(await readAdapterConfig(source, options), { registry });
}
