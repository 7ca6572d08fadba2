/**
 * Which adapters take part, and how strongly.
 *
 * @module
 */
import { nearestHint, UnsupportedError, ValueError } from "../errors.ts";
import { BOOLEAN, checkOptions, checkValue, NAMES, showName } from "../options.ts";
import type { PartPlace } from "./parts.ts";
import { type Adapter, checkPeft, type PeftModel } from "./peft-model.ts";

/** How to activate adapters. */
export interface SetAdapterOptions {
  /**
   * Names of the adapters that training changes from now on; those that become active by default,
   * as in PEFT, and `[]` for none.
   */
  readonly train?: readonly string[];
}

/**
 * The model with these adapters active, in this order, and trainable. Adapters that were merged
 * into the base are taken out of it.
 *
 * @param model A model with adapters.
 * @param adapters One name, or several to apply together.
 * @param options Which adapters are trainable, where it is not those.
 * @throws {ValueError} for a name that does not exist or is given twice, and for two adapters that
 * replace the same parameter of the base (saved modules, biases, token rows), as there is no
 * telling which of the two counts.
 * @throws {UnsupportedError} for adapters of several methods that cannot be active together.
 *
 * @example
 * ```ts
 * import { addAdapter, getPeftModel, loraConfig, setAdapter, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = addAdapter(getPeftModel(base, loraConfig()), "style", loraConfig({ r: 4 }));
 * const both = setAdapter(model, ["style", "default"]);
 * console.log(both.active); // ["style", "default"]
 * ```
 */
export function setAdapter(
  model: PeftModel,
  adapters: string | readonly string[],
  options: SetAdapterOptions = {},
): PeftModel {
  checkPeft(model);
  checkOptions(options, { train: NAMES }, { code: "ADAPTER_LIST", of: "setAdapter" });
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
  checkMethods(chosen);
  checkTogether(chosen);
  const trainable = options.train === undefined ? active : checkNames(model, options.train);
  return { ...pristine(model), active, trainable };
}

/**
 * The model with adapters made trainable or not, whichever are active.
 *
 * @param model A model with adapters.
 * @param adapters One name, or several.
 * @param requiresGrad Whether training changes them.
 * @throws {ValueError} for a name that does not exist, and where `requiresGrad` is neither true nor
 * false.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, setRequiresGrad, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig());
 * console.log(setRequiresGrad(model, "default", false).trainable); // []
 * ```
 */
export function setRequiresGrad(
  model: PeftModel,
  adapters: string | readonly string[],
  requiresGrad = true,
): PeftModel {
  const names = checkNames(model, Array.isArray(adapters) ? adapters : [adapters as string]);
  checkValue(requiresGrad, BOOLEAN, { code: "REQUIRES_GRAD", of: "requiresGrad" });
  const others = model.trainable.filter((name) => !names.includes(name));
  return { ...model, trainable: requiresGrad ? [...others, ...names] : others };
}

function checkNames(model: PeftModel, names: readonly string[]): readonly string[] {
  for (const name of names) adapterOf(model, name);
  return [...new Set(names)];
}

/** The model as it was before adapters were merged into its base. */
export function pristine(model: PeftModel): PeftModel {
  if (!model.merged) return model;
  const { merged, ...rest } = model;
  return { ...rest, base: merged.base };
}

/**
 * The model with an adapter under its name, in the place of one that has it. If that one was merged
 * into the base, what was merged is taken out of it.
 */
export function withAdapter(model: PeftModel, adapter: Adapter): PeftModel {
  const { name } = adapter;
  const start = model.merged?.names.includes(name) ? pristine(model) : model;
  return { ...start, adapters: new Map([...model.adapters, [name, adapter]]) };
}

/**
 * The model with its active adapters switched on again.
 *
 * @throws {ValueError} where the model has no adapters.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * import { disableAdapters, enableAdapters } from "@graft/peft";
 * const base = await tinyModel();
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
 * The model with all adapters switched off: it gives exactly what its base gives. Adapters that were
 * merged into the base are taken out of it.
 *
 * @throws {ValueError} where the model has no adapters.
 *
 * @example
 * ```ts
 * import { disableAdapters, forward, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const { logits } = await forward(disableAdapters(model), { inputIds: [[1, 2, 3]] });
 * const { logits: same } = await forward(base, { inputIds: [[1, 2, 3]] });
 * console.log((await logits.data())[0] === (await same.data())[0]); // true
 * ```
 */
