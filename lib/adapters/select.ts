/**
 * Which adapters take part, and how strongly.
 *
 * @module
 */
import { nearestNames, ValueError } from "../errors.ts";
import { show } from "../options.ts";
import { type Adapter, checkPeft, type PeftModel } from "./peft-model.ts";

/**
 * The model with these adapters active, in this order. Which adapters are trainable stays as it is.
 *
 * @param model A model with adapters.
 * @param adapters One name, or several to apply together.
 * @throws {ValueError} for a name that does not exist or is given twice, and for two adapters that
 * replace the same parameter of the base (saved modules, biases, token rows), as there is no
 * telling which of the two counts.
 *
 * @example
 * ```ts
 * import { addAdapter, createModel, getPeftModel, loraConfig, setAdapter } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = addAdapter(getPeftModel(base, loraConfig()), "style", loraConfig({ r: 4 }));
 * const both = setAdapter(model, ["style", "default"]);
 * console.log(both.active); // ["style", "default"]
 * ```
 */
export function setAdapter(model: PeftModel, adapters: string | readonly string[]): PeftModel {
  checkPeft(model);
  const active = Array.isArray(adapters) ? [...adapters] : [adapters as string];
  const chosen = active.map((name) => adapterOf(model, name));
  const twice = active.find((name, i) => active.indexOf(name) !== i);
  if (active.length === 0 || twice !== undefined) {
    throw new ValueError(
      "ADAPTER_LIST",
      twice === undefined
        ? "setAdapter needs at least one name. Use disableAdapters to switch all of them off."
        : `setAdapter got ${JSON.stringify(twice)} twice.`,
    );
  }
  checkTogether(chosen);
  return { ...model, active };
}

/**
 * The model with its active adapters switched on again.
 *
 * @throws {ValueError} where the model has no adapters.
 *
 * @example
 * ```ts
 * import { createModel, getPeftModel, loraConfig } from "@graft/peft";
 * import { disableAdapters, enableAdapters } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const off = disableAdapters(getPeftModel(base, loraConfig()));
 * console.log(off.enabled, enableAdapters(off).enabled); // false true
 * ```
 */
export function enableAdapters(model: PeftModel): PeftModel {
  checkPeft(model);
  return { ...model, enabled: true };
}

/**
 * The model with all adapters switched off: it gives exactly what its base gives.
 *
 * @throws {ValueError} where the model has no adapters.
 *
 * @example
 * ```ts
 * import { createModel, disableAdapters, forward, getPeftModel, loraConfig } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const { logits } = await forward(disableAdapters(model), { inputIds: [[1, 2, 3]] });
 * const { logits: same } = await forward(base, { inputIds: [[1, 2, 3]] });
 * console.log((await logits.data())[0] === (await same.data())[0]); // true
 * ```
 */
export function disableAdapters(model: PeftModel): PeftModel {
  checkPeft(model);
  return { ...model, enabled: false };
}

/**
 * The model without an adapter. If it was active, the others that were stay active.
 *
 * @throws {ValueError} where there is none of this name.
 *
 * @example
 * ```ts
 * import { addAdapter, createModel, deleteAdapter, getPeftModel, loraConfig } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const two = addAdapter(getPeftModel(base, loraConfig()), "style", loraConfig({ r: 4 }));
 * console.log([...deleteAdapter(two, "default").adapters.keys()]); // ["style"]
 * ```
 */
export function deleteAdapter(model: PeftModel, adapterName: string): PeftModel {
  adapterOf(model, adapterName);
  const without = (names: readonly string[]) => names.filter((name) => name !== adapterName);
  return {
    ...model,
    adapters: new Map([...model.adapters].filter(([name]) => name !== adapterName)),
    multipliers: new Map([...model.multipliers].filter(([name]) => name !== adapterName)),
    active: without(model.active),
    trainable: without(model.trainable),
  };
}

/**
 * Runs something with the active adapters' own scaling multiplied by a factor.
 *
 * @param model A model with adapters; it stays as it is.
 * @param multiplier The factor: one for all active adapters, or one by name. 1 changes nothing, 0
 * leaves only what the adapters replace (saved modules, biases, token rows).
 * @param fn Gets the scaled model.
 * @returns What `fn` gave, and the model that was given.
 * @throws {ValueError} for a factor that is no finite number, and for an unknown name.
 *
 * @example
 * ```ts
 * import { createModel, forward, getPeftModel, loraConfig, withAdapterScale } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const { value, model: restored } = await withAdapterScale(
 *   model,
 *   0.5,
 *   (half) => forward(half, { inputIds: [[1, 2, 3]] }),
 * );
 * console.log(value.logits.shape, restored === model); // [1, 3, 96] true
 * ```
 */
export async function withAdapterScale<T>(
  model: PeftModel,
  multiplier: number | Readonly<Record<string, number>>,
  fn: (scaled: PeftModel) => T | Promise<T>,
): Promise<{ readonly value: T; readonly model: PeftModel }> {
  checkPeft(model);
  const factors = typeof multiplier === "object" && multiplier !== null
    ? Object.entries(multiplier)
    : model.active.map((name): [string, number] => [name, multiplier]);
  const multipliers = new Map(model.multipliers);
  for (const [name, factor] of factors) {
    adapterOf(model, name);
    if (!Number.isFinite(factor)) {
      throw new ValueError(
        "ADAPTER_SCALE",
        `An adapter's scale must be multiplied by a finite number, not ${show(factor)}.`,
      );
    }
    multipliers.set(name, (multipliers.get(name) ?? 1) * factor);
  }
  if (typeof fn !== "function") {
    throw new ValueError(
      "ADAPTER_SCALE",
      `withAdapterScale needs a function that gets the scaled model; found ${show(fn)}.`,
    );
  }
  return { value: await fn({ ...model, multipliers }), model };
}

/**
 * An adapter by name.
 *
 * @throws {ValueError} where the model has none of this name.
 */
export function adapterOf(model: PeftModel, name: string): Adapter {
  checkPeft(model);
  const adapter = model.adapters.get(name);
  if (adapter) return adapter;
  const names = [...model.adapters.keys()];
  const near = nearestNames(String(name), names, 1);
  throw new ValueError(
    "ADAPTER_UNKNOWN",
    `The model has no adapter named ${JSON.stringify(name) ?? name}${
      near.length ? ` (nearest: ${near[0]})` : ""
    }; it has ${names.join(", ") || "none"}.`,
    { name, names },
  );
}

function checkTogether(adapters: readonly Adapter[]): void {
  const owners = new Map<string, string>();
  for (const { name, parameters, replacements, tokens } of adapters) {
    const replaced = [
      ...parameters.keys(),
      ...replacements?.keys() ?? [],
      ...[...tokens.keys()].map((path) => `rows of ${path}`),
    ];
    for (const what of replaced) {
      const other = owners.get(what);
      if (other !== undefined && other !== name) {
        throw new ValueError(
          "ADAPTERS_CLASH",
          `The adapters ${JSON.stringify(other)} and ${
            JSON.stringify(name)
          } both replace ${what}, ` +
            `so they cannot be active together. Activate one of them.`,
          { adapters: [other, name], what },
        );
      }
      owners.set(what, name);
    }
  }
}
