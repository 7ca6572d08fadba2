/**
 * A digest of a base model, by which an adapter's file knows it again.
 *
 * @module
 */
import type { ModelGraph } from "../model/model-graph.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type AnyModel, baseOf, pristineBase } from "./peft-model.ts";

/** Words of 32 bits that are looked at in each parameter, spread over all of it. */
const SAMPLES = 1024;

// A model is a value, so its digest is computed once.
const known = new WeakMap<ModelGraph, Promise<string>>();

/**
 * The digest of a base: of the names, shapes and types of its parameters and of a sample of each
 * one's contents. Two fine-tunes of one model differ in it, and so does one model in two number
 * types: the types stand before the colon, so that digests of other types can be told to say
 * nothing about each other. The config does not count, as releases of transformers write it
 * differently.
 *
 * Every parameter is read once; the digest is kept for as long as the model lives.
 *
 * @param model A base model, or a model with adapters, of which it is the base without them.
 * @returns Such as `f32:9f86d081884c7d65…`.
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 *
 * @example
 * ```ts
 * import { hashBase, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * console.log((await hashBase(base)).slice(0, 4)); // f32:
 * ```
 */
export async function hashBase(model: AnyModel): Promise<string> {
  baseOf(model);
  const base = pristineBase(model);
  let digest = known.get(base);
  if (!digest) {
    digest = compute(base).catch((error) => {
      known.delete(base);
      throw error;
    });
    known.set(base, digest);
  }
  return await digest;
}

/**
 * Whether two digests of bases agree; `undefined` where their number types differ, so that nothing
 * can be said.
 */
export function sameBase(a: string, b: string): boolean | undefined {
  if (a === b) return true;
  return a.split(":")[0] === b.split(":")[0] ? false : undefined;
}

async function compute(model: ModelGraph): Promise<string> {
  const names = [...model.parameters.keys()].sort();
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for (const name of names) {
    const parameter = model.parameters.get(name)!;
    parts.push(new TextEncoder().encode(`\n${name} ${parameter.dtype} [${parameter.shape}] `));
    parts.push(await sample(parameter));
  }
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const types = [...new Set([...model.parameters.values()].map((t) => t.dtype))].sort();
  return `${types.join("+")}:${[...hash].map((b) => b.toString(16).padStart(2, "0")).join("")}`;
}

async function sample(parameter: Tensor): Promise<Uint8Array<ArrayBuffer>> {
  const { buffer, byteOffset, byteLength } = await parameter.data();
  const bytes = new Uint8Array(buffer, byteOffset, byteLength);
  const width = 4 * SAMPLES;
  if (byteLength <= width) return bytes.slice();
  const out = new Uint8Array(width);
  const words = Math.floor(byteLength / 4);
  for (let i = 0; i < SAMPLES; i++) {
    const at = 4 * Math.floor(i * words / SAMPLES);
    out.set(bytes.subarray(at, at + 4), 4 * i);
  }
  return out;
}
