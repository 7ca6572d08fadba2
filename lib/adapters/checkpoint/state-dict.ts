/**
 * An adapter's tensors under PEFT's keys: reading them from a model and putting them into one.
 *
 * @module
 */
import { CheckpointError, nearestNames, UnsupportedError } from "../../errors.ts";
import { type ModelGraph, parameterOf } from "../../model/model-graph.ts";
import { BOOLEAN, checkOptions, type OptionRule } from "../../options.ts";
import { castTensor, toFloat32 } from "../../tensor/convert.ts";
import { isFloating, isHalf } from "../../tensor/dtype.ts";
import { onHost, type Tensor, tensor } from "../../tensor/tensor.ts";
import { adapterKeys, isRemainder, type KeyTarget, optionalKeys } from "./adapter-keys.ts";
import { parameterKey, replacement } from "../inject.ts";
import {
  adaptedPaths,
  type AdapterLeaf,
  leavesAt,
  leavesOf,
  mapLeaves,
  parameterPart,
  type Part,
  type Parts,
  partsOf,
  single,
  tensorOf,
  tokensPart,
  transposed,
} from "../parts.ts";
import { type Adapter, type PeftModel, pristineBase } from "../peft-model.ts";
import { adapterOf, withAdapter } from "../select.ts";
import { checkTensorMap } from "../tensor-map.ts";

/** How to read an adapter's tensors. */
export interface StateDictOptions {
  /**
   * Whether the weights of the input embedding and the output head are among them. `"auto"`, the
   * default: where they are adapted and `targetModules` names them as `embed_tokens` or `lm_head`,
   * as in PEFT.
   */
  readonly saveEmbeddingLayers?: boolean | "auto";
}

/** How to put tensors into an adapter. */
export interface SetStateDictOptions {
  /** Which adapter; `"default"` by default. */
  readonly adapterName?: string;
  /** Whether anything that does not fit is an error; true by default. */
  readonly strict?: boolean;
  /** Whether 16-bit leaves become f32; true by default. */
  readonly autocastAdapterDtype?: boolean;
  /**
   * Whether leaves stay where they are, such as in a file, and are read when they are used; false by
   * default.
   */
  readonly lowMemory?: boolean;
}

/** Whether weights of embeddings are saved along. */
export const SAVE_EMBEDDING_LAYERS: OptionRule = {
  must: 'true, false or "auto"',
  holds: (x) => x === "auto" || BOOLEAN.holds(x),
};

/** What happened when tensors were put into an adapter. */
export interface LoadReport {
  /** Keys whose tensors are used. */
  readonly applied: readonly string[];
  /** Keys that the adapter needs and the file lacks. */
  readonly missing: readonly string[];
  /** Keys that belong to nothing in the model. */
  readonly unexpected: readonly string[];
  /** Tensors that do not have the shape that the model needs. */
  readonly shapeMismatch: readonly {
    readonly key: string;
    readonly expected: readonly number[];
    readonly found: readonly number[];
  }[];
  /** Tensors of another number type, which were converted to f32. */
  readonly dtypeCast: readonly { readonly key: string; readonly from: string }[];
  /**
   * Fixed leaves, which no file holds and which follow from the base: names after the key prefix.
   */
  readonly regenerated: readonly string[];
  /** Keys of what PEFT writes beside what counts: copies, and what follows from the base. */
  readonly ignored: readonly string[];
}

/**
 * The tensors of one adapter under the keys that PEFT saves them with, such as
 * `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`. The adapter's name is not part
 * of them.
 *
 * @param model A model with adapters.
 * @param adapterName Which one.
 * @throws {ValueError} where there is none of this name.
 *
 * @example
 * ```ts
 * import { getAdapterStateDict, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4 }));
 * for (const [key, { shape }] of getAdapterStateDict(model)) console.log(key, shape);
 * // base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [4, 32] …
 * ```
 */
