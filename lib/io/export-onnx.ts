/**
 * Programs as ONNX files.
 *
 * @module
 */
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { lower } from "../device/cpu/lower.ts";
import { encodeModel, type OnnxInitializer } from "../device/cpu/onnx-model.ts";
import { contentsFor, fits } from "../device/cpu/residency.ts";
import { ShapeError, ValueError } from "../errors.ts";
import { showSpec } from "../ops/shapes.ts";
import { show } from "../options.ts";
import type { Program } from "../program/program.ts";
import { sizeOf, type TypedArray } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { writeFileAtomic } from "./atomic.ts";

/** What becomes part of an exported file, and where it goes. */
export interface ExportOnnxOptions {
  /** The inputs of role `weight`, by name. Floats are written in f32, quantized matrices packed. */
  readonly weights: Readonly<Record<string, Tensor>>;
  /** The file to write, such as `model.onnx`. */
  readonly path: string | URL;
  /**
   * Weights of more bytes than this in all go to a second file beside the first, with `_data` after
   * its name. ONNX files end at 2 GiB; 1 GiB by default.
   */
  readonly largestFile?: number;
}

const ALIGNMENT = 64;

/**
 * Writes a program as an ONNX model with its weights inside, for ONNX Runtime (and so for
 * transformers.js). Inputs of role `data` and `state` stay inputs; a state that the program updates
 * is an output too, under a name with `'` after it where both have one name.
 *
 * @param program What to export. Its shapes are fixed.
 * @param options The weights and the path.
 * @throws {ValueError} for what is no program.
 * @throws {ShapeError} where a weight is missing or does not fit.
 * @throws {FileError} where the file cannot be written.
 *
 * @example
 * ```ts
 * import { exportOnnx, input, matmul, tensor, trace } from "@graft/peft";
 *
 * const program = trace((graph) => {
 *   const x = input(graph, "x", { shape: [1, 2], dtype: "f32" });
 *   const w = input(graph, "w", { shape: [3, 2], dtype: "f32", role: "weight" });
 *   return { y: matmul(x, w, { transposeB: true }) };
 * });
 * const path = await Deno.makeTempFile({ suffix: ".onnx" });
 * await exportOnnx(program, { weights: { w: tensor([[1, 2], [3, 4], [5, 6]]) }, path });
 * ```
 */
export async function exportOnnx(program: Program, options: ExportOnnxOptions): Promise<void> {
  if (!Array.isArray(program?.nodes)) {
    throw new ValueError(
      "NOT_A_PROGRAM",
      `exportOnnx needs a program, as traceModel or trace gives one; found ${show(program)}. ` +
        "Of a model: const { program, bindings } = traceModel(model, { batch, length }).",
    );
  }
  const { weights, largestFile = 2 ** 30 } = options;
  const path = options.path instanceof URL ? fileURLToPath(options.path) : options.path;
  const { graph, embedded } = lower(program, { embed: "all", hostMasks: false });
  for (const { sources } of embedded) checkWeight(program, sources[0], weights);
  // Several initializers may be made of one weight, which is then read once.
  const contents = async function* (): AsyncGenerator<readonly [number, TypedArray]> {
    for (const source of new Set(embedded.map((e) => e.sources[0]))) {
      const data = await contentsFor(weights[source], program.inputs.get(source)!);
      for (const [i, e] of embedded.entries()) {
        if (e.sources[0] === source) yield [i, e.prepare(data)];
      }
    }
  };
  const lengths = embedded.map((e) => sizeOf(e.shape) * (e.type === "u8" ? 1 : 4));
  const total = lengths.reduce((a, b) => a + b, 0);
  const initializers: OnnxInitializer[] = [];
  const writeModel = () =>
    writeFileAtomic(
      path,
      encodeModel({ ...graph, initializers: [...graph.initializers, ...initializers] }),
    );
  if (total <= largestFile) {
    for await (const [i, data] of contents()) {
      const { name, type, shape } = embedded[i];
      initializers.push({ name, type, shape, data });
    }
    return await writeModel();
  }
  const location = `${basename(path)}_data`;
  let offset = 0;
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    for await (const [i, data] of contents()) {
      const { name, type, shape } = embedded[i];
      const gap = (ALIGNMENT - offset % ALIGNMENT) % ALIGNMENT;
      if (gap) yield new Uint8Array(gap);
      offset += gap;
      const length = data.byteLength;
      initializers.push({ name, type, shape, external: { location, offset, length } });
      yield new Uint8Array(data.buffer, data.byteOffset, length);
      offset += length;
    }
  };
  // The data first: a model never refers to what is not there.
  await writeFileAtomic(`${path}_data`, pieces());
  await writeModel();
}

function checkWeight(
  program: Program,
  name: string,
  weights: Readonly<Record<string, Tensor>>,
): void {
  const spec = program.inputs.get(name)!;
  const weight = Object.hasOwn(weights, name) ? weights[name] : undefined;
  if (weight && fits(weight, spec)) return;
  throw new ShapeError(
    "EXPORT_WEIGHT",
    `The program's weight "${name}" is ${showSpec(spec)}, but ${
      weight ? `a tensor ${weight.dtype}[${weight.shape}] was given for it` : "none was given"
    }.`,
    { name },
  );
}
