/**
 * Which kernels have been seen to be right: by the tests of a file, or of a whole run where it names a folder for its files to share.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { featuresOf } from "../lib/device/webgpu/adapter.ts";
import { compileProgram, type Compiler } from "../lib/device/webgpu/compile.ts";
import type { Pipeline } from "../lib/device/webgpu/pipelines.ts";
import { UNTUNED } from "../lib/device/webgpu/tune.ts";
import type { WebGpuDevice } from "../lib/device/webgpu/mod.ts";
import type { Program } from "../lib/program/program.ts";
import { KERNEL_BOOK } from "./tasks/webgpu.ts";

/** Kernels by their text, which has no sizes. */
export interface KernelBook {
  /** The kernels of these programs that are not in it. */
  unknown(programs: readonly Program[]): Promise<readonly string[]>;
  /** Adds kernels. */
  add(kernels: readonly string[]): void;
}

/** A book for the kernels that a GPU would run: empty, or what the run has so far. */
export function createKernelBook({ gpu }: WebGpuDevice): KernelBook {
  const folder = Deno.env.get(KERNEL_BOOK);
  const known = new Set<string>();
  const entry = (kernel: string) =>
    `${folder}/${createHash("sha256").update(kernel).digest("hex")}`;
  const knows = (kernel: string) => known.has(kernel) || (folder && existsSync(entry(kernel)));
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
      return [...kernels].filter((k) => !knows(k));
    },
    add(kernels) {
      for (const k of kernels) {
        known.add(k);
        if (folder) Deno.writeTextFileSync(entry(k), "");
      }
    },
  };
}
