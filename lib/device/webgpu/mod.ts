/**
 * The WebGPU device: programs become WGSL kernels on `navigator.gpu`.
 *
 * @module
 */
import { STORAGE } from "../../../kernels/wgsl.ts";
import { DeviceError, UnsupportedError } from "../../errors.ts";
import type { Spec, ValueType } from "../../ops/value.ts";
import type { Program } from "../../program/program.ts";
import { remembered } from "../../tensor/computed.ts";
import { isFloating, type ScalarType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Device, DeviceMemory, State } from "../device.ts";
import { type AdapterOptions, openAdapter } from "./adapter.ts";
import { compileProgram } from "./compile.ts";
import type { Core } from "./core.ts";
import { createExecutable, type GpuExecutable } from "./executable.ts";
import { createMemory, createScratchPool, createStagingPool } from "./memory.ts";
import { createPipelineCache } from "./pipelines.ts";
import { type KernelTime, profileRun } from "./profile.ts";
import { GpuState } from "./state.ts";
import { createTuner, UNTUNED } from "./tune.ts";
import { createWeights } from "./weights.ts";

export type { KernelTime };

/** How to open a WebGPU device. */
export interface WebGpuOptions extends AdapterOptions {
  /** Most bytes that resident weights take up; those that were not used for longest make room. No bound by default. */
  readonly memoryBudgetBytes?: number;
  /** Programs whose buffers are kept; the one that was not run for longest gives its own up. 64 by default. */
  readonly maxExecutables?: number;
  /** Measures the variants of large kernels once and remembers the best; without it the first is taken. On by default. */
  readonly tune?: boolean;
  /** Checks each run for validation errors, which is slow. */
  readonly debug?: boolean;
  /** Most bytes of one binding, where that should be less than the adapter allows; larger values are split. */
  readonly maxBindingBytes?: number;
}

/** A device on WebGPU. */
export interface WebGpuDevice extends Device {
  /** Which kind it is. */
  readonly kind: "webgpu";
  /** A software adapter, which the CPU device outruns; `device: "auto"` does not take it. */
  readonly isFallback: boolean;
  /** The device underneath. */
  readonly gpu: GPUDevice;
  /**
   * Runs a program once and times each of its kernels, with a pass of its own for each.
   *
   * @throws {UnsupportedError} where the adapter has no timestamp queries.
   */
  profile(
    program: Program,
    inputs: Readonly<Record<string, Tensor>>,
    options?: { readonly state?: State },
  ): Promise<readonly KernelTime[]>;
}

/**
 * Opens a WebGPU device.
 *
 * @throws {DeviceError} where there is no WebGPU or no adapter.
 *
 * @example
 * ```ts
 * import { createWebGpuDevice, input, mul, tensor, trace } from "@graft/peft";
 * using device = await createWebGpuDevice();
 * const double = trace((g) => ({ y: mul(input(g, "x", { shape: [3], dtype: "f32" }), 2) }));
 * const { y } = await (await device.compile(double)).run({ x: tensor([1, 2, 3]) });
 * console.log(await y.data()); // Float32Array [2, 4, 6]
 * ```
 */
