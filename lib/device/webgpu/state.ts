/**
 * State that lives on a WebGPU device.
 *
 * @module
 */
import { DeviceError, ShapeError, ValueError } from "../../errors.ts";
import { bytesOf, exactBytes, sameShape, showSpec } from "../../ops/shapes.ts";
import type { Spec } from "../../ops/value.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { State } from "../device.ts";
import { decode, encode } from "./bytes.ts";
import type { DeviceBuffer, Memory } from "./memory.ts";

/** How a state reaches the device it lives on. */
export interface StateHost {
  /** Its buffers come from here. */
  readonly memory: Memory;
  /** Throws where the device is gone or has failed. */
  check(): Promise<void>;
  /** Writes bytes to a buffer. */
  write(buffer: DeviceBuffer, bytes: Uint8Array<ArrayBuffer>): void;
  /** Copies the start of a buffer to the host. */
  read(buffer: Pick<DeviceBuffer, "gpu">, bytes: number): Promise<Uint8Array>;
}

/** Named buffers that programs update in place. */
export class GpuState implements State {
  readonly specs: Readonly<Record<string, Spec>>;
  /** The host that it was made by. */
  readonly host: StateHost;
  readonly #buffers: Map<string, DeviceBuffer>;

  /** Zeroed buffers for these specs. */
  constructor(host: StateHost, specs: Readonly<Record<string, Spec>>) {
    this.host = host;
    this.specs = specs;
    this.#buffers = new Map();
    try {
      for (const [name, spec] of Object.entries(specs)) {
        const what = `The state "${name}"`;
        this.#buffers.set(name, host.memory.create(bytesOf(spec), { what }));
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** The buffer of an entry. */
  buffer(name: string): DeviceBuffer {
    const buffer = this.#buffers.get(name);
    if (buffer) return buffer;
    if (name in this.specs) {
      throw new DeviceError("STATE_DISPOSED", `The state with "${name}" was disposed of already.`);
    }
    throw new ValueError(
      "STATE_NAME",
      `The state has no entry "${name}"; it has ${Object.keys(this.specs).join(", ") || "none"}.`,
    );
  }

  async write(name: string, value: Tensor): Promise<void> {
    const buffer = this.buffer(name), spec = this.specs[name];
    if (!sameShape(spec.shape, value.shape)) {
      throw new ShapeError(
        "STATE_SHAPE",
        `The state "${name}" is ${
          showSpec(spec)
        }; a tensor of shape [${value.shape}] cannot be written to it.`,
      );
    }
    const bytes = await encode(value, spec.dtype);
    await this.host.check();
    this.host.write(buffer, bytes);
  }

  async read(name: string): Promise<Tensor> {
    const buffer = this.buffer(name), spec = this.specs[name];
    return decode(await this.host.read(buffer, exactBytes(spec)), spec);
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers.values()) buffer.destroy();
    this.#buffers.clear();
  }
}