export function disableAdapters(model: PeftModel): PeftModel {
  checkPeft(model);
  return { ...pristine(model), enabled: false };
}

/**
 * The model without an adapter, or several. If it was active, the others that were stay active; if
 * it was the only one, another becomes active: as in PEFT the first by name, or among adapters of
 * virtual tokens the first that was added.
 *
 * @param model A model with adapters.
 * @param adapters One name, or several.
 * @throws {ValueError} where there is none of a name.
 *
 * @example
 * ```ts
 * import { addAdapter, deleteAdapter, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const two = addAdapter(getPeftModel(base, loraConfig()), "style", loraConfig({ r: 4 }));
 * console.log([...deleteAdapter(two, "default").adapters.keys()]); // ["style"]
 * ```
 */
export function deleteAdapter(model: PeftModel, adapters: string | readonly string[]): PeftModel {
  const gone = checkNames(model, Array.isArray(adapters) ? adapters : [adapters as string]);
  const isLeft = (name: string) => !gone.includes(name);
  const less: PeftModel = {
    ...pristine(model),
    adapters: new Map([...model.adapters].filter(([name]) => isLeft(name))),
    multipliers: new Map([...model.multipliers].filter(([name]) => isLeft(name))),
    active: model.active.filter(isLeft),
    trainable: model.trainable.filter(isLeft),
  };
  const left = [...less.adapters.keys()];
  const isNamed = model.active.some((name) => adapterOf(model, name).method.sites !== undefined);
  const [next] = isNamed ? left.sort() : left;
  return less.active.length || next === undefined || !model.active.length
    ? less
    : setAdapter(less, next);
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
  throw new ValueError(
    "ADAPTER_UNKNOWN",
    `The model has no adapter named ${showName(name)}${nearestHint(name, names, 1)}; it has ${
      names.join(", ") || "none"
    }.`,
    { name, names },
  );
}

/** Refuses adapters of several methods unless all of them can be mixed. */
function checkMethods(adapters: readonly Adapter[]): void {
  const prefixed = adapters.filter(({ method }) => method.pass?.virtualTokens);
  const types = [...new Set(adapters.map(({ config }) => config.peftType))];
  const alone = adapters.find(({ method }) => !method.config.mixes);
  if (prefixed.length < 2 && (types.length < 2 || !alone)) return;
  throw new UnsupportedError(
    "ADAPTERS_MIXED",
    prefixed.length > 1
      ? `${
        prefixed.map(({ name }) => JSON.stringify(name)).join(" and ")
      } both put virtual tokens ` +
        "before the text, and only one adapter can. Activate one of them."
      : `Adapters of the methods ${types.join(" and ")} cannot be active together: ` +
        `${alone!.config.peftType} (${
          JSON.stringify(alone!.name)
        }) works alone. Activate one of them.`,
    { adapters: adapters.map(({ name }) => name), methods: types },
  );
}

/** What of the base a part stands for, so that no other can. */
function replacedBy(adapter: Adapter, place: PartPlace): readonly string[] {
  switch (place.kind) {
    case "parameter":
      return [place.name];
    case "tokens":
      return [`rows of ${place.path}`];
    case "site": {
      // The rules of a method that replaces parameters are the same for all kinds of sites.
      const rule = Object.values(adapter.method.sites?.(adapter.config) ?? {})[0];
      if (!rule || !("replaces" in rule)) return [];
      return rule.rows?.map((row) => `row ${row} of ${place.path}`) ?? [`${place.path}.weight`];
    }
    default:
      return [];
  }
}

function checkTogether(adapters: readonly Adapter[]): void {
  const owners = new Map<string, string>();
  for (const adapter of adapters) {
    const { name } = adapter;
    const replaced = [...adapter.parts.values()].flatMap(({ place }) => replacedBy(adapter, place));
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
