/**
 * Tensors by name as callers give them, checked.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { show, showName } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * Refuses what is no map of tensors.
 *
 * @param tensors What the caller gave.
 * @param what What it is, with where such a map comes from, in the words of messages.
 * @throws {ValueError} `TENSOR_MAP`.
 */
export function checkTensorMap(tensors: ReadonlyMap<string, Tensor>, what: string): void {
  const isMap = tensors instanceof Map;
  const wrong = isMap ? [...tensors].find(([, value]) => !isTensor(value)) : undefined;
  if (isMap && !wrong) return;
  const found = wrong ? `${show(wrong[1])} for ${showName(wrong[0])}` : show(tensors);
  throw new ValueError("TENSOR_MAP", `${what} must be a Map of tensors by name; found ${found}.`);
}

function isTensor(value: unknown): boolean {
  return typeof (value as Tensor | undefined | null)?.data === "function";
}
