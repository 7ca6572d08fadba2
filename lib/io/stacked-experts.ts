/**
 * Experts that a file holds one by one, as the parameters that hold all of them.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { isBlockType, sizeOf, type TypedArray } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** What a file has for one parameter. */
export interface ExpertGroup {
  /** The parameter's name, with what stands before it in the file. */
  readonly name: string;
  /** Expert by expert, the key of each part. */
  readonly keys: readonly (readonly string[])[];
}

/**
 * The parameters that a file has expert by expert, if it has all parts of each.
 *
 * @param keys All keys.
 * @param architecture The family, whose `stacked` says what the parts are called.
 * @param ending How keys end, after the name of the part.
 */
export function expertGroups(
  keys: Iterable<string>,
  { stacked }: Architecture,
  ending: string,
): readonly ExpertGroup[] {
  const found = new Map<string, string[][]>(), parameters = Object.entries(stacked?.parts ?? {});
  for (const key of stacked ? keys : []) {
    const [, path, expert, part] = key.match(/^(.*\bexperts)\.(\d{1,6})\.([^.]+)\./) ?? [];
    const [name, parts] = parameters.find(([, parts]) => parts.includes(part)) ?? [];
    if (!parts || !key.endsWith(`.${part}.${ending}`)) continue;
    const full = `${path}.${name}`, experts = found.get(full) ?? [];
    found.set(full, experts);
    (experts[Number(expert)] ??= [])[parts.indexOf(part)] = key;
  }
  return [...found].flatMap(([name, keys]) => {
    const count = stacked!.parts[name.slice(name.lastIndexOf(".") + 1)].length;
    const whole = Object.keys(keys).length === keys.length &&
      keys.every((parts) => Object.keys(parts).length === count);
    return whole ? [{ name, keys }] : [];
  });
}

/** Tensors of one type and size, one after the other along their rows; `undefined` for others. */
export function stackedRows(parts: readonly Tensor[]): Tensor | undefined {
  const [{ dtype, shape: [rows, columns], where }] = parts;
  const alike = parts.every((part) =>
    part.dtype === dtype && part.shape.join() === `${rows},${columns}`
  );
  if (!alike || isBlockType(dtype)) return undefined;
  return {
    dtype,
    shape: [parts.length * rows, columns],
    where,
    async data() {
      const first = await parts[0].data(), size = sizeOf([rows, columns]);
      const all = new (first.constructor as new (size: number) => TypedArray)(parts.length * size);
      for (const [i, part] of parts.entries()) all.set((await part.data()) as never, i * size);
      return all;
    },
  };
}

/** The tensors of a checkpoint with stacked experts in place of single ones. */
export function withStackedExperts(
  stored: ReadonlyMap<string, Tensor>,
  architecture: Architecture,
): ReadonlyMap<string, Tensor> {
  const all = new Map(stored);
  for (const { name, keys } of expertGroups(stored.keys(), architecture, "weight")) {
    const rows = stackedRows(keys.flat().map((key) => stored.get(key)!));
    if (!rows || all.has(name)) continue;
    for (const key of keys.flat()) all.delete(key);
    const { shape: [total, columns] } = rows;
    all.set(name, { ...rows, shape: [keys.length, total / keys.length, columns] });
  }
  return all;
}
