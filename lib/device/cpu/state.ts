/**
 * State on the CPU: arrays on the host that programs replace, or write rows into.
 *
 * @module
 */
import { DeviceError, ShapeError } from "../../errors.ts";
import { onnxTypeOf } from "../../ops/onnx-rule.ts";
import { showSpec } from "../../ops/shapes.ts";
import type { Spec } from "../../ops/value.ts";
import { float32ToBits } from "../../tensor/convert.ts";
import { arrayOf, sizeOf, type TypedArray } from "../../tensor/dtype.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import type { State } from "../device.ts";
import { contentsFor, fits } from "./residency.ts";
import { type Feed, feedOf, type Runtime } from "./session.ts";

/** State of the CPU device. */
export class CpuState implements State {
  readonly specs: Readonly<Record<string, Spec>>;
  readonly #runtime: Runtime;
  readonly #arrays = new Map<string, { readonly array: TypedArray; readonly feed: Feed }>();
  readonly #onDispose: () => void;

  constructor(
    runtime: Runtime,
    specs: Readonly<Record<string, Spec>>,
    onDispose: () => void,
  ) {
    this.#runtime = runtime;
    this.specs = specs;
    this.#onDispose = onDispose;
    for (const [name, spec] of Object.entries(specs)) {
      this.replace(name, arrayOf(onnxTypeOf(spec.dtype), sizeOf(spec.shape)));
    }
  }

  async write(name: string, value: Tensor): Promise<void> {
    const spec = this.#spec(name);
    if (!fits(value, spec)) {
      throw new ShapeError(
        "STATE",
        `The state "${name}" is ${
          showSpec(spec)
        }, but a tensor ${value.dtype}[${value.shape}] was written to it.`,
        { name },
      );
    }
    this.replace(name, (await contentsFor(value, spec)).slice() as TypedArray);
  }

  read(name: string): Promise<Tensor> {
    const { dtype, shape } = this.#spec(name);
    const array = this.entry(name).array.slice() as TypedArray;
    return Promise.resolve(hostTensor(array, { dtype, shape }));
  }

  /** The array of an entry, and the tensor over it. */
  entry(name: string): { readonly array: TypedArray; readonly feed: Feed } {
    const entry = this.#arrays.get(name);
    if (!entry) {
      this.#spec(name);
      throw new DeviceError("STATE_DISPOSED", `The state with "${name}" was disposed of.`);
    }
    return entry;
  }

  /** Makes this array, which nothing else may write to, the contents of an entry. */
  replace(name: string, array: TypedArray): void {
    const { dtype, shape } = this.specs[name];
    this.#arrays.set(name, {
      array,
      feed: feedOf(this.#runtime, array, { type: onnxTypeOf(dtype), shape }),
    });
  }

  /** Bytes of all entries. */
  get bytes(): number {
    let bytes = 0;
    for (const { array } of this.#arrays.values()) bytes += array.byteLength;
    return bytes;
  }

  [Symbol.dispose](): void {
    if (this.#arrays.size === 0) return;
    this.#onDispose();
    this.#arrays.clear();
  }

  #spec(name: string): Spec {
    const spec = Object.hasOwn(this.specs, name) ? this.specs[name] : undefined;
    if (!spec) {
      throw new ShapeError(
        "STATE",
        `There is no state "${name}"; there are ${Object.keys(this.specs).join(", ")}.`,
        { name },
      );
    }
    return spec;
  }
}

/** What the device computed, as a tensor of the program's type. */
export function hostTensor(array: TypedArray, spec: Spec): Tensor {
  const { dtype, shape } = spec;
  const data = dtype === "f16" || dtype === "bf16"
    ? float32ToBits(array as Float32Array, dtype)
    : array;
  return tensor(data, { dtype, shape });
}