export function getAdapterStateDict(
  model: PeftModel,
  adapterName = "default",
  options: StateDictOptions = {},
): ReadonlyMap<string, Tensor> {
  const adapter = adapterOf(model, adapterName);
  checkOptions(options, { saveEmbeddingLayers: SAVE_EMBEDDING_LAYERS }, {
    code: "STATE_DICT_OPTION",
    of: "getAdapterStateDict",
  });
  const keys = adapterKeys(pristineBase(model), adapter, options.saveEmbeddingLayers ?? "auto");
  return new Map([...keys].map(([key, target]) => [key, tensorAt(model, adapter, target)]));
}

/** The tensor that a key stands for. */
function tensorAt(model: PeftModel, adapter: Adapter, target: KeyTarget): Tensor {
  if (target.kind === "leaf") {
    const { leaves } = adapter.parts.get(target.part)!, leaf = leaves[target.leaf];
    const found = tensorOf(adapter, leaf, leaves);
    return leaf.whole ? castTensor(found, leaf.whole.stored) : found;
  }
  const part = parameterPart(adapter, target.name);
  const stored = part
    ? single(adapter, part).tensor
    : parameterOf(pristineBase(model), target.name);
  return isFloating(stored.dtype) && !isHalf(stored.dtype) ? castTensor(stored, "f32") : stored;
}

/**
 * The model with the tensors of one adapter replaced. If it was merged into the base, what was
 * merged is taken out of it.
 *
 * @param model A model with adapters.
 * @param tensors Tensors under PEFT's keys; they are read.
 * @param options See {@link SetStateDictOptions}.
 * @returns The new model, and what was used and what was not.
 * @throws {CheckpointError} where keys are missing or unexpected, shapes differ, or values are no
 * finite floating-point numbers.
 * @throws {ValueError} for a name that does not exist, and where `tensors` is no map of tensors.
 * @throws {UnsupportedError} where the adapter holds what the tensors were computed from.
 * @throws {FileError} where a tensor cannot be read.
 *
 * @example
 * ```ts
 * import { getAdapterStateDict, getPeftModel, tinyModel } from "@graft/peft";
 * import { loraConfig, setAdapterStateDict } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const one = getPeftModel(base, loraConfig({ r: 4 }), { seed: 1 });
 * const two = getPeftModel(base, loraConfig({ r: 4 }), { seed: 2 });
 * const { model, report } = await setAdapterStateDict(two, getAdapterStateDict(one));
 * console.log(model.active, report.applied.length, report.missing); // ["default"] 8 []
 * ```
 */
export async function setAdapterStateDict(
  model: PeftModel,
  tensors: ReadonlyMap<string, Tensor>,
  options: SetStateDictOptions = {},
): Promise<{ readonly model: PeftModel; readonly report: LoadReport }> {
  checkOptions(options, {
    adapterName: null,
    strict: BOOLEAN,
    autocastAdapterDtype: BOOLEAN,
    lowMemory: BOOLEAN,
  }, { code: "STATE_DICT_OPTION", of: "setAdapterStateDict" });
  const { adapterName = "default", strict = true, autocastAdapterDtype = true } = options;
  const adapter = adapterOf(model, adapterName);
  checkTensorMap(tensors, "The tensors of an adapter (getAdapterStateDict)");
  await knowSizes(adapter, tensors);
  const { report, accepted } = compare(model, adapter, { tensors, autocast: autocastAdapterDtype });
  if (strict) checkReport(report, [...adapterKeys(pristineBase(model), adapter, false).keys()]);
  const loaded = new Map<string, Tensor>();
  for (const [key, target] of accepted) {
    const stored = tensors.get(key)!, { dtype } = stored, whole = wholeOf(adapter, target);
    const kept = isHalf(dtype) && !autocastAdapterDtype;
    const wanted = whole || kept ? stored : castTensor(stored, "f32");
    // An adapter must not depend on a file that is replaced when it is saved again.
    const value = options.lowMemory ? wanted : await onHost(wanted);
    const found = await checked(key, value, { whole, lazily: options.lowMemory });
    loaded.set(key, whole ? castTensor(found, "i32") : found);
  }
  const changed = await withTensors(model, adapter, { accepted, loaded });
  return { model: withAdapter(model, changed), report };
}

