/**
 * What has to be done to images before a model sees them.
 *
 * @module
 */
import { join } from "node:path";
import { z } from "zod";
import { FileError, ShapeError, UnsupportedError, ValueError } from "../errors.ts";
import { show } from "../options.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { downloadFromHub, type HubOptions } from "./hub.ts";
import { isObject, type JsonObject, readJsonFile } from "./json.ts";
import { exists, locate } from "./locate.ts";
import { readImage, type RgbImage } from "./read-image.ts";
import { FILTERS, resizeImage } from "./resize-image.ts";

/** Both sides of an image. */
export interface ImageSize {
  /** Rows. */
  readonly height: number;
  /** Pixels in a row. */
  readonly width: number;
}

/** What is done to images, in this order. */
export interface ImageProcessor {
  /** The size that images get, or that of their shorter side, whose shape they then keep. */
  readonly size: ImageSize | { readonly shortestEdge: number } | null;
  /** The filter by which they get it, by Pillow's number: 1 Lanczos, 2 bilinear, 3 bicubic, 4 box. */
  readonly resample: number;
  /** What is cut out of their middle; what lies beyond them is 0. */
  readonly cropSize: ImageSize | null;
  /** What bytes are multiplied with. */
  readonly rescaleFactor: number;
  /** What is then taken off red, green and blue. */
  readonly imageMean: readonly number[];
  /** What the rest is divided by. */
  readonly imageStd: readonly number[];
}

/** Files that say so, and where in them. */
const FILES = ["preprocessor_config.json", "processor_config.json"];

const HALF = [0.5, 0.5, 0.5];

/** What processors do where their file does not say, by the name of their class. */
const USUAL: Readonly<Record<string, JsonObject>> = {
  ViT: { size: 224, resample: 2, image_mean: HALF, image_std: HALF },
  CLIP: {
    size: { shortest_edge: 224 },
    resample: 3,
    crop_size: 224,
    do_center_crop: true,
    image_mean: [0.48145466, 0.4578275, 0.40821073],
    image_std: [0.26862954, 0.26130258, 0.27577711],
  },
};

const side = z.int().min(1);
const both = z.object({ height: side, width: side });
const sized = z.union([side.transform((n) => ({ height: n, width: n })), both]);
const channels = z.union([
  z.number().transform((n) => [n, n, n]),
  z.array(z.number()).length(3),
]);
const flag = (otherwise: boolean) => z.boolean().nullish().transform((on) => on ?? otherwise);

const schema = z.object({
  do_resize: flag(true),
  size: z.union([
    z.object({ shortest_edge: side }).strict().transform((s) => ({
      shortestEdge: s.shortest_edge,
    })),
    sized,
  ]),
  resample: z.int().refine((n) => n in FILTERS),
  do_center_crop: flag(false),
  crop_size: sized.nullish(),
  do_rescale: flag(true),
  rescale_factor: z.number().nullish().transform((x) => x ?? 1 / 255),
  do_normalize: flag(true),
  image_mean: channels,
  image_std: channels.refine((all) => all.every((x) => x !== 0)),
  do_pad: z.literal(false).nullish(),
});

/**
 * A processor from the contents of a `preprocessor_config.json`.
 *
 * @throws {UnsupportedError} `PROCESSOR_UNKNOWN` for a class other than those of ViT and CLIP.
 * @throws {FileError} `PROCESSOR_INVALID` where a field has another form than it can have.
 *
 * @example
 * ```ts
 * import { createImageProcessor } from "@graft/peft";
 * const processor = createImageProcessor({
 *   image_processor_type: "ViTImageProcessor",
 *   size: { height: 32, width: 32 },
 * });
 * console.log(processor.imageMean); // [0.5, 0.5, 0.5]
 * ```
 */
export function createImageProcessor(json: JsonObject): ImageProcessor {
  const type = json.image_processor_type ?? json.feature_extractor_type;
  const name = String(type).replace(/(ImageProcessor|FeatureExtractor)(Fast|Pil)?$/, "");
  if (!Object.hasOwn(USUAL, name)) {
    throw new UnsupportedError(
      "PROCESSOR_UNKNOWN",
      `Images are not prepared here as by ${show(type)}; known are ${
        Object.keys(USUAL).map((known) => `${known}ImageProcessor`).join(" and ")
      }. Give pixelValues of your own, or make a processor from an object with the same fields.`,
      { type },
    );
  }
  const given = Object.fromEntries(Object.entries(json).filter(([, value]) => value !== null));
  // A number alone was once the shorter side for CLIP.
  const size = name === "CLIP" && typeof given.size === "number"
    ? { size: { shortest_edge: given.size } }
    : {};
  const { success, data, error } = schema.safeParse({ ...USUAL[name], ...given, ...size });
  if (!success) {
    const [{ path: [field] }] = error.issues;
    throw new FileError(
      "PROCESSOR_INVALID",
      `The image processor's ${String(field)} cannot be ${show(given[String(field)])}.`,
      { field },
    );
  }
  return {
    size: data.do_resize ? data.size : null,
    resample: data.resample,
    cropSize: data.do_center_crop && data.crop_size ? data.crop_size : null,
    rescaleFactor: data.do_rescale ? data.rescale_factor : 1,
    imageMean: data.do_normalize ? data.image_mean : [0, 0, 0],
    imageStd: data.do_normalize ? data.image_std : [1, 1, 1],
  };
}