export async function createWebGpuDevice(options: WebGpuOptions = {}): Promise<WebGpuDevice> {
  const { gpu, description, isFallback, features } = await openAdapter(options);
  const { maxExecutables = 64, memoryBudgetBytes = Infinity, debug = false } = options;
  const memory = createMemory(gpu);
  const staging = createStagingPool(memory);
  const pipelines = createPipelineCache(gpu, memory);
  let failure: DeviceError | null = null;
  let disposed = false;

  gpu.addEventListener("uncapturederror", (event) => {
    event.preventDefault();
    const { error } = event as GPUUncapturedErrorEvent;
    const outOfMemory = error.constructor.name === "GPUOutOfMemoryError";
    failure ??= new DeviceError(
      outOfMemory ? "DEVICE_MEMORY" : "DEVICE_VALIDATION",
      `The WebGPU device reported: ${error.message}`,
    );
  });
  let lost: DeviceError | null = null;
  gpu.lost.then(({ reason, message }) => {
    if (disposed) return;
    lost = new DeviceError(
      "DEVICE_LOST",
      `The WebGPU device was lost (${
        reason || "unknown reason"
      }): ${message}. Open a new device; weights are loaded again, state is gone.`,
    );
  });

  function alive(): void {
    if (disposed) {
      throw new DeviceError("DEVICE_DISPOSED", "The WebGPU device was disposed of already.");
    }
    if (lost) throw lost;
  }

  const inFlight: Promise<unknown>[] = [];
  let unread = 0;
  const core: Core = {
    gpu,
    features,
    memory,
    staging,
    scratch: createScratchPool(memory),
    weights: createWeights(gpu, memory, memoryBudgetBytes),
    pipelines,
    tuner: options.tune === false ? UNTUNED : createTuner(gpu, { memory, pipelines }),
    maxBinding: Math.min(
      options.maxBindingBytes ?? Infinity,
      gpu.limits.maxStorageBufferBindingSize,
    ),
    alignment: gpu.limits.minStorageBufferOffsetAlignment,
    debug,
    async check() {
      alive();
      await memory.check();
      if (!failure) return;
      const error = failure;
      failure = null;
      throw error;
    },
    async throttle() {
      // Asking takes Deno 10 ms however short the work is, so only some runs are asked for.
      if (++unread % 4 === 0) inFlight.push(gpu.queue.onSubmittedWorkDone());
      while (inFlight.length > 2) await inFlight.shift();
    },
    write(buffer, bytes) {
      gpu.queue.writeBuffer(buffer.gpu, 0, bytes);
    },
    async read(buffer, bytes) {
      await core.check();
      const target = staging.take(bytes);
      const encoder = gpu.createCommandEncoder();
      encoder.copyBufferToBuffer(buffer.gpu, 0, target.gpu, 0, bytes);
      gpu.queue.submit([encoder.finish()]);
      await target.gpu.mapAsync(GPUMapMode.READ);
      const contents = new Uint8Array(target.gpu.getMappedRange()).slice(0, bytes);
      target.gpu.unmap();
      staging.give(target);
      await core.check();
      return contents;
    },
  };
  const executables = new Map<string, Promise<GpuExecutable>>();

  async function compile(program: Program): Promise<GpuExecutable> {
    await core.check();
    const { key } = program;
    const known = executables.get(key);
    if (known) {
      // The one that was used last is the last to go.
      executables.delete(key);
      executables.set(key, known);
      return await known;
    }
    const made = remembered(
      executables,
      key,
      async () => createExecutable(core, program, await compileProgram(core, program)),
    );
    if (executables.size > maxExecutables) {
      const [[oldest, evicted]] = executables;
      executables.delete(oldest);
      evicted.then((e) => e.release(), () => {});
    }
    return await made;
  }

  return {
    kind: "webgpu",
    description,
    isFallback,
    gpu,
    weightType: (dtype) => weightType(dtype, features.f16),
    compile,
    async preload(program, inputs) {
      await core.check();
      const wanted = [...program.inputs].flatMap(([name, { dtype, attributes }]) =>
        attributes.role === "weight" && inputs[name] ? [{ tensor: inputs[name], dtype, name }] : []
      );
      (await core.weights.pin(wanted))();
    },
    createState(specs: Readonly<Record<string, Spec>>): State {
      alive();
      return new GpuState(core, specs);
    },
    async profile(program, inputs, runOptions) {
      return await profileRun(core, await compile(program), { inputs, options: runOptions });
    },
    release: (weights: Iterable<Tensor>) => core.weights.release(weights),
    memory: (): DeviceMemory => memory.report(),
    [Symbol.dispose]() {
      if (disposed) return;
      disposed = true;
      executables.clear();
      core.weights.clear();
      gpu.destroy();
    },
  };
}

function weightType(dtype: ScalarType, f16: boolean): ValueType {
  if (dtype === "c64") {
    throw new UnsupportedError("DTYPE_DEVICE", "Complex numbers cannot be used on a device.");
  }
  if (dtype === "f64" || (dtype === "f16" && !f16)) return "f32";
  if (dtype in STORAGE) return dtype as ValueType;
  // Every value of an 8-bit or smaller float is one of bf16, too.
  return isFloating(dtype) ? "bf16" : "i32";
}