/** Reads those of an adapter's tensors of which only the contents say how large they are. */
export async function knowSizes(
  adapter: Adapter,
  tensors: ReadonlyMap<string, Tensor>,
): Promise<void> {
  for (const { leaf: { kind, key, shape } } of leavesOf(adapter)) {
    if (kind === "derived" && shape.length === 0) await tensors.get(key!)?.data();
  }
}

function compare(
  model: PeftModel,
  adapter: Adapter,
  given: { readonly tensors: ReadonlyMap<string, Tensor>; readonly autocast: boolean },
): { readonly report: LoadReport; readonly accepted: ReadonlyMap<string, KeyTarget> } {
  const { tensors } = given;
  const required = adapterKeys(pristineBase(model), adapter, false);
  const known = new Map([...optionalKeys(pristineBase(model), adapter), ...required]);
  const idle = new Map(
    leavesOf(adapter).flatMap(({ leaf: { idleKeys } }) =>
      idleKeys ? [[idleKeys.source, idleKeys]] : []
    ),
  );
  const accepted = new Map<string, KeyTarget>();
  const unexpected: string[] = [], ignored: string[] = [];
  const shapeMismatch: LoadReport["shapeMismatch"][number][] = [];
  const dtypeCast: LoadReport["dtypeCast"][number][] = [];
  for (const [key, { shape, dtype }] of tensors) {
    const target = known.get(key);
    if (!target) {
      const known = isCopy(key, required) || isTiedRows(key, adapter) ||
        [...idle.values()].some((keys) => keys.test(key)) ||
        isRemainder(key, adapter);
      (known ? ignored : unexpected).push(key);
      continue;
    }
    const leaf = target.kind === "leaf"
      ? adapter.parts.get(target.part)!.leaves[target.leaf]
      : undefined;
    if (leaf?.kind === "derived" && target.kind === "leaf" && !isReadable(adapter, target.part)) {
      throw notReadable(key, adapter);
    }
    const expected = leaf?.shape ?? tensorAt(model, adapter, target).shape;
    const fits = expected.join() === shape.join() || leaf?.accepts?.(shape);
    const wanted = leaf?.whole ? "whole numbers" : "weights";
    if (isFloating(dtype) === !!leaf?.whole && dtype !== "f32") {
      throw notWeights(key, `is of the type ${dtype}, which holds no ${wanted}`);
    }
    if (!fits) shapeMismatch.push({ key, expected, found: shape });
    else accepted.set(key, target);
    const cast = isFloating(dtype) && dtype !== "f32" && (given.autocast || !isHalf(dtype));
    if (cast) dtypeCast.push({ key, from: dtype });
  }
  return {
    accepted,
    report: {
      applied: [...accepted.keys()],
      missing: [...required.keys()].filter((key) => !tensors.has(key)),
      unexpected,
      shapeMismatch,
      dtypeCast,
      regenerated: regeneratedLeaves(adapter),
      ignored,
    },
  };
}

/** With `bias: "all"`, PEFT saves biases of saved modules under the names of its wrapper too. */
function isCopy(key: string, required: ReadonlyMap<string, KeyTarget>): boolean {
  const plain = key.replace(/\.(original_module|modules_to_save)\./, ".");
  const target = required.get(plain);
  return plain !== key && target?.kind === "leaf" && target.part.startsWith("param.");
}

/** Trained rows of what is tied to the embedding, which PEFT can save a second time. */
function isTiedRows(key: string, adapter: Adapter): boolean {
  const [, path] = key.match(/^base_model\.model\.(.+)\.token_adapter\.trainable_tokens_delta$/) ??
    [];
  return path !== undefined && tokensPart(adapter, path)?.leaves[""].tie !== undefined;
}

/**
 * The tensor, which is read and refused where it holds what is no number, or no place in a list of
 * so many; with `lazily` when it is read anyway.
 */
