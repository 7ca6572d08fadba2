/**
 * What runs through all layers of a model.
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
