/**
 * Times each kernel of a program.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Core } from "./core.ts";
import {
  type EncodeCommands,
  encodeCopy,
  type GpuExecutable,
  type RunOptions,
} from "./executable.ts";

/** What one command of a run took. */
export interface KernelTime {
  /** The operations in the kernel and the shape of its result, or `copy`. */
  readonly name: string;
  /** Milliseconds on the device. */
  readonly milliseconds: number;
  /** Floating-point operations of the node that the kernel is built around. */
  readonly flops: number;
  /** Bytes of all that it binds or copies. */
  readonly bytes: number;
}

/** Queries that one query set holds. */
const MOST = 4096;

/**
 * Runs a program once with a pass of its own for each command, and reads the adapter's clock around each.
 *
 * @throws {UnsupportedError} where the adapter has no `timestamp-query`.
 */
export async function profileRun(
  core: Core,
  executable: GpuExecutable,
  { inputs, options }: {
    readonly inputs: Readonly<Record<string, Tensor>>;
    readonly options: RunOptions;
  },
): Promise<KernelTime[]> {
  const { gpu } = core;
  if (!gpu.features.has("timestamp-query")) {
    throw new UnsupportedError(
      "PROFILE_TIMESTAMPS",
      "This adapter has no timestamp queries, so its kernels cannot be timed one by one.",
    );
  }
  const times: { name: string; flops: number; bytes: number }[] = [];
  const sets: { set: GPUQuerySet; buffer: GPUBuffer; count: number }[] = [];
  const encode: EncodeCommands = (encoder, commands, { groups, buffer }) => {
    let n = 0;
    const timed = commands.filter((c) => c.kind === "dispatch");
    for (let at = 0; at < timed.length; at += MOST / 2) {
      const count = Math.min(MOST, 2 * (timed.length - at));
      sets.push({
        set: gpu.createQuerySet({ type: "timestamp", count }),
        buffer: gpu.createBuffer({
          size: count * 8,
          usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
        }),
        count,
      });
    }
    for (const c of commands) {
      if (c.kind === "copy") {
        encodeCopy(encoder, c, buffer);
        continue;
      }
      const { set } = sets[Math.floor(2 * n / MOST)], first = 2 * n % MOST;
      const pass = encoder.beginComputePass({
        timestampWrites: {
          querySet: set,
          beginningOfPassWriteIndex: first,
          endOfPassWriteIndex: first + 1,
        },
      });
      pass.setPipeline(c.pipeline.gpu);
      pass.setBindGroup(0, groups[n++]);
      pass.dispatchWorkgroups(...c.workgroups);
      pass.end();
      times.push({
        name: c.name,
        flops: c.flops,
        bytes: c.bindings.reduce((sum, b) => sum + b.bytes, 0),
      });
    }
    for (const { set, buffer, count } of sets) encoder.resolveQuerySet(set, 0, count, buffer, 0);
  };
  await executable.run(inputs, options, encode);
  const ticks: bigint[] = [];
  for (const { set, buffer, count } of sets) {
    const { buffer: bytes } = await core.read({ gpu: buffer }, count * 8);
    ticks.push(...new BigUint64Array(bytes));
    buffer.destroy();
    set.destroy();
  }
  // Timestamps are in nanoseconds.
  return times.map((t, i) => ({
    ...t,
    milliseconds: Number(ticks[2 * i + 1] - ticks[2 * i]) / 1e6,
  }));
}