async function checked(
  key: string,
  value: Tensor,
  { whole, lazily }: Pick<AdapterLeaf, "whole"> & { readonly lazily?: boolean },
): Promise<Tensor> {
  const data = async () => {
    const found = await value.data();
    const numbers = await toFloat32({ ...value, data: () => Promise.resolve(found) });
    const bounds = [whole?.below ?? []].flat(), row = numbers.length / bounds.length;
    const at = numbers.findIndex((x, i) =>
      whole
        ? !Number.isInteger(x) || x < 0 || x >= bounds[Math.floor(i / row)]
        : !Number.isFinite(x)
    );
    if (at < 0) return found;
    throw notWeights(key, `holds ${numbers[at]} at element ${at}`);
  };
  if (lazily) return { ...value, data };
  await data();
  return value;
}

/** Whether a target is a leaf of whole numbers, and of which. */
function wholeOf(adapter: Adapter, target: KeyTarget): AdapterLeaf["whole"] {
  return target.kind === "leaf"
    ? adapter.parts.get(target.part)!.leaves[target.leaf].whole
    : undefined;
}

function regeneratedLeaves(adapter: Adapter): readonly string[] {
  return leavesOf(adapter).flatMap(({ part: { place }, name, leaf: { kind, key, tie } }) =>
    place.kind === "parameter" || kind !== "fixed" || key !== null || tie
      ? []
      : [place.kind === "site" ? `${place.path}.${name}` : name]
  );
}

function notReadable(key: string, { name, config }: Adapter): UnsupportedError {
  return new UnsupportedError(
    "ADAPTER_ENCODED",
    `${key} cannot be put into the adapter ${
      JSON.stringify(name)
    }: such a file of ${config.peftType} holds ` +
      "what was computed from what is trained, which cannot be told from it. Load it " +
      "without isTrainable; setAdapter then trains what the file holds.",
    { key, adapter: name },
  );
}

function notWeights(key: string, what: string): CheckpointError {
  return new CheckpointError(
    "ADAPTER_VALUES",
    `The tensor ${key} of the adapter ${what}. The file is damaged, or training diverged: take an earlier checkpoint.`,
    { key },
  );
}

function checkReport(report: LoadReport, required: readonly string[]): void {
  const { missing, unexpected, shapeMismatch } = report;
  const problems = [
    ...shapeMismatch.map(({ key, expected, found }) =>
      `${key} has shape [${found}], the model needs [${expected}]`
    ),
    ...missing.map((key) => `missing ${key}${nearest(key, unexpected)}`),
    ...unexpected.map((key) => `unexpected ${key}${missing.length ? "" : nearest(key, required)}`),
  ];
  if (problems.length === 0) return;
  throw new CheckpointError(
    "ADAPTER_MISMATCH",
    `The adapter's tensors do not fit the model (${missing.length} missing, ${unexpected.length} unexpected, ` +
      `${shapeMismatch.length} of another shape): ${problems.slice(0, 6).join("; ")}${
        problems.length > 6 ? `; and ${problems.length - 6} more` : ""
      }.${shapeMismatch.length ? "" : " To load what fits all the same, pass strict: false."}`,
    { missing, unexpected, shapeMismatch },
  );
}

function nearest(key: string, names: readonly string[]): string {
  // Keys are long and alike: what differs is looked for among few.
  const [near] = nearestNames(key, names.slice(0, 200), 1);
  return near ? ` (nearest: ${near})` : "";
}

