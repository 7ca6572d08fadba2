/**
 * Compute pipelines, made once per WGSL source.
 *
 * @module
 */
import type { KernelDispatch } from "../../../kernels/kernel.ts";
import { SIZES_BINDING } from "../../../kernels/sizes.ts";
import { DeviceError } from "../../errors.ts";
import { remembered } from "../../tensor/computed.ts";
import type { Memory } from "./memory.ts";

/** A pipeline and what its bind groups look like. */
export interface Pipeline {
  /** The pipeline. */
  readonly gpu: GPUComputePipeline;
  /** Layout of group 0. */
  readonly layout: GPUBindGroupLayout;
}

/** The pipelines of a device. */
export interface PipelineCache {
  /**
   * The pipeline of a kernel with `bindings` storage buffers.
   *
   * @throws {DeviceError} `KERNEL_COMPILE`, naming `what`, where the adapter refuses it.
   */
  get(
    kernel: Pick<KernelDispatch, "source" | "sizes">,
    options: { readonly bindings: number; readonly what: string },
  ): Promise<Pipeline>;
}

/** An empty cache. */
export function createPipelineCache(gpu: GPUDevice, memory: Memory): PipelineCache {
  const pipelines = new Map<string, Promise<Pipeline>>();
  const layouts = new Map<string, GPUBindGroupLayout>();

  function layoutOf(signature: string): GPUBindGroupLayout {
    let layout = layouts.get(signature);
    if (!layout) {
      layout = gpu.createBindGroupLayout({
        entries: [...signature].map((access, binding) => ({
          binding: access === "u" ? SIZES_BINDING : binding,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type: BUFFERS[access as keyof typeof BUFFERS] },
        })),
      });
      layouts.set(signature, layout);
    }
    return layout;
  }

  async function compile(source: string, bindings: number, what: string): Promise<Pipeline> {
    const limit = gpu.limits.maxStorageBuffersPerShaderStage;
    if (bindings > limit) {
      throw new DeviceError(
        "KERNEL_COMPILE",
        `${what} binds ${bindings} buffers, but this adapter allows ${limit}.`,
        { bindings, limit },
      );
    }
    const layout = layoutOf(accessOf(source, bindings));
    gpu.pushErrorScope("validation");
    const pipeline = gpu.createComputePipelineAsync({
      layout: gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: gpu.createShaderModule({ code: source }), entryPoint: "main" },
    });
    // The scope is closed in this same turn: nothing else gets in between.
    const [error, made] = await Promise.all([
      gpu.popErrorScope(),
      pipeline.catch((e: Error) => e),
    ]);
    if (error || made instanceof Error) {
      const reason = error?.message ?? (made as Error).message;
      throw new DeviceError("KERNEL_COMPILE", `${what} does not compile here: ${reason.trim()}`, {
        source,
      });
    }
    memory.counts.pipelines++;
    return { gpu: made, layout };
  }

  return {
    get({ source, sizes }, { bindings, what }) {
      const key = `${sizes.key()}\n${source}`;
      return remembered(pipelines, key, () => compile(sizes.complete(source), bindings, what));
    },
  };
}

/** Kinds of binding by their letter in a signature. */
const BUFFERS = { r: "read-only-storage", w: "storage", u: "uniform" } as const;

/** `r` or `w` for each binding, as the source declares it, and `u` where it has sizes. */
function accessOf(source: string, bindings: number): string {
  const access = new Array<string>(bindings).fill("r");
  const declaration = /@group\(0\)\s*@binding\((\d+)\)\s*var<\s*storage\s*(?:,\s*(\w+)\s*)?>/g;
  for (const [, number, mode] of source.matchAll(declaration)) {
    if (mode === "read_write") access[Number(number)] = "w";
  }
  return access.join("") + (source.includes("var<uniform>") ? "u" : "");
}
