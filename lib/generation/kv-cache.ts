/**
 * Room for the keys and values of a text that is being generated. It comes in few sizes, so that
 * few programs are compiled.
 *
 * @module
 */
import type { Device, State } from "../device/device.ts";
import { attentionLayers, type ModelGraph, writtenSequence } from "../model/model-graph.ts";
import { gather } from "../ops/gather.ts";
import { input } from "../ops/input.ts";
import { reshape } from "../ops/reshape.ts";
import type { Spec } from "../ops/value.ts";
import { type Program, trace } from "../program/program.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { tensor } from "../tensor/tensor.ts";

const SMALLEST_CAPACITY = 64;
const SMALLEST_CHUNK = 16;
const LARGEST_CHUNK = 512;

/** The smallest capacity among 64, 128, 256 … that holds this many positions. */
export function cacheCapacity(positions: number): number {
  return powerOfTwo(positions, SMALLEST_CAPACITY);
}

/** A part of a prompt that goes through the model in one run. */
export interface PromptChunk {
  /** First position. */
  readonly start: number;
  /** Number of positions. */
  readonly count: number;
  /** The length that the program is traced for; what is beyond `count` is filled up and ignored. */
  readonly length: number;
}

/**
 * Cuts a prompt into parts of 512 positions and a rest whose length is rounded up to a power of two
 * from 16 on; all fit into `cacheCapacity(positions)`.
 */
export function promptChunks(positions: number): PromptChunk[] {
  const chunks: PromptChunk[] = [];
  for (let start = 0; start < positions; start += LARGEST_CHUNK) {
    const count = Math.min(LARGEST_CHUNK, positions - start);
    chunks.push({ start, count, length: powerOfTwo(count, SMALLEST_CHUNK) });
  }
  return chunks;
}

/** What an encoder's prompt of so many tokens is filled up to, in one part. */
export function readLength(tokens: number): number {
  return powerOfTwo(tokens, SMALLEST_CHUNK);
}

function powerOfTwo(least: number, smallest: number): number {
  let size = smallest;
  while (size < least) size *= 2;
  return size;
}

/**
 * The state of a cache, f32 [B, positions, heads, headSize] for each layer N: `cache.N.k` and
 * `cache.N.v` of what is written, `memory.N.k` and `memory.N.v` of what an encoder read.
 */
export function cacheSpecs(
  model: ModelGraph,
  size: { readonly batch: number; readonly capacity: number; readonly memory: number },
): Record<string, Spec> {
  const specs: Record<string, Spec> = {};
  const sequences = [
    { name: "cache", over: writtenSequence(model), positions: size.capacity },
    { name: "memory", over: "memory", positions: size.memory },
  ] as const;
  for (const { name, over, positions } of sequences) {
    for (const { index, keyHeads, headSize } of attentionLayers(model, over)) {
      const shape = [size.batch, positions, keyHeads, headSize];
      for (const part of ["k", "v"]) specs[`${name}.${index}.${part}`] = { shape, dtype: "f32" };
    }
  }
  return specs;
}

/** The program that gives each row of a cache what another holds: row `rows[i]` for row i. */
export function reorderProgram(specs: Readonly<Record<string, Spec>>): Program {
  const names = Object.keys(specs);
  return trace((graph) => {
    const [batch] = specs[names[0]].shape;
    const rows = input(graph, "rows", { shape: [batch], dtype: "i32" });
    return Object.fromEntries(names.map((name) => {
      const { shape } = specs[name];
      const state = input(graph, name, { ...specs[name], role: "state" });
      const moved = gather(reshape(state, [batch, -1]), rows);
      return [`next.${name}`, reshape(moved, shape)];
    }));
  }, { updates: Object.fromEntries(names.map((name) => [name, `next.${name}`])) });
}

/** A larger cache with the same contents, copied through the host. The old one is disposed of. */
export async function growCache(
  device: Device,
  old: State,
  specs: Readonly<Record<string, Spec>>,
): Promise<State> {
  const grown = device.createState(specs);
  try {
    for (const [name, spec] of Object.entries(specs)) {
      const from = await old.read(name);
      const data = await from.data() as Float32Array;
      const contents = new Float32Array(sizeOf(spec.shape));
      const row = data.length / spec.shape[0], newRow = contents.length / spec.shape[0];
      for (let b = 0; b < spec.shape[0]; b++) {
        contents.set(data.subarray(b * row, (b + 1) * row), b * newRow);
      }
      await grown.write(name, tensor(contents, { shape: spec.shape }));
    }
  } catch (error) {
    grown[Symbol.dispose]();
    throw error;
  }
  old[Symbol.dispose]();
  return grown;
}
