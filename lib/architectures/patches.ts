/**
 * How models that see begin: an image is cut into patches, each of which becomes a row, behind one
 * that stands for the image as a whole.
 *
 * @module
 */
import type { ModelConfig } from "../model/architecture.ts";
import { type BatchInput, pixelValues } from "../model/batch-input.ts";
import type { ConvSizes, Layer, Modules } from "../model/modules.ts";
import { broadcast } from "../ops/broadcast.ts";
import { concat } from "../ops/concat.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { configReader } from "./config-reader.ts";

/** Sizes of images and of what they are cut into. */
export interface Patches {
  /** Images as a part of a batch. */
  readonly pixels: BatchInput;
  /** The convolution that makes rows of them. */
  readonly sizes: ConvSizes;
  /** How many rows there are, with the one for the whole. */
  readonly rows: number;
}

/** What a config says about images; one number stands for both of their sides. */
export function readPatches(
  config: ModelConfig,
  of: { readonly patch: number; readonly axis?: "batch" | "images" },
): Patches {
  const { size } = configReader(config);
  const pair = (name: string, otherwise: number): readonly [number, number] => {
    const { [name]: given = otherwise } = config;
    const sides = Array.isArray(given) && given.length === 2 ? given : [given, given];
    const side = (value: unknown) => configReader({ ...config, [name]: value }).size(name);
    return [side(sides[0]), side(sides[1])];
  };
  const channels = size("num_channels", 3);
  const image = pair("image_size", 224), kernel = pair("patch_size", of.patch);
  return {
    pixels: pixelValues([channels, ...image], of.axis),
    sizes: { in: channels, out: size("hidden_size"), kernel },
    rows: 1 + Math.floor(image[0] / kernel[0]) * Math.floor(image[1] / kernel[1]),
  };
}

/** Declares the convolution that makes rows. */
export function patchLayer(
  m: Modules,
  name: string,
  { sizes, bias }: Pick<Patches, "sizes"> & { readonly bias: boolean },
): Layer {
  return m.conv(name, sizes, { stride: sizes.kernel, bias });
}

/** Rows [B, 1 + P, D] of what the convolution gives [B, D, ...], behind the row of the whole. */
export function patchRows(patches: Value, whole: Value): Value {
  const [batch, size] = patches.shape;
  const rows = transpose(reshape(patches, [batch, size, -1]));
  return concat([broadcast(reshape(whole, [1, 1, size]), [batch, 1, size]), rows], { axis: 1 });
}
