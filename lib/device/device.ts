/**
 * What a device is: it compiles programs, holds state and keeps weights resident.
 *
 * @module
 */
import type { Spec, ValueType } from "../ops/value.ts";
import type { Program } from "../program/program.ts";
import type { ScalarType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * Counts of what a device holds; two equal readings around a step mean that the step created
 * nothing.
 */
export interface DeviceMemory {
  /** Bytes of all buffers that are alive. */
  readonly bytes: number;
  /** Buffers alive, and how many were ever created. */
  readonly buffers: number;
  /** Buffers created since the device was opened. */
  readonly buffersCreated: number;
  /** Pipelines (or sessions) created since the device was opened. */
  readonly pipelinesCreated: number;
  /** Bind groups created since the device was opened. */
  readonly bindGroupsCreated: number;
}

/** A set of named values that live on a device and that programs update in place. */
export interface State extends Disposable {
  /** What it holds. */
  readonly specs: Readonly<Record<string, Spec>>;
  /** Replaces the contents of one entry. */
  write(name: string, value: Tensor): Promise<void>;
  /** Copies one entry to the host. */
  read(name: string): Promise<Tensor>;
}

/** Compiles a program while its weights come to the device. */
export async function compileWith(
  device: Device,
  program: Program,
  inputs: Readonly<Record<string, Tensor>>,
): Promise<Executable> {
  const [executable] = await Promise.all([
    device.compile(program),
    device.preload(program, inputs),
  ]);
  return executable;
}

/** A compiled program. Devices keep one per structure and shape; it lives as long as its device. */
export interface Executable {
  /** What was compiled. */
  readonly program: Program;
  /**
   * Runs the program. Every input of role `weight` or `data` is given by name; `state` holds those
   * of role `state`, and takes the program's updates. Outputs are on the host. Outputs that only
   * feed updates need not be read: name what you want in `read` (all outputs that are not updates
   * by default).
   */
  run(
    inputs: Readonly<Record<string, Tensor>>,
    options?: { readonly state?: State; readonly read?: readonly string[] },
  ): Promise<Readonly<Record<string, Tensor>>>;
}

/** Something that runs programs. */
export interface Device extends Disposable {
  /** Which kind it is. */
  readonly kind: "webgpu" | "cpu";
  /** The adapter's or processor's own description. */
  readonly description: string;
  /**
   * The type in which weights stored as `dtype` stay resident. Block types stay as they are (see
   * `matmulQuantized`).
   */
  weightType(dtype: ScalarType): ValueType;
  /** Compiles a program, or gives the executable that it already has for one with the same key. */
  compile(program: Program): Promise<Executable>;
  /**
   * Brings weights of a program to the device, which may take as long as compiling it: do both at once.
   * Those that a run needs and that are not there come with the run.
   */
  preload(program: Program, inputs: Readonly<Record<string, Tensor>>): Promise<void>;
  /** Zeroed state. */
  createState(specs: Readonly<Record<string, Spec>>): State;
  /** Gives up the resident copies of these weights; they come back when they are used again. */
  release(weights: Iterable<Tensor>): void;
  /** What it holds now. */
  memory(): DeviceMemory;
}
