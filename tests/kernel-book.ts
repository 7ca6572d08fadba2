/**
 * Which kernels have been seen to be right.
 *
 * @module
 */
import { featuresOf } from "../lib/device/webgpu/adapter.ts";
import { compileProgram, type Compiler } from "../lib/device/webgpu/compile.ts";
import type { Pipeline } from "../lib/device/webgpu/pipelines.ts";
import { UNTUNED } from "../lib/device/webgpu/tune.ts";
import type { WebGpuDevice } from "../lib/device/webgpu/mod.ts";
import type { Program } from "../lib/program/program.ts";

/** Kernels by their text, which has no sizes. */
export interface KernelBook {
  /** The kernels of these programs that are not in it. */
  unknown(programs: readonly Program[]): Promise<readonly string[]>;
  /** Adds kernels. */
  add(kernels: readonly string[]): void;
}

/** An empty book for the kernels that a GPU would run. */
export function createKernelBook({ gpu }: WebGpuDevice): KernelBook {
  const known = new Set<string>();
  const looked = new Map<string, ReadonlySet<string>>();

  async function kernelsOf(program: Program): Promise<ReadonlySet<string>> {
    const found = looked.get(program.key);
    if (found) return found;
    const kernels = new Set<string>();
    const compiler: Compiler = {
      gpu,
      features: featuresOf(gpu, { software: false }),
      tuner: UNTUNED,
      maxBinding: gpu.limits.maxStorageBufferBindingSize,
      alignment: gpu.limits.minStorageBufferOffsetAlignment,
      pipelines: {
        get({ source, sizes }) {
          kernels.add(`${sizes.key()}\n${source}`);
          return Promise.resolve(null as unknown as Pipeline);
        },
      },
    };
    await compileProgram(compiler, program);
    looked.set(program.key, kernels);
    return kernels;
  }

  return {
    async unknown(programs) {
      const kernels = new Set<string>();
      for (const p of programs) for (const k of await kernelsOf(p)) kernels.add(k);
      return [...kernels].filter((k) => !known.has(k));
    },
    add(kernels) {
      for (const k of kernels) known.add(k);
    },
  };
}