/**
 * Loads the image processor that lies beside a model.
 *
 * @param source A folder with `preprocessor_config.json` or `processor_config.json`, such a file, or
 * a model on the Hugging Face hub.
 * @throws {FileError} `PROCESSOR_MISSING` where there is none; and what {@link createImageProcessor}
 * throws.
 *
 * @example
 * ```ts
 * import { loadImageProcessor } from "@graft/peft";
 * const folder = await Deno.makeTempDir();
 * const file = { image_processor_type: "CLIPImageProcessor", crop_size: 32 };
 * await Deno.writeTextFile(`${folder}/preprocessor_config.json`, JSON.stringify(file));
 * console.log((await loadImageProcessor(folder)).cropSize); // { height: 32, width: 32 }
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function loadImageProcessor(
  source: string | URL,
  options: HubOptions = {},
): Promise<ImageProcessor> {
  const place = await locate(source);
  if (place.kind === "file") return createImageProcessor(await processorIn(place.path));
  const folder = place.kind === "folder"
    ? place.path
    : place.kind === "hub"
    ? (await downloadFromHub(place.id, { optionalFiles: FILES, ...options })).folder
    : undefined;
  for (const name of FILES) {
    const path = folder && join(folder, name);
    if (path && await exists(path)) return createImageProcessor(await processorIn(path));
  }
  throw new FileError(
    "PROCESSOR_MISSING",
    `${source} holds no ${
      FILES.join(" or ")
    }, which say how images are prepared. Use createImageProcessor with what they would say.`,
    { source: String(source) },
  );
}

/** The processor in a file, which may be a part of one for several kinds of input. */
async function processorIn(path: string): Promise<JsonObject> {
  const json = await readJsonFile(path);
  return isObject(json.image_processor) ? json.image_processor : json;
}

/**
 * Images as models take them.
 *
 * @param images Paths, URLs, contents of files, or images that have been read.
 * @param processor What is done to them.
 * @returns Their `pixelValues` [B, 3, H, W], f32.
 * @throws {FileError} where one cannot be read: see {@link readImage}.
 * @throws {ValueError} `IMAGES` where there are none.
 * @throws {ShapeError} `IMAGE_SIZES` where they end in several sizes.
 *
 * @example
 * ```ts
 * import { createImageProcessor, processImages } from "@graft/peft";
 * const processor = createImageProcessor({ image_processor_type: "ViTImageProcessor", size: 2 });
 * const white = { width: 3, height: 1, data: new Uint8Array(9).fill(255) };
 * const pixelValues = await processImages([white], processor);
 * console.log(pixelValues.shape, (await pixelValues.data())[0]); // [1, 3, 2, 2] 1
 * ```
 */
export async function processImages(
  images: readonly (string | URL | Uint8Array | RgbImage)[],
  processor: ImageProcessor,
): Promise<Tensor> {
  if (!Array.isArray(images) || images.length === 0) {
    throw new ValueError("IMAGES", `A list of images is needed; found ${show(images)}.`);
  }
  const ready: RgbImage[] = [];
  for (const image of images) {
    const isRead = typeof image === "object" && "data" in image && "width" in image;
    ready.push(cutOut(isRead ? image : await readImage(image), processor));
  }
  const [{ width, height }] = ready, area = width * height;
  const odd = ready.findIndex((image) => image.width !== width || image.height !== height);
  if (odd >= 0) {
    throw new ShapeError(
      "IMAGE_SIZES",
      `Image 0 ends in ${width}×${height} pixels and image ${odd} in ${ready[odd].width}×${
        ready[odd].height
      }, which makes no batch: the processor needs a size of both sides, or a cropSize.`,
      { index: odd },
    );
  }
  const { rescaleFactor, imageMean, imageStd } = processor, f = Math.fround;
  const tables = imageMean.map((mean, c) =>
    Float32Array.from({ length: 256 }, (_, byte) => {
      return f(f(byte * rescaleFactor) - f(mean)) / f(imageStd[c]);
    })
  );
  const values = new Float32Array(ready.length * 3 * area);
  ready.forEach(({ data }, n) => {
    tables.forEach((table, c) => {
      const start = (3 * n + c) * area;
      for (let i = 0; i < area; i++) values[start + i] = table[data[3 * i + c]];
    });
  });
  return tensor(values, { shape: [ready.length, 3, height, width] });
}

/** An image in its new size, and what is cut out of it. */
function cutOut(image: RgbImage, { size, resample, cropSize }: ImageProcessor): RgbImage {
  const resized = size ? resizeImage(image, { ...sizeFor(image, size), filter: resample }) : image;
  if (!cropSize) return resized;
  const { width, height } = cropSize, data = new Uint8Array(width * height * 3);
  const top = Math.floor((resized.height - height) / 2);
  const left = Math.floor((resized.width - width) / 2);
  const first = Math.max(0, -left), last = Math.min(width, resized.width - left);
  for (let y = Math.max(0, -top); y < Math.min(height, resized.height - top); y++) {
    const from = (y + top) * resized.width + left;
    data.set(resized.data.subarray(3 * (from + first), 3 * (from + last)), 3 * (y * width + first));
  }
  return { width, height, data };
}

function sizeFor(
  { width, height }: ImageSize,
  size: NonNullable<ImageProcessor["size"]>,
): ImageSize {
  if (!("shortestEdge" in size)) return size;
  const { shortestEdge: short } = size;
  const long = Math.trunc(short * Math.max(width, height) / Math.min(width, height));
  return width <= height ? { width: short, height: long } : { width: long, height: short };
}
