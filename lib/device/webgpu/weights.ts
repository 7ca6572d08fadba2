/**
 * Weights stay resident by the identity of their tensors, for all programs of a device together.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import type { ValueType } from "../../ops/value.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { encode } from "./bytes.ts";
import type { DeviceBuffer, Memory } from "./memory.ts";

/** A weight on the device. */
export interface Resident {
  /** Its buffer. */
  readonly buffer: DeviceBuffer;
}

/** The resident weights of a device. */
export interface Weights {
  /** The copy of a tensor in a type, if it is there. */
  find(tensor: Tensor, dtype: ValueType): Resident | undefined;
  /**
   * Brings tensors to the device, and keeps them there until the function that it returns is called.
   *
   * @throws {DeviceError} `MEMORY_BUDGET` where they do not fit into the budget together.
   */
  pin(wanted: readonly Wanted[]): Promise<() => void>;
  /** Frees the copies of these tensors. */
  release(tensors: Iterable<Tensor>): void;
  /** Frees all. */
  clear(): void;
}

/** A tensor that a program needs, in the type in which it needs it. */
export interface Wanted {
  /** The weight. */
  readonly tensor: Tensor;
  /** Its type on the device. */
  readonly dtype: ValueType;
  /** Its name, for errors. */
  readonly name: string;
}

interface Entry extends Resident {
  readonly owner: WeakRef<Tensor>;
  readonly dtype: ValueType;
  pins: number;
  used: number;
  alive: boolean;
}

/** Bytes per write; each is staged once more on the way. */
const CHUNK = 16 * 2 ** 20;

/** No weights yet. `budget` is the most bytes that weights may take up. */
export function createWeights(gpu: GPUDevice, memory: Memory, budget: number): Weights {
  const byTensor = new WeakMap<Tensor, Map<ValueType, Entry>>();
  const entries = new Set<Entry>();
  const uploads = new Map<Tensor, Promise<void>>();
  // A help only: tensors that are dropped give up their buffers some time later.
  const dropped = new FinalizationRegistry<Entry>((entry) => drop(entry));
  let bytes = 0, clock = 0;

  function drop(entry: Entry): void {
    if (!entry.alive) return;
    entry.alive = false;
    entries.delete(entry);
    const owner = entry.owner.deref();
    if (owner) byTensor.get(owner)?.delete(entry.dtype);
    bytes -= entry.buffer.bytes;
    entry.buffer.destroy();
  }

  function makeRoom(needed: number, name: string): void {
    if (bytes + needed <= budget) return;
    const idle = [...entries].filter((e) => e.pins === 0).sort((a, b) => a.used - b.used);
    for (const entry of idle) {
      drop(entry);
      if (bytes + needed <= budget) return;
    }
    throw new DeviceError(
      "MEMORY_BUDGET",
      `The weight "${name}" needs ${needed} bytes, but the weights of this run already take up ${bytes} of the memory budget of ${budget}. Raise memoryBudgetBytes or use a smaller model.`,
      { needed, bytes, budget },
    );
  }

  async function upload({ tensor, dtype, name }: Wanted): Promise<void> {
    const contents = await encode(tensor, dtype);
    makeRoom(contents.byteLength, name);
    const buffer = memory.create(contents.byteLength, { what: `The weight "${name}"` });
    try {
      await memory.check();
    } catch (error) {
      buffer.destroy();
      throw error;
    }
    for (let at = 0; at < contents.byteLength; at += CHUNK) {
      const part = contents.subarray(at, Math.min(contents.byteLength, at + CHUNK));
      gpu.queue.writeBuffer(buffer.gpu, at, part);
      if (at + CHUNK >= contents.byteLength) break;
      // Lets the device take the chunk over before the next one is staged.
      gpu.queue.submit([]);
      await gpu.queue.onSubmittedWorkDone();
    }
    const entry: Entry = {
      buffer,
      owner: new WeakRef(tensor),
      dtype,
      pins: 0,
      used: clock++,
      alive: true,
    };
    bytes += buffer.bytes;
    entries.add(entry);
    const types = byTensor.get(tensor) ?? new Map<ValueType, Entry>();
    byTensor.set(tensor, types.set(dtype, entry));
    dropped.register(tensor, entry);
  }

  const find = (tensor: Tensor, dtype: ValueType) => byTensor.get(tensor)?.get(dtype);

  return {
    find,
    async pin(wanted) {
      const pinned: Entry[] = [];
      const unpin = () => {
        for (const entry of pinned.splice(0)) entry.pins--;
      };
      try {
        for (const want of wanted) {
          let entry = find(want.tensor, want.dtype);
          while (!entry) {
            // Another run may be bringing the same tensor.
            const before = uploads.get(want.tensor) ?? Promise.resolve();
            const turn = before.catch(() => {}).then(() =>
              find(want.tensor, want.dtype) ? undefined : upload(want)
            );
            uploads.set(want.tensor, turn);
            try {
              await turn;
            } finally {
              if (uploads.get(want.tensor) === turn) uploads.delete(want.tensor);
            }
            entry = find(want.tensor, want.dtype);
          }
          entry.pins++;
          entry.used = clock++;
          pinned.push(entry);
        }
      } catch (error) {
        unpin();
        throw error;
      }
      return unpin;
    },
    release(tensors) {
      for (const t of tensors) for (const e of [...(byTensor.get(t)?.values() ?? [])]) drop(e);
    },
    clear() {
      for (const e of [...entries]) drop(e);
    },
  };
}
