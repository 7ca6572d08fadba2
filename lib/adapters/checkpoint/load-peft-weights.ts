/**
 * `loadPeftWeights`: the tensors of an adapter as its file has them.
 *
 * @module
 */
import { checkOptions } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { type KeyMapping, mapKeys } from "./key-mapping.ts";
import { ADAPTER_SOURCE_RULES, type AdapterSource, readAdapter } from "./read-adapter.ts";

/** How to find weights. */
export interface LoadPeftWeightsOptions extends AdapterSource {
  /** As `loadAdapter` has it. */
  readonly keyMapping?: KeyMapping;
}

/**
 * The tensors of an adapter under PEFT's keys, to look at or to give to `setAdapterStateDict`; they
 * stay in the file until they are read. `loadAdapter` puts an adapter onto a model in one step.
 *
 * @param source A folder, or the id of an adapter on the hub.
 * @param options Where in the source, other names for keys, and how to reach the hub.
 * @throws {FileError} where a file is missing or damaged, for weights in a Python pickle, and where
 * the hub cannot be reached.
 * @throws {ConfigError} for an expression in `keyMapping` that is not valid.
 * @throws {CheckpointError} where `keyMapping` makes two keys the same.
 * @throws {ValueError} for an option that cannot be.
 *
 * @example
 * ```ts
 * import { getPeftModel, loadPeftWeights, loraConfig, savePretrained, tinyModel } from "@graft/peft";
 * import { setAdapterStateDict } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const folder = await Deno.makeTempDir();
 * const model = getPeftModel(base, loraConfig({ r: 4 }));
 * await savePretrained(model, folder);
 * const tensors = await loadPeftWeights(folder);
 * const { report } = await setAdapterStateDict(model, tensors);
 * console.log(tensors.size, report.applied.length); // 8 8
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function loadPeftWeights(
  source: string | URL,
  options: LoadPeftWeightsOptions = {},
): Promise<ReadonlyMap<string, Tensor>> {
  checkOptions(options, {
    ...ADAPTER_SOURCE_RULES,
    keyMapping: null,
  }, { code: "LOAD_OPTION", of: "loadPeftWeights" });
  const { tensors } = await readAdapter(source, options);
  return mapKeys(tensors, options.keyMapping ?? {}).tensors;
}
