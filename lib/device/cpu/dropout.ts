/**
 * Dropout masks made on the host, where one loop does what would take a dozen passes of ONNX operators.
 *
 * @module
 */
import { dropoutThreshold } from "../../ops/dropout-mask.ts";
import type { Attributes } from "../../ops/value.ts";
import { mix } from "../../tensor/random.ts";

/** A mask that a session is fed. */
export interface MaskInput {
  /** Name of the graph's `u8` input: 1 where an element is kept. */
  readonly name: string;
  /** Name of the program's input that holds the seed. */
  readonly seed: string;
  /** Which of the program's masks it is. */
  readonly stream: number;
  /** Share of zeros. */
  readonly rate: number;
  /** Number of elements. */
  readonly size: number;
  /** Name of the program's input that holds the number of the first row, and elements of a row. */
  readonly rows?: { readonly first: string; readonly size: number };
}

/** The mask number `number` of a program. */
export function maskInput(
  attributes: Attributes,
  of: Pick<MaskInput, "seed" | "size" | "rows"> & { readonly number: number },
): MaskInput {
  const { rate, stream } = attributes as { rate: number; stream: number };
  const { number, ...rest } = of;
  return { name: `mask ${number}`, stream, rate, ...rest };
}

/** Writes 1 where the generator of `dropoutMask` keeps an element, and 0 elsewhere. */
export function fillMask(
  out: Uint8Array,
  mask: MaskInput,
  { seed, firstRow = 0 }: { readonly seed: number; readonly firstRow?: number },
): void {
  const start = firstRow * (mask.rows?.size ?? 0);
  const key = mix(mask.stream ^ mix(seed)), below = dropoutThreshold(mask.rate) - 1;
  const hash = (pair: number) => {
    let x = pair ^ key;
    x = Math.imul(x ^ x >>> 16, 0x7feb352d);
    x = Math.imul(x ^ x >>> 15, 0x846ca68b);
    return x ^ x >>> 16;
  };
  // The sign tells which is larger, without a branch.
  const kept = (half: number) => (below - half) >>> 31;
  let i = 0;
  if (start & 1) out[i++] = kept(hash(start >>> 1) >>> 16);
  for (; i < out.length; i += 2) {
    const both = hash((i + start) >>> 1);
    out[i] = kept(both & 0xffff);
    out[i + 1] = kept(both >>> 16);
  }
}
