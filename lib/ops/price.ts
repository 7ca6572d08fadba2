/**
 * What making a value costs, before the program that it is to be a part of is there.
 *
 * @module
 */
import { sizeOf } from "../tensor/dtype.ts";
import { operationOf } from "./mod.ts";
import type { Value } from "./value.ts";

/** FLOPs of a product in the time in which one element is written and read again. */
const ACCESS = 100;

/**
 * The price of a value, in FLOPs of a product: those of all nodes that lead to it, and what their
 * results cost to write and read.
 *
 * @param value Any value.
 * @param options `given` are values that are there already; `trained` those that a gradient is
 * wanted of, whose way back then counts too.
 */
export function priceOf(
  value: Value,
  options: { readonly given: Iterable<Value>; readonly trained?: ReadonlySet<Value> },
): number {
  const given = new Set(options.given), trained = options.trained ?? new Set();
  let price = 0;
  /** Whether a gradient goes through a value; what is given has one where anything is trained. */
  const carries = new Map<Value, boolean>();
  const visit = (v: Value): boolean => {
    const known = carries.get(v);
    if (known !== undefined) return known;
    if (given.has(v) || trained.has(v) || v.inputs.length === 0) {
      const carrying = trained.has(v) || (given.has(v) && trained.size > 0);
      carries.set(v, carrying);
      return carrying;
    }
    const ways = v.inputs.filter(visit).length;
    const { flops, kernel } = operationOf(v);
    price += (flops(v) + (kernel.kind === "view" ? 0 : ACCESS * sizeOf(v.shape))) * (1 + ways);
    carries.set(v, ways > 0);
    return ways > 0;
  };
  visit(value);
  return price;
}
