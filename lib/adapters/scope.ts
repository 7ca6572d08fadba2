/**
 * Scoped helpers: each runs a function with a derived model and hands the given model back.
 *
 * As models are values, there is nothing to restore: the given model is the same before, during and
 * after the call, also where the function throws, and calls can be nested or run at one time.
 *
 * @module
 */
import { isScalable } from "../methods/site-rule.ts";
import { ArgumentTypeError, ValueError } from "../errors.ts";
import { checkValue, FINITE, show } from "../options.ts";
import { checkPeft, type PeftModel } from "./peft-model.ts";
import { adapterOf, disableAdapters, pristine, setAdapter } from "./select.ts";

/** What a scoped helper gives. */
export interface Scoped<T> {
  /** What the function gave. */
  readonly value: T;
  /** The model that was given. */
  readonly model: PeftModel;
}

/** Gets the derived model. */
export type ScopedFunction<T> = (model: PeftModel) => T | Promise<T>;

/**
 * Runs something with the adapters' own scaling multiplied by a factor (PEFT's
 * `rescale_adapter_scale`).
 *
 * A factor in [0, 1] interpolates between the base and the fine-tuned model (WiSE-FT, Wortsman et
 * al., 2021, arXiv:2109.01903), which can help where the data of the test differ from those of the
 * training. Another factor compiles nothing. Adapters that were merged into the base are taken out
 * of it.
 *
 * @param model A model with adapters.
 * @param multiplier The factor: one for all active adapters, or one by name. 1 changes nothing, 0
 * leaves only what the adapters replace (saved modules, biases, token rows).
 * @param fn Gets the scaled model.
 * @returns What `fn` gave, and the model that was given.
 * @throws {TypeError} for a factor that is no number.
 * @throws {ValueError} for a factor that is not finite, for an unknown name, and where no adapter
 * has a scaling.
 *
 * @example WiSE-FT: the best of several interpolations
 * ```ts
 * import { forward, getPeftModel, loraConfig, tinyModel, withAdapterScale } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const held = { inputIds: [[1, 2, 3, 4]], labels: [[1, 2, 3, 4]] };
 * let best = { factor: 0, loss: Infinity };
 * for (const factor of [0, 0.25, 0.5, 0.75, 1]) {
 *   const { value, model: same } = await withAdapterScale(model, factor, (m) => forward(m, held));
 *   if (value.loss! < best.loss) best = { factor, loss: value.loss! };
 *   console.log(same === model); // true
 * }
 * console.log(best.factor);
 * ```
 */
export function withAdapterScale<T>(
  model: PeftModel,
  multiplier: number | Readonly<Record<string, number>>,
  fn: ScopedFunction<T>,
): Promise<Scoped<T>> {
  return scoped(model, fn, () => {
    const named = typeof multiplier === "object" && multiplier !== null;
    const scalable = (name: string) => isScalable(adapterOf(model, name));
    const factors = named
      ? Object.entries(multiplier)
      : model.active.filter(scalable).map((name): [string, number] => [name, multiplier]);
    const multipliers = new Map(model.multipliers);
    // A factor is checked before the question of what it would scale, as in PEFT.
    if (!named) checkFactor(multiplier);
    for (const [name, factor] of factors) {
      checkFactor(factor);
      if (!scalable(name)) throw nothingToScale(model, [name]);
      multipliers.set(name, (multipliers.get(name) ?? 1) * factor);
    }
    if (factors.length === 0) throw nothingToScale(model, model.active);
    return { ...pristine(model), multipliers };
  });
}

/**
 * Runs something with all adapters switched off (PEFT's `disable_adapter`).
 *
 * @param model A model with adapters.
 * @param fn Gets the model without them.
 *
 * @example
 * ```ts
 * import { forward, getPeftModel, loraConfig, tinyModel, withAdaptersDisabled } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const inputs = { inputIds: [[1, 2, 3]] };
 * const { value } = await withAdaptersDisabled(model, (plain) => forward(plain, inputs));
 * const { logits } = await forward(base, inputs);
 * console.log((await value.logits.data())[0] === (await logits.data())[0]); // true
 * ```
 */
export function withAdaptersDisabled<T>(
  model: PeftModel,
  fn: ScopedFunction<T>,
): Promise<Scoped<T>> {
  return scoped(model, fn, () => disableAdapters(model));
}

/**
 * Runs something with other adapters active. Which ones are trainable stays as it is.
 *
 * @param model A model with adapters.
 * @param adapters One name, or several to apply together.
 * @param fn Gets the model with them.
 * @throws As `setAdapter`.
 *
 * @example
 * ```ts
 * import { addAdapter, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * import { withActiveAdapters } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = addAdapter(getPeftModel(base, loraConfig()), "style", loraConfig({ r: 4 }));
 * const { value } = await withActiveAdapters(model, "style", (other) => other.active);
 * console.log(value, model.active); // ["style"] ["default"]
 * ```
 */
export function withActiveAdapters<T>(
  model: PeftModel,
  adapters: string | readonly string[],
  fn: ScopedFunction<T>,
): Promise<Scoped<T>> {
  return scoped(
    model,
    fn,
    () => ({ ...setAdapter(model, adapters, { train: model.trainable }), enabled: true }),
  );
}

/**
 * Runs something without rounding inputs to the type of the adapters' leaves (PEFT's
 * `disable_input_dtype_casting`).
 *
 * Leaves that were loaded in 16 bits (`autocastAdapterDtype: false`) get their input rounded to
 * their own type, as PEFT does; inside, it keeps its 32 bits. With leaves in 32 bits nothing is
 * ever rounded.
 *
 * @param model A model with adapters.
 * @param fn Gets the model that rounds nothing.
 *
 * @example
 * ```ts
 * import { forward, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * import { withoutInputDtypeCasting } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig());
 * const { value } = await withoutInputDtypeCasting(
 *   model,
 *   (exact) => forward(exact, { inputIds: [[1, 2, 3]] }),
 * );
 * console.log(value.logits.shape); // [1, 3, 96]
 * ```
 */
export function withoutInputDtypeCasting<T>(
  model: PeftModel,
  fn: ScopedFunction<T>,
): Promise<Scoped<T>> {
  return scoped(model, fn, () => ({ ...model, castInputDtype: false }));
}

async function scoped<T>(
  model: PeftModel,
  fn: ScopedFunction<T>,
  derive: () => PeftModel,
): Promise<Scoped<T>> {
  checkPeft(model);
  const derived = derive();
  if (typeof fn !== "function") {
    throw new ArgumentTypeError(
      "SCOPE_FUNCTION",
      `A function that gets the derived model is needed; found ${show(fn)}.`,
    );
  }
  return { value: await fn(derived), model };
}

function checkFactor(factor: unknown): void {
  if (typeof factor !== "number") {
    throw new ArgumentTypeError(
      "ADAPTER_SCALE",
      `An adapter's scale must be multiplied by a number, not by ${show(factor)}.`,
    );
  }
  checkValue(factor, FINITE, { code: "ADAPTER_SCALE", of: "The factor of an adapter's scale" });
}

function nothingToScale(model: PeftModel, names: readonly string[]): ValueError {
  const methods = [...new Set(names.map((name) => adapterOf(model, name).config.peftType))];
  return new ValueError(
    "NOTHING_TO_SCALE",
    `Nothing can be scaled: ${
      names.length
        ? `${names.map((n) => JSON.stringify(n)).join(", ")} (${methods.join(", ")}) ` +
          "add nothing that has a scale, as LORA's layers do"
        : "no adapter is active"
    }. Activate an adapter whose method scales what it adds.`,
    { adapters: names, methods },
  );
}
