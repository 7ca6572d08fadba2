/**
 * Softmax along rows, in two passes: the largest element and the sum together, rescaling the sum when a larger element comes (Milakov and
 * Gimelshein, 2018, arXiv:1805.02867), then the quotients. 3 words of traffic per element, instead of 4 with a pass for each.
 *
 * @module
 */
import type { Kernel } from "./kernel.ts";
import { forItems, isLong, itemsOf, rowKernel } from "./rows.ts";
import { createSizes } from "./sizes.ts";

/** WGSL that declares `top` (the largest element of the row of `data`) and `sum` (of the exponentials of elements less `top`). */
export function exponentialSum(data: string, long: boolean): string {
  return `var most = item(-1e30f);
  var mass = item();
  ${
    forItems(
      `let x = ${data}[first + i];
      let more = max(blockMost, x);
      blockMass = blockMass * exp(blockMost - more) + exp(x - more);
      blockMost = more;`,
      {
        before: "var blockMost = most;\n    var blockMass = item();",
        long,
        after: "mass = mass * exp(most - blockMost) + blockMass;\n    most = blockMost;",
      },
    )
  }
  let top = largest(most);
  let sum = total(mass * exp(most - top));`;
}

/** Softmax of each of `rows` rows of `length` elements. */
export function softmaxKernel(
  size: { readonly rows: number; readonly length: number },
  options: { readonly software: boolean },
): Kernel {
  const { vector } = itemsOf(size.length);
  return rowKernel({
    ...size,
    sizes: createSizes(),
    declare: `@group(0) @binding(0) var<storage, read> x: array<item>;
@group(0) @binding(1) var<storage, read_write> output: array<item>;
`,
    body: `${exponentialSum("x", isLong(size.length, options))}
  let inverse = 1.0 / sum;
  ${
      forItems(
        vector
          ? "output[first + i] = epilogue4(exp(x[first + i] - top) * inverse, (first + i) * 4u);"
          : "output[first + i] = epilogue(exp(x[first + i] - top) * inverse, first + i);",
      )
    }`,
    bindings: [0, "output"],
    epilogue: true,
  }, options);
}
