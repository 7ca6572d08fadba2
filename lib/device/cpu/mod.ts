/**
 * The CPU device: programs become ONNX models in memory and run in ONNX Runtime.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import type { ValueType } from "../../ops/value.ts";
import type { Program } from "../../program/program.ts";
import { remembered } from "../../tensor/computed.ts";
import { isFloating, type ScalarType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Device } from "../device.ts";
import { type CpuContext, type CpuExecutable, createExecutable } from "./executable.ts";
import { createFamilies } from "./families.ts";
import { createResidency } from "./residency.ts";
import type { Session } from "./session.ts";
import { CpuState } from "./state.ts";

/** How the CPU device is opened. */
export interface CpuDeviceOptions {
  /** Threads per operator; all cores by default. */
  readonly threads?: number;
}

/** The CPU device. */
export interface CpuDevice extends Device {
  /** Which kind it is. */
  readonly kind: "cpu";
  /** Threads per operator. */
  readonly threads: number;
}

/**
 * Opens the CPU device. Weights in f32 are read where they lie, without a copy; 16-bit weights are kept in f32; block-quantized ones stay packed.
 *
 * @param options How many threads to use.
 * @throws {DeviceError} where ONNX Runtime has no library for this system.
 */
export async function createCpuDevice(options: CpuDeviceOptions = {}): Promise<CpuDevice> {
  const threads = options.threads ?? navigator.hardwareConcurrency;
  const runtime = await loadRuntime();
  const residency = createResidency(runtime);
  const executables = new Map<string, Promise<CpuExecutable>>();
  const sessions = new Set<Session>();
  const states = new Set<CpuState>();
  let queue: Promise<unknown> = Promise.resolve();
  let sessionsCreated = 0, statesCreated = 0, disposed = false;

  const context: CpuContext = {
    runtime,
    threads,
    residency,
    families: createFamilies(),
    check() {
      if (disposed) throw new DeviceError("DISPOSED", "The CPU device was disposed of.");
    },
    enqueue(task) {
      const result = queue.then(task);
      queue = result.catch(() => {});
      return result;
    },
    opened(session) {
      sessions.add(session);
      sessionsCreated++;
    },
    closed(session) {
      // What is running finishes first.
      if (sessions.delete(session)) context.enqueue(() => session.release());
    },
  };

  async function open(program: Program): Promise<CpuExecutable> {
    const executable = createExecutable(program, context);
    await executable.open();
    return executable;
  }

  return {
    kind: "cpu",
    threads,
    description: `ONNX Runtime ${
      runtime.env.versions.node ?? runtime.env.versions.common
    }, ${threads} thread${threads === 1 ? "" : "s"}`,
    weightType: (dtype: ScalarType): ValueType => isFloating(dtype) ? "f32" : dtype as ValueType,
    compile(program) {
      context.check();
      return remembered(executables, program.key, () => open(program));
    },
    // Weights are read where they lie.
    preload: () => Promise.resolve(),
    createState(specs) {
      context.check();
      const state: CpuState = new CpuState(runtime, specs, () => states.delete(state));
      states.add(state);
      statesCreated += Object.keys(specs).length;
      return state;
    },
    release(weights: Iterable<Tensor>) {
      const gone = new Set(weights);
      for (const weight of gone) residency.release(weight);
      for (const pending of executables.values()) {
        pending.then((e) => e.release(gone), () => {});
      }
    },
    memory() {
      const weights = residency.counts();
      let bytes = weights.bytes, buffers = weights.buffers;
      for (const state of states) {
        bytes += state.bytes;
        buffers += Object.keys(state.specs).length;
      }
      return {
        bytes,
        buffers,
        buffersCreated: weights.created + statesCreated,
        pipelinesCreated: sessionsCreated,
        bindGroupsCreated: 0,
      };
    },
    [Symbol.dispose]() {
      if (disposed) return;
      disposed = true;
      executables.clear();
      for (const state of [...states]) state[Symbol.dispose]();
      for (const session of [...sessions]) context.closed(session);
    },
  };
}

async function loadRuntime(): Promise<CpuContext["runtime"]> {
  try {
    return (await import("onnxruntime-node")).default as unknown as CpuContext["runtime"];
  } catch (error) {
    throw new DeviceError(
      "NO_RUNTIME",
      `ONNX Runtime could not be loaded (${
        (error as Error).message
      }). It has libraries for Linux, macOS and Windows on x64 and arm64; allow FFI and reading (deno run -A).`,
    );
  }
}
