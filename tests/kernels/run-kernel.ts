/**
 * Runs one kernel by itself, for the tests and benchmarks of kernels.
 *
 * @module
 */
import type { Kernel, KernelFeatures } from "../../kernels/kernel.ts";

import { requestAdapter } from "../../lib/device/webgpu/backends.ts";
import { SIZES_BINDING } from "../../kernels/sizes.ts";

/** An adapter's device, and what of it was given out. */
export interface Gpu extends Disposable {
  /** What kernels are chosen by here. */
  readonly features: KernelFeatures;
  /** A storage buffer of these contents, or of that many zero bytes; padded to 16 bytes. */
  buffer(contents: ArrayBufferView | number): GPUBuffer;
  /** The contents of a buffer. */
  read(buffer: GPUBuffer): Promise<ArrayBuffer>;
  /** Compiles a kernel and binds it. */
  prepare(kernel: Kernel, io: KernelBuffers): Promise<(times?: number) => Promise<void>>;
  /** Runs a kernel once on these inputs and gives the output. */
  run(
    kernel: Kernel,
    io: { readonly inputs: readonly ArrayBufferView[]; readonly output: ArrayBufferView | number },
  ): Promise<ArrayBuffer>;
}

/** What a kernel is bound to. */
export interface KernelBuffers {
  /** By number of the input. */
  readonly inputs: readonly GPUBuffer[];
  /** The output. */
  readonly output: GPUBuffer;
}

/** An elementwise function that does nothing, or one that tells each element's index. */
export const EPILOGUES = {
  identity: `
fn epilogue(value: f32, index: u32) -> f32 { return value; }
fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32> { return value; }
`,
  /** 2·value + 1 + (index mod 7): differs at each element, so that a wrong index shows. */
  indexed: `
fn epilogue(value: f32, index: u32) -> f32 { return 2.0 * value + 1.0 + f32(index % 7u); }
fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32> {
  return 2.0 * value + 1.0 + vec4<f32>((vec4<u32>(index) + vec4<u32>(0u, 1u, 2u, 3u)) % vec4<u32>(7u));
}
`,
} as const;

/** Opens the first adapter. */
export async function openGpu(
  options: { readonly epilogue?: keyof typeof EPILOGUES; readonly software?: boolean } = {},
): Promise<Gpu> {
  const adapter = await requestAdapter();
  if (!adapter) {
    throw new Error(
      "No WebGPU adapter was found. Install a Vulkan driver (Debian: mesa-vulkan-drivers).",
    );
  }
  const { limits } = adapter;
  const device = await adapter.requestDevice({
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    },
  });
  const epilogue = EPILOGUES[options.epilogue ?? "identity"];
  const buffer = (contents: ArrayBufferView | number) => {
    const bytes = typeof contents === "number" ? contents : contents.byteLength;
    const made = device.createBuffer({
      size: Math.ceil(bytes / 16) * 16,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    if (typeof contents !== "number") {
      const padded = new Uint8Array(made.size);
      padded.set(new Uint8Array(contents.buffer, contents.byteOffset, bytes));
      device.queue.writeBuffer(made, 0, padded);
    }
    return made;
  };
  const read = async (from: GPUBuffer) => {
    const staging = device.createBuffer({
      size: from.size,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(from, 0, staging, 0, from.size);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const bytes = staging.getMappedRange().slice(0);
    staging.destroy();
    return bytes;
  };
  const prepare: Gpu["prepare"] = async (kernel, io) => {
    const temporaries = (kernel.temporaries ?? []).map(buffer);
    const steps: {
      pipeline: GPUComputePipeline;
      group: GPUBindGroup;
      workgroups: readonly [number, number, number];
    }[] = [];
    for (const dispatch of kernel.dispatches) {
      device.pushErrorScope("validation");
      const words = dispatch.sizes.words();
      const source = dispatch.epilogue ? dispatch.source + epilogue : dispatch.source;
      const code = dispatch.sizes.complete(source);
      const module = device.createShaderModule({ code });
      const pipeline = device.createComputePipeline({
        layout: "auto",
        compute: { module, entryPoint: "main" },
      });
      const entries = dispatch.bindings.map((b, binding) => ({
        binding,
        resource: {
          buffer: b === "output"
            ? io.output
            : typeof b === "number"
            ? io.inputs[b]
            : temporaries[b.temporary],
        },
      }));
      if (words.length) {
        const uniform = device.createBuffer({
          size: words.byteLength,
          usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
        });
        device.queue.writeBuffer(uniform, 0, words);
        entries.push({ binding: SIZES_BINDING, resource: { buffer: uniform } });
      }
      const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
      const error = await device.popErrorScope();
      if (error) throw new Error(`${kernel.variant}: ${error.message}`);
      steps.push({ pipeline, group, workgroups: dispatch.workgroups });
    }
    return async (times = 1) => {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (let i = 0; i < times; i++) {
        for (const { pipeline, group, workgroups } of steps) {
          pass.setPipeline(pipeline);
          pass.setBindGroup(0, group);
          pass.dispatchWorkgroups(workgroups[0], workgroups[1], workgroups[2]);
        }
      }
      pass.end();
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
    };
  };
  return {
    features: {
      f16: adapter.features.has("shader-f16"),
      subgroups: adapter.features.has("subgroups"),
      workgroupStorage: limits.maxComputeWorkgroupStorageSize,
      workgroupInvocations: limits.maxComputeInvocationsPerWorkgroup,
      software: options.software ?? true,
    },
    buffer,
    read,
    prepare,
    async run(kernel, io) {
      const inputs = io.inputs.map(buffer), output = buffer(io.output);
      const go = await prepare(kernel, { inputs, output });
      await go();
      const bytes = await read(output);
      for (const b of [...inputs, output]) b.destroy();
      return bytes;
    },
    [Symbol.dispose]: () => device.destroy(),
  };
}

/** Reproducible numbers between −1 and 1. */
export function randoms(count: number, seed = 1): Float32Array {
  let state = seed >>> 0 || 1;
  return Float32Array.from({ length: count }, () => {
    // xorshift32 (Marsaglia, 2003)
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 31 - 1;
  });
}

/** Fails unless every element is within `tolerance` of the largest reference element. */
export function assertNear(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  options: { readonly tolerance: number; readonly what: string },
): void {
  let largest = 1e-30;
  for (let i = 0; i < expected.length; i++) largest = Math.max(largest, Math.abs(expected[i]));
  for (let i = 0; i < expected.length; i++) {
    // Written so that NaN fails.
    if (!(Math.abs(actual[i] - expected[i]) <= options.tolerance * largest)) {
      throw new Error(
        `${options.what}: element ${i} is ${actual[i]}, expected ${
          expected[i]
        } (largest ${largest}).`,
      );
    }
  }
}
