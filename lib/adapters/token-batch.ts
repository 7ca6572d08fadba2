/**
 * Batches of token ids as callers give them, checked.
 *
 * @module
 */
import { ShapeError, ValueError } from "../errors.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type AnyModel, baseOf } from "./peft-model.ts";

/** A batch: rows of equal length, as numbers or as a tensor [B, T] of any integer type. */
export type TokenBatch = readonly (readonly number[])[] | Tensor;

/** A batch as row-major integers. */
export interface IntBatch {
  /** The integers. */
  readonly data: Int32Array;
  /** B and T. */
  readonly shape: readonly [number, number];
}

/** What the numbers of a part of a batch may be. */
export interface IntRange {
  /** The smallest. */
  readonly from: number;
  /** The largest; 2³¹ − 1 by default. */
  readonly to?: number;
}

/**
 * A batch as integers.
 *
 * @param name What messages call it.
 * @param batch What the caller gave.
 * @throws {ShapeError} `BATCH_SHAPE` where it is not rows of equal length.
 * @throws {ValueError} `BATCH_VALUE` for what is no integer of 32 bits.
 */
export async function toInts(name: string, batch: TokenBatch): Promise<IntBatch> {
  if (typeof batch === "object" && batch !== null && "dtype" in batch) {
    const values = await batch.data();
    if (batch.shape.length !== 2 || values.length === 0) {
      throw refuseShape(
        name,
        `needs shape [B, T] with B and T above 0, not [${batch.shape}]`,
      );
    }
    const [rows, length] = batch.shape;
    return { data: integers(name, values, length), shape: [rows, length] };
  }
  if (!Array.isArray(batch)) {
    throw refuseShape(name, `needs rows of numbers or a tensor [B, T]; found ${show(batch)}`);
  }
  const odd = batch.find((row) => !Array.isArray(row) && !ArrayBuffer.isView(row));
  if (batch.length > 0 && odd !== undefined || batch.includes(undefined)) {
    throw refuseShape(
      name,
      `needs rows of numbers, such as [[1, 2, 3]]; found ${show(odd)} for a row`,
    );
  }
  const length = batch[0]?.length ?? 0;
  const uneven = batch.findIndex((row) => row.length !== length);
  if (uneven >= 0) {
    throw refuseShape(
      name,
      `needs rows of equal length: row 0 has ${length}, row ${uneven} has ${
        batch[uneven].length
      }. Pad them and give an attentionMask`,
    );
  }
  if (length === 0) throw refuseShape(name, "is empty");
  const values = batch.flatMap((row) => [...row]);
  return { data: integers(name, values, length), shape: [batch.length, length] };
}

/**
 * Another part of a batch, which must have the shape of its ids.
 *
 * @param name What messages call it.
 * @param part What the caller gave; `undefined` where it was left out.
 * @param like The shape of the ids, and what the numbers may be.
 * @throws {ShapeError} `BATCH_SHAPE`, {ValueError} `BATCH_VALUE`.
 */
export async function partOf(
  name: string,
  part: TokenBatch | undefined,
  like: { readonly shape: readonly [number, number] } & IntRange,
): Promise<Int32Array | undefined> {
  if (part === undefined) return undefined;
  const { data, shape } = await toInts(name, part);
  if (shape.join() !== like.shape.join()) {
    throw refuseShape(name, `has shape [${shape}], but inputIds has [${like.shape}]`);
  }
  const { from, to = 2 ** 31 - 1 } = like;
  const at = data.findIndex((x) => x < from || x > to);
  if (at >= 0) {
    throw new ValueError(
      "BATCH_VALUE",
      `${name} must hold numbers from ${from} ${like.to === undefined ? "on" : `to ${to}`}; found ${
        data[at]
      } at ${place(at, shape[1])}.`,
      { name, value: data[at], index: at },
    );
  }
  return data;
}

/**
 * Checks that token ids exist in the model's vocabulary.
 *
 * @param ids The ids; with `labels`, −100 stands for none.
 * @throws {ValueError} `TOKEN_ID_RANGE` that names the first id that does not, and where it is.
 */
export function checkIds(
  model: AnyModel,
  ids: ArrayLike<number>,
  options: { readonly labels?: boolean } = {},
): void {
  const { architecture, config } = baseOf(model);
  const size = architecture.vocabularySize(config);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    if (Number.isInteger(id) && id >= 0 && id < size) continue;
    if (options.labels && id === IGNORED_LABEL) continue;
    throw new ValueError(
      "TOKEN_ID_RANGE",
      options.labels
        ? `The label ${id} at index ${i} is neither a token id below ${size} nor ${IGNORED_LABEL}, which stands for none.`
        : `The token id ${id} at index ${i} is outside the vocabulary of ${size}; ` +
          `is the tokenizer that of this model?`,
      { id, index: i, vocabularySize: size },
    );
  }
}

/**
 * Checks that a model whose positions are a table has a row for each.
 *
 * @throws {ValueError} `POSITION_RANGE`.
 */
export function checkPositions(model: AnyModel, positions: Int32Array): void {
  const { architecture, config } = baseOf(model);
  const limit = architecture.positionLimit?.(config) ?? Infinity;
  const beyond = positions.find((position) => position >= limit);
  if (beyond === undefined) return;
  throw new ValueError(
    "POSITION_RANGE",
    `The position ${beyond} is beyond the ${limit} that the model has learned. Give shorter rows.`,
    { position: beyond, limit },
  );
}

function integers(name: string, values: ArrayLike<unknown>, length: number): Int32Array {
  const data = new Int32Array(values.length);
  for (let i = 0; i < data.length; i++) {
    const value = values[i];
    const number = typeof value === "bigint" ? Number(value) : value;
    // What does not come back as it was is a fraction, NaN, too large, or no number.
    data[i] = number as number;
    if (data[i] !== number) {
      throw new ValueError(
        "BATCH_VALUE",
        `${name} must hold whole numbers of 32 bits; found ${show(value)} at ${place(i, length)}.`,
        { name, value, index: i },
      );
    }
  }
  return data;
}

function place(index: number, length: number): string {
  return `row ${Math.floor(index / length)}, column ${index % length}`;
}

function refuseShape(name: string, problem: string): ShapeError {
  return new ShapeError("BATCH_SHAPE", `${name} ${problem}.`, { name });
}
