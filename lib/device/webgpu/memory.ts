/**
 * Every buffer of a WebGPU device is made here, so that what is alive can be counted, and what fails is known by name.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import type { DeviceMemory } from "../device.ts";

/** A buffer with an identity that is never used again. */
export interface DeviceBuffer {
  /** The buffer. */
  readonly gpu: GPUBuffer;
  /** Unique on its device. */
  readonly id: number;
  /** Length in bytes. */
  readonly bytes: number;
  /** Frees it, once. */
  destroy(): void;
}

/** Makes buffers and counts what is made. */
export interface Memory {
  /** Makes a zeroed buffer of at least so many bytes; `what` names it in errors. */
  create(
    bytes: number,
    options: { readonly what: string; readonly use?: keyof ReturnType<typeof usages> },
  ): DeviceBuffer;
  /** Throws what went wrong in making buffers since the last call. */
  check(): Promise<void>;
  /** Counters that others add to. */
  readonly counts: { pipelines: number; bindGroups: number };
  /** What is alive and what was made. */
  report(): DeviceMemory;
}

/** What buffers are used for, as WebGPU says it. */
const usages = () => ({
  storage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  uniform: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
  staging: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
});

/** Sizes are multiples of this, so that vectors at the end of a value can be read whole. */
const UNIT = 16;

/** The memory of a device. */
export function createMemory(gpu: GPUDevice): Memory {
  const counts = { pipelines: 0, bindGroups: 0 };
  let bytes = 0, buffers = 0, created = 0;
  let checks: Promise<void>[] = [];
  return {
    counts,
    create(length, { what, use = "storage" }) {
      const size = Math.max(UNIT, Math.ceil(length / UNIT) * UNIT);
      if (size > gpu.limits.maxBufferSize) {
        throw new DeviceError(
          "BUFFER_SIZE",
          `${what} needs a buffer of ${size} bytes, but this adapter allows ${gpu.limits.maxBufferSize}. Use a smaller batch, or the CPU device.`,
          { bytes: size, limit: gpu.limits.maxBufferSize },
        );
      }
      gpu.pushErrorScope("out-of-memory");
      gpu.pushErrorScope("validation");
      const buffer = gpu.createBuffer({
        size,
        usage: usages()[use],
      });
      for (const scope of [gpu.popErrorScope(), gpu.popErrorScope()]) {
        checks.push(scope.then((error) => {
          if (!error) return;
          throw new DeviceError(
            "DEVICE_MEMORY",
            `${what} could not get a buffer of ${size} bytes beside the ${
              bytes - size
            } that are in use: ${error.message}. Use a smaller batch or a memory budget.`,
            { bytes: size },
          );
        }));
      }
      bytes += size;
      buffers++;
      let alive = true;
      return {
        gpu: buffer,
        id: created++,
        bytes: size,
        destroy() {
          if (!alive) return;
          alive = false;
          bytes -= size;
          buffers--;
          buffer.destroy();
        },
      };
    },
    async check() {
      const waiting = checks;
      checks = [];
      await Promise.all(waiting);
    },
    report: () => ({
      bytes,
      buffers,
      buffersCreated: created,
      pipelinesCreated: counts.pipelines,
      bindGroupsCreated: counts.bindGroups,
    }),
  };
}

/** Scratch buffers that executables share: they run one after the other, and nothing in scratch outlives a run. */
export interface ScratchPool {
  /** Gives a buffer for each size, no two of them the same. */
  acquire(sizes: readonly number[]): DeviceBuffer[];
  /** Takes them back; what nobody uses any more is freed. */
  release(buffers: readonly DeviceBuffer[]): void;
}

/** How much larger than asked for a shared buffer may be. */
const WASTE = 2;

/** An empty pool. */
export function createScratchPool(memory: Memory): ScratchPool {
  const users = new Map<DeviceBuffer, number>();
  return {
    acquire(sizes) {
      const taken = new Set<DeviceBuffer>();
      const result: DeviceBuffer[] = new Array(sizes.length);
      const order = sizes.map((_, i) => i).sort((a, b) => sizes[b] - sizes[a]);
      for (const i of order) {
        let best: DeviceBuffer | undefined;
        for (const b of users.keys()) {
          if (taken.has(b) || b.bytes < sizes[i] || b.bytes > Math.max(sizes[i], 4096) * WASTE) {
            continue;
          }
          if (!best || b.bytes < best.bytes) best = b;
        }
        best ??= memory.create(sizes[i], { what: "An intermediate value" });
        taken.add(best);
        users.set(best, (users.get(best) ?? 0) + 1);
        result[i] = best;
      }
      return result;
    },
    release(buffers) {
      for (const b of buffers) {
        const left = users.get(b)! - 1;
        users.set(b, left);
        if (left > 0) continue;
        users.delete(b);
        b.destroy();
      }
    },
  };
}

/** Buffers through which results come to the host; reused from run to run. */
export interface StagingPool {
  /** A buffer of at least so many bytes that nobody else uses until it is given back. */
  take(bytes: number): DeviceBuffer;
  /** Gives it back, unmapped. */
  give(buffer: DeviceBuffer): void;
}

/** Buffers that lie idle at most. */
const IDLE = 8;

/** An empty pool. */
export function createStagingPool(memory: Memory): StagingPool {
  const idle: DeviceBuffer[] = [];
  return {
    take(bytes) {
      let found = -1;
      idle.forEach((b, i) => {
        if (b.bytes >= bytes && (found < 0 || b.bytes < idle[found].bytes)) found = i;
      });
      if (found >= 0) return idle.splice(found, 1)[0];
      return memory.create(bytes, { what: "Reading results", use: "staging" });
    },
    give(buffer) {
      idle.push(buffer);
      // The one that has lain there longest fits least often.
      if (idle.length > IDLE) idle.shift()!.destroy();
    },
  };
}
