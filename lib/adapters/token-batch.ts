/**
 * Batches of token ids as callers give them, checked.
 *
 * @module
 */
import { ShapeError, ValueError } from "../errors.ts";
import type { BatchInput } from "../model/batch-input.ts";
import { positionLimit, vocabularySize } from "../model/model-graph.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { show } from "../options.ts";
import type { HostPart } from "../tasks/objective.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { isHalf } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type AnyModel, baseOf } from "./peft-model.ts";

/** A batch: rows of equal length, as numbers or as a tensor [B, T] of any integer type. */
export type TokenBatch = readonly (readonly number[])[] | Tensor;

/** What axes are called in messages. */
const AXES: Readonly<Record<string, string>> = {
  batch: "B",
  tokens: "T",
  decoderTokens: "U",
  images: "N",
};

/**
 * One part of a batch as numbers.
 *
 * @param value What the caller gave: nested lists, or a tensor of any type.
 * @param spec What it has to be.
 * @param sizes Sizes of axes that earlier parts have; gets those that this one is the first to have.
 * @throws {ShapeError} `BATCH_SHAPE` for another shape.
 * @throws {ValueError} `BATCH_VALUE` for what is no number of the kind, or out of range.
 */
export async function readPart(
  value: unknown,
  spec: BatchInput,
  sizes: Map<string, number> = new Map(),
): Promise<HostPart> {
  const { name, axes, from = -Infinity, to = Infinity, none } = spec;
  const { values, shape } = await elements(name, value, axes);
  const expected = axes.map((axis, i) =>
    typeof axis === "number" ? axis : sizes.get(axis) ?? shape[i]
  );
  if (shape.join() !== expected.join()) {
    const like = axes.join() === "batch,tokens" ? "inputIds has" : `${form(axes)} is`;
    throw refuseShape(name, `has shape [${shape}], but ${like} [${expected}]`);
  }
  axes.forEach((axis, i) => typeof axis === "string" && sizes.set(axis, shape[i]));
  const length = shape.slice(1).reduce((n, size) => n * size, 1);
  const data = spec.dtype === "i32" ? integers(name, values, length) : floats(name, values, length);
  const at = data.findIndex((x) => x !== none && (x < from || x > to));
  if (at >= 0) {
    const range = to === Infinity ? "on" : `to ${to}`;
    const or = none === undefined ? "" : `, or ${none} where nothing counts`;
    throw new ValueError(
      "BATCH_VALUE",
      `${name} must hold numbers from ${from} ${range}${or}; found ${data[at]} at ${
        place(at, length)
      }.`,
      { name, value: data[at], index: at },
    );
  }
  return { data, shape };
}

function form(axes: BatchInput["axes"]): string {
  return `[${axes.map((axis) => AXES[axis] ?? axis).join(", ")}]`;
}

/** The elements of a part in row-major order, and its shape. */
async function elements(
  name: string,
  value: unknown,
  axes: BatchInput["axes"],
): Promise<{ readonly values: ArrayLike<unknown>; readonly shape: readonly number[] }> {
  if (typeof value === "object" && value !== null && "dtype" in value) {
    const given = value as Tensor;
    const values = isHalf(given.dtype) ? await toFloat32(given) : await given.data();
    if (given.shape.length === axes.length && values.length > 0) {
      return { values, shape: given.shape };
    }
    throw refuseShape(name, `needs shape ${form(axes)} with sizes above 0, not [${given.shape}]`);
  }
  const lists = ["", "numbers or ", "rows of numbers or "][axes.length];
  if (!Array.isArray(value) || !lists) {
    throw refuseShape(name, `needs ${lists ?? ""}a tensor ${form(axes)}; found ${show(value)}`);
  }
  if (value.length === 0) throw refuseShape(name, "is empty");
  if (axes.length === 1) {
    const row = value.find((x) => typeof x === "object");
    if (row === undefined) return { values: value, shape: [value.length] };
    throw refuseShape(name, `needs numbers, such as [1, 2]; found ${show(row)} for one`);
  }
  const rows = value as readonly (readonly unknown[])[];
  const odd = rows.findIndex((row) => !Array.isArray(row) && !ArrayBuffer.isView(row));
  if (odd >= 0) {
    throw refuseShape(
      name,
      `needs rows of numbers, such as [[1, 2, 3]]; found ${show(rows[odd])} for a row`,
    );
  }
  const { length } = rows[0];
  const uneven = rows.findIndex((row) => row.length !== length);
  if (uneven >= 0) {
    throw refuseShape(
      name,
      `needs rows of equal length: row 0 has ${length}, row ${uneven} has ${
        rows[uneven].length
      }. Pad them and give an attentionMask`,
    );
  }
  if (length === 0) throw refuseShape(name, "is empty");
  return { values: rows.flatMap((row) => [...row]), shape: [rows.length, length] };
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
  const size = vocabularySize(baseOf(model));
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
 * Checks that each row has the token that a model's head needs, if it needs one.
 *
 * @throws {ValueError} `TOKEN_MISSING`.
 */
export function checkNeeded(model: AnyModel, ids: Int32Array, length: number): void {
  const { architecture, config, taskType } = baseOf(model);
  const id = architecture.heads[taskType]?.needs?.(config);
  for (let at = 0; id !== undefined && at < ids.length; at += length) {
    if (ids.subarray(at, at + length).includes(id)) continue;
    throw new ValueError(
      "TOKEN_MISSING",
      `Row ${
        at / length
      } has no token ${id}, and a ${architecture.name} model for ${taskType} reads a row there. ` +
        "Encode texts with special tokens; the config's eos_token_id says which.",
      { row: at / length, id },
    );
  }
}

/**
 * Checks that a model whose positions are a table has a row for each.
 *
 * @throws {ValueError} `POSITION_RANGE`.
 */
export function checkPositions(model: AnyModel, positions: Int32Array): void {
  const limit = positionLimit(baseOf(model));
  const beyond = positions.find((position) => position >= limit);
  if (beyond === undefined) return;
  throw new ValueError(
    "POSITION_RANGE",
    `The position ${beyond} is beyond the ${limit} that the model has learned. Give shorter rows.`,
    { position: beyond, limit },
  );
}

function integers(
  name: string,
  values: ArrayLike<unknown>,
  length: number,
): Int32Array<ArrayBuffer> {
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

function floats(
  name: string,
  values: ArrayLike<unknown>,
  length: number,
): Float32Array<ArrayBuffer> {
  const data = Float32Array.from(values as ArrayLike<number>);
  const at = data.findIndex((x, i) => !Number.isFinite(x) || typeof values[i] !== "number");
  if (at < 0) return data;
  throw new ValueError(
    "BATCH_VALUE",
    `${name} must hold finite numbers; found ${show(values[at])} at ${place(at, length)}.`,
    { name, value: values[at], index: at },
  );
}

function place(index: number, length: number): string {
  return length === 1
    ? `index ${index}`
    : `row ${Math.floor(index / length)}, column ${index % length}`;
}

function refuseShape(name: string, problem: string): ShapeError {
  return new ShapeError("BATCH_SHAPE", `${name} ${problem}.`, { name });
}
