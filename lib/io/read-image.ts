/**
 * Images from files: JPEG, PNG and WebP.
 *
 * @module
 */
import { FileError } from "../errors.ts";
import { remembered } from "../tensor/computed.ts";
import { openByteSource } from "./byte-source.ts";

/** An image in red, green and blue. */
export interface RgbImage {
  /** Pixels in a row. */
  readonly width: number;
  /** Rows. */
  readonly height: number;
  /** Row by row three bytes for each pixel. */
  readonly data: Uint8Array;
}

/** Gives four bytes for each pixel. */
type Decode = (bytes: ArrayBuffer) => Promise<
  Omit<RgbImage, "data"> & { readonly data: ArrayLike<number> }
>;

interface Format {
  readonly name: string;
  /** How its files begin. */
  readonly start: RegExp;
  /** Whether a file has its end. */
  isWhole?(bytes: Uint8Array): boolean;
  /** Loads its decoder. */
  decoder(): Promise<Decode>;
}

const FORMATS: readonly Format[] = [
  {
    name: "JPEG",
    start: /^\xff\xd8\xff/,
    // Its decoder fills up what is missing. Image data holds no markers.
    isWhole: (bytes) => lastMarker(bytes, 0xd9) > lastMarker(bytes, 0xda),
    async decoder() {
      const { default: decode, init } = await import("@jsquash/jpeg/decode.js");
      // What Pillow puts up with, it would write to the console.
      await init({ printErr: () => {} } as Parameters<typeof init>[0]);
      return (bytes) => decode(bytes, { preserveOrientation: true });
    },
  },
  {
    name: "PNG",
    start: /^\x89PNG\r\n/,
    decoder: async () => (await import("@jsquash/png/decode.js")).default,
  },
  {
    name: "WebP",
    start: /^RIFF[^]{4}WEBP/,
    decoder: async () => (await import("@jsquash/webp/decode.js")).default,
  },
];

// Each is loaded once, when the first of its files is read.
const decoders = new Map<string, Promise<Decode>>();

function lastMarker(bytes: Uint8Array, code: number): number {
  let at = bytes.length - 2;
  while (at >= 0 && (bytes[at] !== 0xff || bytes[at + 1] !== code)) at--;
  return at;
}

/**
 * Reads an image as Python's Pillow does: turned as its EXIF data say, transparency left out.
 *
 * @param source Path, `file:` or `http(s):` URL of a JPEG, PNG or WebP file, or its contents.
 * @throws {FileError} `FILE_NOT_FOUND`, `FILE_UNREADABLE` or `FETCH_FAILED` where it cannot be read,
 * `IMAGE_FORMAT` for another kind of file, `IMAGE_INVALID` for a damaged one.
 *
 * @example
 * ```ts
 * import { readImage } from "@graft/peft";
 * const image = await readImage(
 *   Uint8Array.from( // a red and a blue pixel
 *     atob("iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGP4z8DAwPAfAAcAAf9+CLHQAAAAAElFTkSuQmCC"),
 *     (c) => c.charCodeAt(0),
 *   ),
 * );
 * console.log(image.width, image.height); // 2 1
 * ```
 */
export async function readImage(source: string | URL | Uint8Array): Promise<RgbImage> {
  const file = await openByteSource(source), bytes = await file.read(0, file.size);
  const start = String.fromCharCode(...bytes.subarray(0, 16));
  const format = FORMATS.find((format) => format.start.test(start));
  if (!format) {
    throw new FileError(
      "IMAGE_FORMAT",
      `${file.name} is no image of a known format; ${
        FORMATS.map(({ name }) => name).join(", ")
      } can be read.`,
      { name: file.name },
    );
  }
  const invalid = (reason: string, cause?: unknown) =>
    new FileError(
      "IMAGE_INVALID",
      `${file.name} cannot be read as ${format.name}: ${reason}.`,
      { name: file.name },
      { cause },
    );
  if (format.isWhole?.(bytes) === false) throw invalid("it is incomplete");
  const decode = await remembered(decoders, format.name, format.decoder);
  try {
    const { width, height, data } = await decode(bytes.slice().buffer);
    const rgb = new Uint8Array(width * height * 3);
    for (let i = 0, j = 0; i < rgb.length; i += 3, j += 4) {
      rgb[i] = data[j];
      rgb[i + 1] = data[j + 1];
      rgb[i + 2] = data[j + 2];
    }
    return { width, height, data: rgb };
  } catch (cause) {
    throw invalid("it is damaged, or its colors are no RGB, gray or palette", cause);
  }
}
