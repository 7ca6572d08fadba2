/**
 * The layers of a model, one like the other, and what runs through all of them.
 *
 * @module
 */
import type { ArchitecturePass } from "../model/architecture.ts";
import { cast } from "../ops/cast.ts";
import { equal, not } from "../ops/elementwise.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";

/** 1 for tokens and 0 for padding [B, T, 1]. */
export function isToken({ segments }: ArchitecturePass): Value {
  return reshape(cast(not(equal(segments, 0)), "f32"), [...segments.shape, 1]);
}

/** Declares so many layers in their order. One that is refused ends it, however many were asked for. */
export function layersOf<T>(count: number, declare: (layer: number) => T): readonly T[] {
  const layers: T[] = [];
  while (layers.length < count) layers.push(declare(layers.length));
  return layers;
}
