/**
 * Images from files, and what is done to them, against Pillow and transformers.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FileError, GraftError, ShapeError } from "../../lib/errors.ts";
import {
  createImageProcessor,
  loadImageProcessor,
  processImages,
} from "../../lib/io/image-processor.ts";
import { readImage, type RgbImage } from "../../lib/io/read-image.ts";
import { inFolder } from "./folder.ts";
import golden from "./images.golden.json" with { type: "json" };

function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

/** The image that both sides make. */
function pixels([width, height]: readonly number[]): RgbImage {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => {
    const c = i % 3, x = Math.floor(i / 3) % width, y = Math.floor(i / 3 / width);
    return (x * x * 7 + y * 13 + x * y * 3 + c * 50) % 256;
  });
  return { width, height, data };
}

for (const { name, file, width, height, rgb } of golden.decoded) {
  Deno.test(`${name} is read to the last bit as Pillow reads it`, async () => {
    const image = await readImage(bytesOf(file));
    assertEquals([image.width, image.height], [width, height]);
    assertEquals(image.data, bytesOf(rgb));
  });
}

for (const { config, image, shape, values } of golden.processed) {
  Deno.test(`${JSON.stringify(config)} gives transformers' pixels`, async () => {
    const pixelValues = await processImages([pixels(image)], createImageProcessor(config));
    assertEquals(pixelValues.shape, [1, ...shape]);
    const got = await pixelValues.data();
    // Not one byte is another: the smallest step there is, is a thousand times as large.
    values.forEach((x, i) => assert(Math.abs(x - Number(got[i])) < 1e-6, `${i}: ${got[i]}, ${x}`));
  });
}

Deno.test("processors are read from both files that there are", async () => {
  const { saved } = golden, expected = createImageProcessor(saved);
  assertEquals(expected.size, { height: 224, width: 224 });
  for (const name of ["preprocessor_config.json", "processor_config.json"]) {
    await inFolder(async (folder) => {
      const contents = name === "processor_config.json" ? { image_processor: saved } : saved;
      await Deno.writeTextFile(`${folder}/${name}`, JSON.stringify(contents));
      assertEquals(await loadImageProcessor(folder), expected);
      assertEquals(await loadImageProcessor(`${folder}/${name}`), expected);
    });
  }
  // As files of the first releases say it.
  const old = createImageProcessor({ feature_extractor_type: "CLIPFeatureExtractor", size: 224 });
  assertEquals(old, createImageProcessor({ image_processor_type: "CLIPImageProcessorFast" }));
  assertEquals(old.size, { shortestEdge: 224 });
});

Deno.test("images of several sizes, from paths, bytes and pixels, are one batch", async () => {
  const processor = createImageProcessor(golden.processed[0].config);
  await inFolder(async (folder) => {
    const [first, second] = golden.decoded.map(({ file }) => bytesOf(file));
    await Deno.writeFile(`${folder}/a.jpg`, first);
    const three = [`${folder}/a.jpg`, second, pixels([23, 17])];
    const { shape, data } = await processImages(three, processor);
    assertEquals(shape, [3, 3, 7, 9]);
    const last = (await data()).slice(2 * 189);
    golden.processed[0].values.forEach((x, i) => assert(Math.abs(x - Number(last[i])) < 1e-6));
  });
});

Deno.test("what is no image, or half of one, is refused, and the next is read", async () => {
  const codes = async (bytes: Uint8Array) => {
    const error = await assertRejects(() => readImage(bytes), FileError);
    return (error as FileError).code;
  };
  for (const { name, file, rgb } of golden.decoded) {
    const bytes = bytesOf(file);
    for (let end = 16; end < bytes.length - 12; end += 97) {
      assertEquals(await codes(bytes.slice(0, end)), "IMAGE_INVALID", `${name} until ${end}`);
    }
    assertEquals((await readImage(bytes)).data, bytesOf(rgb));
  }
  assertEquals(await codes(new Uint8Array()), "IMAGE_FORMAT");
  assertEquals(await codes(new TextEncoder().encode("GIF89a")), "IMAGE_FORMAT");
  // More pixels than there is memory for.
  const huge = bytesOf(golden.decoded.find(({ name }) => name === "a.png")!.file);
  new DataView(huge.buffer).setUint32(16, 2e9);
  assertEquals(await codes(huge), "IMAGE_INVALID");
  const missing = await assertRejects(() => readImage("/none/such.png"), FileError);
  assertEquals((missing as FileError).code, "FILE_NOT_FOUND");
});

Deno.test("what a processor cannot do is refused", async () => {
  const vit = { image_processor_type: "ViTImageProcessor" };
  const refused: readonly (readonly [Record<string, unknown>, string])[] = [
    [{ image_processor_type: "DetrImageProcessor" }, "PROCESSOR_UNKNOWN"],
    [{}, "PROCESSOR_UNKNOWN"],
    [{ ...vit, size: { longest_edge: 5 } }, "PROCESSOR_INVALID"],
    [{ ...vit, size: { shortest_edge: 5, longest_edge: 9 } }, "PROCESSOR_INVALID"],
    [{ ...vit, resample: 0 }, "PROCESSOR_INVALID"],
    [{ ...vit, image_std: [1, 0, 1] }, "PROCESSOR_INVALID"],
    [{ ...vit, do_pad: true }, "PROCESSOR_INVALID"],
  ];
  for (const [json, code] of refused) {
    const error = assertThrows(() => createImageProcessor(json), GraftError);
    assertEquals((error as GraftError).code, code, JSON.stringify(json));
  }
  const kept = createImageProcessor({ ...vit, size: { shortest_edge: 4 } });
  const sizes = [pixels([8, 8]), pixels([8, 12])];
  await assertRejects(() => processImages(sizes, kept), ShapeError, "4×6");
  await assertRejects(() => processImages([], kept), GraftError, "list of images");
  await inFolder(async (folder) => {
    const error = await assertRejects(() => loadImageProcessor(folder), FileError);
    assertEquals((error as FileError).code, "PROCESSOR_MISSING");
  });
});
