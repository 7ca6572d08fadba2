/**
 * What was measured on a model for adapters to begin from.
 *
 * @module
 */
import type { Tensor } from "../tensor/tensor.ts";

/**
 * Where adapters begin whose initialization depends on data: an immutable value that belongs to no
 * adapter, so that any number of them can begin there.
 */
export interface Calibration {
  /** The initialization that it is for, such as `"corda"`. */
  readonly init: string;
  /** What was found for each module, by module path and name. */
  readonly sites: ReadonlyMap<string, Readonly<Record<string, Tensor>>>;
}