async function withTensors(
  model: PeftModel,
  adapter: Adapter,
  given: {
    readonly accepted: ReadonlyMap<string, KeyTarget>;
    readonly loaded: ReadonlyMap<string, Tensor>;
  },
): Promise<Adapter> {
  const base = pristineBase(model);
  const values = new Map<string, { readonly key: string; readonly value: Tensor }>();
  const copies: { readonly owner: string; readonly key: string; readonly value: Tensor }[] = [];
  const brought = new Map<string, Tensor>();
  for (const [key, target] of given.accepted) {
    const value = given.loaded.get(key)!;
    if (target.kind === "base") {
      if (!await isEqual(value, parameterOf(base, target.name))) brought.set(target.name, value);
      continue;
    }
    const { tie } = adapter.parts.get(target.part)!.leaves[target.leaf];
    if (!tie) values.set(`${target.part} ${target.leaf}`, { key, value });
    else {
      const owner = `${tie.part} ${tie.leaf}`;
      copies.push({ owner, key, value: tie.transposed ? transposed(value) : value });
    }
  }
  // What is tied comes twice in a file; both must agree, and the owner's is the one that is kept.
  for (const { owner, key, value } of copies) {
    const own = values.get(owner);
    if (own) await checkEqual([own.key, own.value], [key, value]);
    else values.set(owner, { key, value });
  }
  const own = mapLeaves(
    adapter.parts,
    (old, { id, name }) => values.get(`${id} ${name}`)?.value ?? old,
  );
  const united = await unitedLeaves(own, (id, name) => values.get(`${id} ${name}`)?.value);
  const read = mapLeaves(own, (old, { id, name }) => united.get(`${id} ${name}`) ?? old);
  const shared = leavesAt({ parts: read }, "shared");
  const parts = read.get("shared") === adapter.parts.get("shared")
    ? read
    : mapLeaves(read, (old, { leaf }) => leaf.follows?.(shared!) ?? old);
  return { ...adapter, parts: new Map([...parts, ...broughtParts(base, adapter, brought)]) };
}

/** Leaves that are made of what a file holds in their place. */
async function unitedLeaves(
  parts: Parts,
  found: (id: string, leaf: string) => Tensor | undefined,
): Promise<ReadonlyMap<string, Tensor>> {
  const made = new Map<string, Tensor>();
  for (const { part, id, name, leaf: { read, shape } } of leavesOf({ parts })) {
    const pieces = Object.keys(part.leaves).flatMap((piece) => {
      const value = piece.startsWith(`${name}.`) ? found(id, piece) : undefined;
      return value ? [[piece, value] as const] : [];
    });
    if (!read || pieces.length === 0) continue;
    const values = await read(Object.fromEntries(pieces), leavesAt({ parts }, id)!);
    made.set(`${id} ${name}`, tensor(values, { shape }));
  }
  return made;
}

/** Whether a part's leaves can be made of what a file holds in their place. */
function isReadable({ parts }: Adapter, id: string): boolean {
  return Object.values(parts.get(id)!.leaves).some(({ read }) => read);
}

/** Parts for parameters that a file brings along, with those that are tied to them. */
function broughtParts(
  base: ModelGraph,
  adapter: Adapter,
  brought: ReadonlyMap<string, Tensor>,
): Parts {
  const adapted = new Set(adaptedPaths(adapter));
  const keyOf = (name: string) => parameterKey(adapter, adapted, name);
  const parts: Part[] = [...brought].map(([name, tensor]) =>
    replacement(name, { kind: "fixed", key: keyOf(name), tensor })
  );
  for (const [alias, source] of base.tied) {
    const [owner, other] = brought.has(alias) ? [alias, source] : [source, alias];
    if (!brought.has(owner) || brought.has(other)) continue;
    const { shape } = brought.get(owner)!;
    parts.push(replacement(other, { kind: "fixed", key: keyOf(other), shape, tie: owner }));
  }
  return partsOf(parts);
}

/** Whether two tensors hold the same numbers. */
export async function isEqual(a: Tensor, b: Tensor): Promise<boolean> {
  const [x, y] = [await toFloat32(a), await toFloat32(b)];
  return x.length === y.length && x.every((value, i) => value === y[i]);
}

async function checkEqual(
  [nameA, a]: readonly [string, Tensor],
  [nameB, b]: readonly [string, Tensor],
): Promise<void> {
  if (await isEqual(a, b)) return;
  throw new CheckpointError(
    "ADAPTER_TIES",
    `${nameB} and ${nameA} are tied, but the file holds different values for them. It was changed after it ` +
      `was saved; what ensureWeightTying tied is loaded apart with ensure_weight_tying: false in its config.`,
    { keys: [nameA, nameB] },
  );
}
